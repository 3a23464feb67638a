"""A Ray head of a test's own, to which jobs are submitted."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.processes import below_this_process, free_ports
from pipeline.tiny import tiny_config

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Head:
    """A running head, and the environment that its clients need."""

    dashboard: str
    metrics: str
    environment: dict[str, str]

    def submit(self, *arguments: str, verb: str = "run") -> subprocess.CompletedProcess[str]:
        command = [
            str(BIN / "ray"), "job", "submit", "--address", self.dashboard,
            "--working-dir", ".", "--", "python", "-m", "tskd_ray", verb, *arguments,
        ]  # fmt: skip
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False
        )


@contextmanager
def running_head() -> Generator[Head]:
    """The head, and nothing that it started afterwards."""
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
        quick = {"metrics_report_interval_ms": 1000}
        command = [
            str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", "--num-gpus=0",
            "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1",
            "--include-dashboard=true", f"--object-store-memory={200 << 20}",
            f"--temp-dir={folder}", f"--system-config={json.dumps(quick)}",
            *(f"--{name}={port}" for name, port in ports.items()),
        ]  # fmt: skip
        before = set(below_this_process(""))
        with (Path(folder) / "head.log").open("w") as log:
            started = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        dashboard = f"http://127.0.0.1:{ports['dashboard-port']}"
        try:
            _wait_for(dashboard, environment["RAY_AUTH_TOKEN"], started)
            metrics = f"http://127.0.0.1:{ports['metrics-export-port']}/metrics"
            yield Head(dashboard, metrics, environment)
        finally:
            ours = set(below_this_process("")) - before
            started.terminate()
            with suppress(subprocess.TimeoutExpired):
                started.wait(timeout=20)
            for pid in ours:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            started.wait()


def _wait_for(url: str, token: str, head: subprocess.Popen[bytes]) -> None:
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


def tiny_settings(storage: Path, folder: Path) -> str:
    """The path of a file of the tiny configuration, on Ray."""
    document = tiny_config(storage).model_dump(mode="json")
    document["compute"]["mode"] = "ray"
    path = folder / "tiny.yaml"
    path.write_text(json.dumps(document))  # JSON is YAML
    return str(path)
