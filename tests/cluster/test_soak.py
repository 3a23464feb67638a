"""The soak in short: a few kills, and the bytes of the undisturbed run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "scripts" / "soak.py"

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_a_run_that_is_killed_at_random_ends_with_the_same_bytes(tmp_path: Path) -> None:
    log = tmp_path / "soak.jsonl"
    done = subprocess.run(
        [sys.executable, SOAK, "--kills", "4", "--minutes", "8", "--seed", "1", "--log", log],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert sum(event["event"] == "kill" for event in events) == 4
    runs = [event for event in events if event["event"] == "run"]
    assert runs
    assert {run["verdict"] for run in runs} == {"equal"}
