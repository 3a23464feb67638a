"""`ray job submit` as the README shows it, on a head of the test's own."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.processes import below_this_process
from pipeline.tiny import result_bytes, tiny_config
from tskd_ray.pipeline.run import RunResult

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Head:
    """A running head, and the environment that its clients need."""

    dashboard: str
    environment: dict[str, str]

    def submit(self, *arguments: str, verb: str = "run") -> subprocess.CompletedProcess[str]:
        command = [
            str(BIN / "ray"), "job", "submit", "--address", self.dashboard,
            "--working-dir", ".", "--", "python", "-m", "tskd_ray", verb, *arguments,
        ]  # fmt: skip
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # Short: paths of sockets below it must not exceed 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        names = (
            "port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port",
            "dashboard-agent-grpc-port", "metrics-export-port",
        )  # fmt: skip
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        environment = {
            **{k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "RAY_USAGE_STATS_ENABLED": "0",
            # Nobody else on this machine may submit jobs to it.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }
        command = [
            str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", "--num-gpus=0",
            "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1",
            "--include-dashboard=true", f"--object-store-memory={200 << 20}",
            f"--temp-dir={folder}", *(f"--{name}={port}" for name, port in ports.items()),
        ]  # fmt: skip
        before = set(below_this_process(""))
        with (Path(folder) / "head.log").open("w") as log:
            started = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        dashboard = f"http://127.0.0.1:{ports['dashboard-port']}"
        try:
            wait_for(dashboard, environment["RAY_AUTH_TOKEN"], started)
            yield Head(dashboard, environment)
        finally:
            ours = set(below_this_process("")) - before
            started.terminate()
            with suppress(subprocess.TimeoutExpired):
                started.wait(timeout=20)
            for pid in ours:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            started.wait()


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in held]
    for one in held:
        one.close()
    return ports


def wait_for(url: str, token: str, head: subprocess.Popen[bytes]) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    version = urllib.request.Request(f"{url}/api/version", headers=headers)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert head.poll() is None, "the head ended"
        with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(version, timeout=5).close()
            return
        time.sleep(0.5)
    raise AssertionError("no dashboard")


def settings(storage: Path, folder: Path) -> str:
    document = tiny_config(storage).model_dump(mode="json")
    document["compute"]["mode"] = "ray"
    path = folder / "tiny.yaml"
    path.write_text(json.dumps(document))  # JSON is YAML
    return str(path)


def test_a_job_gives_the_bytes_of_a_local_run(
    head: Head, tmp_path: Path, undisturbed: RunResult
) -> None:
    storage = tmp_path / "storage"
    done = head.submit(settings(storage, tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "TSKD student" in done.stdout
    folder = storage / "runs" / "tiny"
    assert (folder / "report.html").stat().st_size > 0
    assert result_bytes(folder) == result_bytes(undisturbed.folder)


def test_a_job_with_a_bad_setting_fails_with_its_line(head: Head, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    done = head.submit(settings(storage, tmp_path), "stitch.epocs=3")
    told = done.stdout + done.stderr
    assert done.returncode == 1, told
    assert "Did you mean stitch.epochs?" in told
    assert "exit code 2" in told
    assert not storage.exists()
