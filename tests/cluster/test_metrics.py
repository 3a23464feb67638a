"""What Prometheus finds on a node while a run works there."""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import pytest

from ray_head import Head, tiny_settings
from tskd_ray.distributed.metrics import GAUGES

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

_LINE = re.compile(r'^(ray_tskd_\w+)\{.*run="(\w+)",stage="([\w-]+)"\} (\S+)$', re.MULTILINE)


def test_stages_of_a_run_are_on_the_metrics_endpoint(head: Head, tmp_path: Path) -> None:
    seen: dict[tuple[str, str], set[float]] = defaultdict(set)
    ended = threading.Event()

    def scrape() -> None:
        while not ended.is_set():
            with suppress(OSError):
                answer = urllib.request.urlopen(head.metrics, timeout=5).read().decode()
                for name, run, stage, value in _LINE.findall(answer):
                    if run == "tiny":
                        seen[name, stage].add(float(value))
            time.sleep(0.5)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        done = head.submit(
            tiny_settings(tmp_path / "storage", tmp_path),
            "generate.trajectories=40",
            "select.minimum_episodes=1",
        )
        time.sleep(3)
    finally:
        ended.set()
        thread.join()
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name for name, stage in seen if stage == "generate-1"} == {
        "ray_tskd_units_total",
        *(f"ray_{name}" for name in GAUGES),
    }
    assert seen["ray_tskd_stage_running", "generate-1"] == {1.0}
    assert seen["ray_tskd_units_planned", "generate-1"] == {40.0}
    assert max(seen["ray_tskd_units_total", "generate-1"]) == 40.0
    assert max(seen["ray_tskd_workers", "generate-1"]) == 2.0
    shards = seen["ray_tskd_shards_left", "generate-1"]
    assert len(shards) > 1
    assert shards <= set(map(float, range(41)))
