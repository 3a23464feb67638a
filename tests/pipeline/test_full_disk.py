"""A disk that is really full, at several moments of a run: a line, and then the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.tiny import result_bytes, tiny_config
from tskd_ray.errors import StorageError
from tskd_ray.pipeline.room import require_room
from tskd_ray.pipeline.run import RunResult

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]

SCRIPT = """
import json, os, shutil, subprocess, sys
from pathlib import Path
sys.path.insert(0, TESTS)
from pipeline.tiny import result_bytes

disk, config = Path(sys.argv[1]), sys.argv[2]
said = []

def run(kilobytes):
    how = f"remount,size={kilobytes}k" if said else f"size={kilobytes}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", how, "tmpfs", disk], check=True)
    done = subprocess.run([sys.executable, "-m", "tskd_ray", "run", config, "--quiet"],
                          capture_output=True, text=True)
    said.append((done.returncode, done.stderr.strip()))

run(3000)
run(100_000)
expected = result_bytes(disk / "store" / "runs" / "tiny")
shutil.rmtree(disk / "store" / "runs")  # then the artifacts fit, and the run's folder does not
used = os.statvfs(disk).f_blocks - os.statvfs(disk).f_bfree
run(used * os.statvfs(disk).f_frsize // 1024 + 300)
run(100_000)
print(json.dumps([said, expected, result_bytes(disk / "store" / "runs" / "tiny")]))
""".replace("TESTS", repr(str(Path(__file__).parents[1])))


def can_mount() -> bool:
    try:
        return (
            subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode
            == 0
        )
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not can_mount(), reason="needs a file system of its own")
def test_a_run_on_a_disk_that_fills_goes_on_once_there_is_room(
    tmp_path: Path, undisturbed: RunResult
) -> None:
    disk, config = tmp_path / "disk", tmp_path / "tiny.yaml"
    disk.mkdir()
    config.write_text(tiny_config(disk / "store").model_dump_json())
    done = subprocess.run(
        [*NAMESPACE, sys.executable, "-c", SCRIPT, disk, config],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said, first, last = json.loads(done.stdout)
    assert [code for code, _ in said] == [2, 0, 2, 0], said
    for code, message in said:
        if code:
            assert message.startswith("tskd: The storage must have room. "), message
            assert "\n" not in message
    assert first == last == result_bytes(undisturbed.folder)


def test_what_would_not_fit_is_not_begun(tmp_path: Path) -> None:
    require_room(tmp_path, 1, "A byte")
    with pytest.raises(
        StorageError, match=r"must have room\. The dataset of 1099511627776\.0 MiB"
    ):
        require_room(tmp_path, 1 << 60, "The dataset")
