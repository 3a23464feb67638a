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
from typing import Any

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
    address: str

    def submit(self, *arguments: str, verb: str = "run") -> subprocess.CompletedProcess[str]:
        command = [
            str(BIN / "ray"), "job", "submit", "--address", self.dashboard,
            "--working-dir", ".", "--", "python", "-m", "tskd_ray", verb, *arguments,
        ]  # fmt: skip
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False
        )


@contextmanager
def running_head(worker_types: dict[str, Any] | None = None) -> Generator[Head]:
    """The head, and nothing that it started afterwards.

    Args:
        worker_types: Resources by name, of up to two nodes each that an autoscaler starts as
            processes beside a head without CPUs; default: a head with two, and no autoscaler.
    """
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
        clients = dict(environment)
        more: list[str] = []
        if worker_types is not None:
            more = [f"--autoscaling-config={_fake_cloud(folder, ports['port'], worker_types)}"]
            environment |= {
                "RAY_FAKE_CLUSTER": "1",
                "AUTOSCALER_UPDATE_INTERVAL_S": "1",
                "RAY_enable_autoscaler_v2": "1",
                "RAY_CLOUD_INSTANCE_ID": _HEAD_ID,
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID,
            }
        cpus = 2 if worker_types is None else 0
        command = [
            str(BIN / "ray"), "start", "--head", "--block", f"--num-cpus={cpus}",
            "--num-gpus=0", *more,
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
            yield Head(dashboard, metrics, clients, f"127.0.0.1:{ports['port']}")
        finally:
            ours = set(below_this_process("")) - before
            started.terminate()
            with suppress(subprocess.TimeoutExpired):
                started.wait(timeout=20)
            for pid in ours:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            started.wait()


_HEAD_ID = "f" * 51 + "00000"


def _fake_cloud(folder: str, port: int, worker_types: dict[str, Any]) -> Path:
    """A file that has the autoscaler start its nodes on this machine."""
    module = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    config = {
        "cluster_name": "fake",
        "max_workers": 2 * len(worker_types),
        "idle_timeout_minutes": 5,
        # "external": the wheel lacks a file that its own name for this provider asks for
        "provider": {
            "type": "external",
            "module": module,
            "gcs_address": f"127.0.0.1:{port}",
            "head_node_id": _HEAD_ID,
            "launch_multiple": True,
        },
        "available_node_types": {
            "ray.head.default": head,
            **{
                name: {
                    "resources": resources,
                    "node_config": {},
                    "min_workers": 0,
                    "max_workers": 2,
                }
                for name, resources in worker_types.items()
            },
        },
        "head_node_type": "ray.head.default",
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{
            name: []
            for name in (
                "initialization_commands", "setup_commands", "head_setup_commands",
                "worker_setup_commands", "head_start_ray_commands",
                "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude",
                "rsync_filter",
            )
        },
    }  # fmt: skip
    path = Path(folder) / "autoscaler.json"
    path.write_text(json.dumps(config))  # JSON is YAML
    return path


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
