"""`ray job submit` as the README shows it, on a head of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.tiny import result_bytes
from ray_head import Head, tiny_settings
from tskd_ray.pipeline.run import RunResult

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_a_job_gives_the_bytes_of_a_local_run(
    head: Head, tmp_path: Path, undisturbed: RunResult
) -> None:
    storage = tmp_path / "storage"
    done = head.submit(tiny_settings(storage, tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "TSKD student" in done.stdout
    folder = storage / "runs" / "tiny"
    assert (folder / "report.html").stat().st_size > 0
    assert result_bytes(folder) == result_bytes(undisturbed.folder)


def test_a_job_with_a_bad_setting_fails_with_its_line(head: Head, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    done = head.submit(tiny_settings(storage, tmp_path), "stitch.epocs=3")
    told = done.stdout + done.stderr
    assert done.returncode == 1, told
    assert "Did you mean stitch.epochs?" in told
    assert "exit code 2" in told
    assert not storage.exists()
