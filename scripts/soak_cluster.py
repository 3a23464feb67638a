"""The cluster that `soak.py` kills: a head, and nodes that come and go, all on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from pipeline.processes import free_ports  # soak.py leads to it

NODES = 2
"""Beside the head."""

_POLL = 0.1
_OURS = ("ray::_Host", "ray::call_guarded")
_WORK = (*_OURS, "ray::MapWorker")
_NO_HELP = (*_WORK, "ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")


# -- processes -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Process:
    """One of /proc."""

    pid: int
    parent: int
    began: str
    name: str
    title: str

    def does(self, kind: str) -> bool:
        """Whether it is such a process of a run.

        Args:
            kind: "worker": does a run's work. "hang": the same, in an actor or a task of ours.
                "helper": tells progress or directs work, for us or for Ray Data.
        """
        if kind == "helper":
            return self.title.startswith("ray::") and not self.title.startswith(_NO_HELP)
        return self.title.startswith(_OURS if kind == "hang" else _WORK)


def processes() -> dict[int, Process]:
    """All of this machine, by id."""
    found: dict[int, Process] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended while we looked
            start, _, rest = (folder / "stat").read_text().rpartition(")")
            # the name, in parentheses, may hold spaces
            name, fields = start.partition("(")[2], rest.split()
            title = (folder / "cmdline").read_text(errors="replace").replace("\0", " ").strip()
            pid = int(folder.name)
            found[pid] = Process(pid, int(fields[1]), fields[19], name, title)
    return found


def processes_below(top: int) -> list[Process]:
    """The process itself and all that it started, at any depth."""
    found = processes()

    def is_below(pid: int) -> bool:
        for _ in range(len(found)):
            if pid == top:
                return True
            if pid not in found:
                return False
            pid = found[pid].parent
        return False

    return [process for pid, process in found.items() if is_below(pid)]


def kill(*victims: Process, how: signal.Signals = signal.SIGKILL) -> None:
    """Send the signal, unless it has ended."""
    for process in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, how)


# -- the cluster ---------------------------------------------------------------------------


@dataclass
class Node:
    """`ray start --block`, and what it started."""

    name: str
    started: subprocess.Popen[bytes]
    replaces: bool = False
    has_worked: bool = False

    def processes(self) -> list[Process]:
        return processes_below(self.started.pid)


class Cluster:
    """A head, which lives as long as the soak, and nodes that come and go."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = own_address()
        self.nodes: list[Node] = []
        self.joined: list[Node] = []  # nodes that replaced others
        self._lost: set[tuple[int, str]] = set()  # processes of nodes that were killed
        self._environment = {
            **environment(),
            # Nobody else on this machine may submit work to it.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }
        (self.port,) = free_ports(1)
        # A dead node is told within seconds, not half a minute.
        health = {"health_check_period_ms": 1000, "health_check_initial_delay_ms": 2000}
        options = [
            "--head", f"--port={self.port}", "--include-dashboard=false", "--no-monitor",
            f"--temp-dir={folder}", f"--system-config={json.dumps(health)}",
        ]  # fmt: skip
        self.head = self._start(self.host, *options)

    @property
    def environment(self) -> dict[str, str]:
        """Of a driver."""
        return {**self._environment, "RAY_ADDRESS": f"{self.host}:{self.port}"}

    def add(self, *, replaces: bool = False) -> Node:
        """Start a node; it joins a few seconds later."""
        # An address of its own: a driver takes any node of its address for the one it is on.
        number = len(self.joined) + NODES + 2 if replaces else len(self.nodes) + 2
        node = self._start(
            f"127.0.{number // 250}.{number % 250 + 1}", f"--address={self.host}:{self.port}"
        )
        node.replaces = replaces
        self.nodes.append(node)
        if replaces:
            self.joined.append(node)
        return node

    def remove(self, node: Node, *, at_once: bool) -> None:
        """SIGKILL a node's raylet; `at_once` also all else of it, as when a machine is lost."""
        everything = node.processes()
        raylets = [process for process in everything if process.name == "raylet"]
        self._lost |= {(process.pid, process.began) for process in everything}
        self.nodes.remove(node)
        kill(*(everything if at_once else raylets or everything))

    def find(self, kind: str) -> list[tuple[Node, Process]]:
        """Processes of a run that do such a thing, and where."""
        found: list[tuple[Node, Process]] = []
        for node in [self.head, *self.nodes]:
            processes = node.processes()
            node.has_worked |= any(process.does("worker") for process in processes)
            found += [(node, process) for process in processes if process.does(kind)]
        return found

    def close(self) -> None:
        """SIGKILL all that was started, and wait for it."""
        nodes = [*self.nodes, *self.joined, self.head]
        kill(*(process for node in nodes for process in node.processes()))
        for node in nodes:
            node.started.wait()
        kill(*(one for one in processes().values() if (one.pid, one.began) in self._lost))

    def wait_for_head(self) -> None:
        """Until it answers, so that nodes find it."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if self.head.started.poll() is not None:
                break
            with contextlib.suppress(OSError):
                socket.create_connection((self.host, self.port), timeout=1).close()
                return
            time.sleep(_POLL)
        raise SystemExit("no head:\n" + (self.folder / f"{self.host}.log").read_text()[-2000:])

    def _start(self, address: str, *options: str) -> Node:
        names = (
            "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port",
            "runtime-env-agent-port",
        )  # fmt: skip
        ports = zip(names, free_ports(len(names)), strict=True)
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1",
            "--num-gpus=0", f"--node-ip-address={address}", "--object-store-memory=100000000",
            *(f"--{name}={port}" for name, port in ports), *options,
        ]  # fmt: skip
        with (self.folder / f"{address}.log").open("w") as output:
            started = subprocess.Popen(
                command, env=self._environment, stdout=output, stderr=output
            )
        return Node(address, started)


@contextlib.contextmanager
def cluster_of_nodes(folder: Path) -> Generator[Cluster]:
    """A running cluster, and none of it afterwards."""
    folder.mkdir()
    cluster = Cluster(folder)
    try:
        cluster.wait_for_head()
        for _ in range(NODES):
            cluster.add()
        yield cluster
    finally:
        cluster.close()


def environment() -> dict[str, str]:
    """Of nodes and drivers."""
    return {
        **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }


def own_address() -> str:
    """Of this machine, as Ray sees it: a driver looks for a node of that address."""
    from ray.util import get_node_ip_address

    return get_node_ip_address()
