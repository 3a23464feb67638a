"""`tskd sweep` as a job, on a head that it did not start."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.sweep.tiny_sweep import tiny_sweep
from ray_head import Head
from tskd_ray.report.sweep.data import read_sweep

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_a_sweep_ends_as_a_job_on_two_cpus(head: Head, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    # More trials at once than CPUs, each with Ray Data below it.
    done = head.submit(str(tiny_sweep(storage, tmp_path, concurrent=4)), verb="sweep")
    assert done.returncode == 0, done.stdout + done.stderr
    record = read_sweep(storage / "sweeps/tiny-sweep")
    assert [trial.state for trial in record.trials] == ["done"] * 4
    # The workers are not below the driver: what they took is known by their artifacts.
    assert record.cpu_seconds > sum(trial.marginal_cpu_seconds for trial in record.trials)
