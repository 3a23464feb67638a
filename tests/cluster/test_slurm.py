"""`cluster/slurm.sbatch`, run against stubs of Ray and srun that note what they are told."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster/slurm.sbatch"

SRUN = """#!/usr/bin/env bash
echo "srun $*" >> "$LOG"
while [ "$1" != ray ]; do shift; done
exec "$@"
"""

# The head answers once it runs; each call of `list nodes` finds one more; a step lasts until it
# is told to end.
RAY = """#!/usr/bin/env bash
trap 'echo ended >> "$LOG"; exit 0' TERM
token=$(stat -c %a "$RAY_AUTH_TOKEN_PATH")/$(wc -c < "$RAY_AUTH_TOKEN_PATH")
echo "ray $(printf '%q ' "$@")[$RAY_AUTH_MODE $token]" >> "$LOG"
case "$1 $2 $*" in
  "start "*--address=*) [ -z "${WORKER_ENDS:-}" ] || kill $$ ;;&
  "start "*) while true; do sleep 0.05; done ;;
  health-check*) grep -q '^ray start .* --head' "$LOG" ;;
  "list nodes"*)
    echo '{"node_id": "x"}' >> "$LOG.joined"
    echo "[$(paste -sd , "$LOG.joined")]" ;;
  "job submit"*)
    trap - TERM
    [ -z "${JOB_LASTS:-}" ] || exec sleep 60
    exit "$JOB_EXITS" ;;
esac
"""


@dataclass(frozen=True)
class Slurm:
    """A checkout with stubs for Ray and srun, and what both were told."""

    folder: Path
    environment: dict[str, str]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list[Any])

    def start(self, **more: str) -> subprocess.Popen[bytes]:
        with (self.folder / "errors").open("wb") as errors:
            script = subprocess.Popen(
                ["bash", str(SCRIPT), "run", "small", "name=two words"],
                env=self.environment | more, stderr=errors, start_new_session=True,
            )  # fmt: skip
        self.started.append(script)
        return script

    def end(self, **more: str) -> tuple[int, str]:
        """Exit status and complaints of a whole script."""
        status = self.start(**more).wait(timeout=120)
        return status, (self.folder / "errors").read_text()

    def told(self) -> list[str]:
        log = self.folder / "log"
        return log.read_text().splitlines() if log.exists() else []

    def wait_for(self, text: str, count: int = 1) -> None:
        deadline = time.monotonic() + 60
        while sum(text in line for line in self.told()) < count:
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.05)


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    stubs = tmp_path / ".venv/bin"
    stubs.mkdir(parents=True)
    for name, text in (("ray", RAY), ("srun", SRUN)):
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    (stubs / "python").symlink_to(sys.executable)
    home = tmp_path / "home"
    home.mkdir()
    slurm = Slurm(
        tmp_path,
        {
            "PATH": os.environ["PATH"], "HOME": str(home), "LOG": str(tmp_path / "log"),
            "SLURM_SUBMIT_DIR": str(tmp_path), "SLURMD_NODENAME": "node1",
            "SLURM_JOB_NUM_NODES": "3", "SLURM_CPUS_PER_TASK": "8", "JOB_EXITS": "0",
        },
    )  # fmt: skip
    try:
        yield slurm
        # The token is gone, and Ray with the steps that held it.
        assert list(home.iterdir()) == []
        slurm.wait_for("ended", sum(line.startswith("ray start") for line in slurm.told()))
    finally:
        for script in slurm.started:
            with suppress(ProcessLookupError):
                os.killpg(script.pid, signal.SIGKILL)
            script.wait()


@pytest.mark.parametrize("status", [0, 1])
def test_the_batch_script_ends_as_its_job_does(slurm: Slurm, status: int) -> None:
    assert slurm.end(JOB_EXITS=str(status)) == (status, "")
    told = slurm.told()
    assert all(line.endswith("[token 600/65]") for line in told if line.startswith("ray"))
    spans = [line for line in told if line.startswith("srun")]
    assert "--nodes=1 --ntasks=1 --nodelist=node1 ray start --block" in spans[0]
    assert spans[0].endswith("--num-cpus=8 --num-gpus=0 --head --port=6379")
    assert "--nodes=2 --ntasks=2 --exclude=node1 ray start --block" in spans[1]
    assert spans[1].endswith("--address=node1:6379")
    # all three have joined before the job is submitted, once
    order = [line.split(" [")[0] for line in told if line.startswith(("ray list", "ray job"))]
    assert [line[:8] for line in order] == ["ray list"] * 3 + ["ray job "]
    assert order[-1].endswith("-- python -m tskd_ray run small name=two\\ words")


def test_the_batch_script_gives_up_if_a_node_ends_early(slurm: Slurm) -> None:
    status, errors = slurm.end(WORKER_ENDS="1", SLURM_JOB_NUM_NODES="9")
    assert status == 1
    assert "Ray ended on a node before the cluster was complete." in errors
    assert not any("job submit" in line for line in slurm.told())


def test_the_batch_script_gives_up_if_nodes_are_missing_for_long(slurm: Slurm) -> None:
    status, errors = slurm.end(TSKD_PATIENCE="3", SLURM_JOB_NUM_NODES="99")
    assert status == 1
    assert "Not all nodes have joined within 3 s." in errors


def test_the_batch_script_stops_everything_on_a_signal(slurm: Slurm) -> None:
    script = slurm.start(JOB_LASTS="1", SLURM_JOB_NUM_NODES="1")
    slurm.wait_for("ray job submit")
    script.send_signal(signal.SIGTERM)
    assert script.wait(timeout=120) == 128 + signal.SIGTERM


def test_the_batch_script_is_clean() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    if linter := shutil.which("shellcheck"):
        subprocess.run([linter, str(SCRIPT)], check=True)
