"""A Ray cluster for the length of a run, and what fits on it.

`RAY_ADDRESS` names an existing cluster; without it one is started on this machine. In `local`
mode nothing here imports Ray.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from tskd_ray.config.schema import ComputeConfig
from tskd_ray.distributed.autoscaler import would_make_room
from tskd_ray.errors import ResourceError

log = logging.getLogger(__name__)

_PROBE_SECONDS = 5.0
"""For a head to take a connection; Ray itself would try for minutes, in silence."""

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Lost workers are announced on stdout, into the middle of `--json`; we log them ourselves.
    "RAY_DEDUP_LOGS": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    # Warnings about Ray's own internals, printed by C++ past Python's logging.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True)
class Node:
    """What one machine of the cluster has in all, busy or not."""

    cpus: float
    gpus: float


@contextlib.contextmanager
def session(compute: ComputeConfig) -> Generator[None]:
    """Ray, connected and checked, while the block runs; shuts down only what it started.

    Args:
        compute: With `mode: local`, Ray is left alone and only the device is checked.

    Raises:
        ResourceError: If the cluster cannot be reached, or can never place one worker, not
            even with what its autoscaler would start.
    """
    if compute.mode == "local":
        _check_local(compute)
        yield
        return
    started = _connect()
    try:
        _check_cluster(compute)
        yield
    finally:
        if started:
            import ray

            ray.shutdown()


def start_options() -> dict[str, Any]:
    """How we call `ray.init`: no dashboard, no Ray voice on the user's terminal."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        return options
    # "local", since plain init would join any cluster that happens to run on this machine
    return {**options, "address": "local", "include_dashboard": False}


def quiet_environment() -> None:
    """Set Ray's environment variables for silence, where the user has not set them."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def cluster_nodes() -> list[Node]:
    """The living nodes of the connected cluster."""
    import ray

    return [
        Node(
            cpus=float(node["Resources"].get("CPU", 0)),
            gpus=float(node["Resources"].get("GPU", 0)),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def smallest_memory(compute: ComputeConfig) -> int:
    """Bytes of memory of the smallest node that workers may run on."""
    own = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if compute.mode == "local":
        return own
    import ray

    nodes = [node["Resources"].get("memory") for node in ray.nodes() if node["Alive"]]
    return int(min([memory for memory in nodes if memory], default=own))


def worker_slots(compute: ComputeConfig, nodes: list[Node], *, gpu: bool) -> int:
    """How many workers fit on the nodes at once, were nothing else running."""
    slots = 0
    for node in nodes:
        fits = math.floor(node.cpus / compute.threads)
        if gpu:
            # 1e-6: a share such as 0.1 must fit ten times
            fits = min(fits, math.floor(node.gpus / compute.gpus_per_worker + 1e-6))
        slots += fits
    return slots


def pool_size(
    compute: ComputeConfig, nodes: list[Node], *, gpu: bool, grows: bool = False
) -> int:
    """Workers to run at once: as configured, but never more than there is room for.

    Args:
        compute: How many, and what each holds.
        nodes: Those there are.
        gpu: Whether each holds its share of a GPU.
        grows: More nodes come where workers wait for them: then as many as are configured.
    """
    slots = worker_slots(compute, nodes, gpu=gpu)
    if grows:
        return compute.workers or slots
    return min(compute.workers, slots) if compute.workers else slots


def check_feasible(compute: ComputeConfig, nodes: list[Node]) -> None:
    """Refuse a plan that could only wait for ever.

    Raises:
        ResourceError: If no node can hold one worker; names what the cluster has.
    """
    has = describe(nodes)
    if not worker_slots(compute, nodes, gpu=False):
        raise ResourceError(
            f"compute.threads CPUs must fit on one node. Got {compute.threads}; the cluster "
            f"has {has}. Lower compute.threads."
        )
    if compute.device == "cuda" and not worker_slots(compute, nodes, gpu=True):
        raise ResourceError(
            "compute.device=cuda needs a node with compute.gpus_per_worker GPUs. Got "
            f"{compute.gpus_per_worker:g} and {compute.threads} CPUs per worker; the cluster "
            f"has {has}. Use compute.device=cpu, or a cluster with GPUs."
        )
    together = worker_slots(compute, nodes, gpu=compute.device == "cuda")
    if together < compute.training_workers:
        raise ResourceError(
            "compute.training_workers must fit on the cluster at once. Got "
            f"{compute.training_workers} of {compute.threads} CPUs each; the cluster has "
            f"{has}, room for {together}. Lower compute.training_workers."
        )


def _check_cluster(compute: ComputeConfig) -> None:
    """`check_feasible`, but what the cluster's autoscaler would start counts as well."""
    nodes = cluster_nodes()
    try:
        check_feasible(compute, nodes)
    except ResourceError:
        bundle = {"CPU": float(compute.threads)}
        if compute.device == "cuda":
            bundle["GPU"] = compute.gpus_per_worker
        if not would_make_room([bundle] * compute.training_workers):
            raise
        log.warning(
            "No room for the workers yet (%s); the cluster's autoscaler can make some.",
            describe(nodes),
        )


def describe(nodes: list[Node]) -> str:
    """The cluster in words, such as "2 node(s): 8 CPUs + 1 GPUs, 4 CPUs + 0 GPUs"."""
    sizes = sorted(((node.cpus, node.gpus) for node in nodes), reverse=True)
    shown = ", ".join(f"{cpus:g} CPUs + {gpus:g} GPUs" for cpus, gpus in sizes[:4])
    return f"{len(nodes)} node(s): {shown}{', …' if len(sizes) > 4 else ''}"


def _check_local(compute: ComputeConfig) -> None:
    cpus = os.cpu_count() or 1
    if compute.threads > cpus:
        raise ResourceError(
            f"compute.threads cannot exceed this machine's CPUs. Got {compute.threads} of "
            f"{cpus}. Lower compute.threads."
        )
    if compute.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ResourceError(
                "compute.device=cuda needs a CUDA device that torch can use. This machine has "
                "none. Use compute.device=cpu."
            )


def _connect() -> bool:
    """Connect unless connected; True if we did and should disconnect."""
    quiet_environment()
    import ray

    if ray.is_initialized():
        return False
    where = os.environ.get("RAY_ADDRESS")
    try:
        if where:
            _probe(where)
        with _silent_stderr(), _own_termination():
            ray.init(**start_options())
    except (OSError, RuntimeError, ValueError) as error:
        text = getattr(error, "strerror", None) or str(error)
        reason = textwrap.shorten(text, 300, placeholder=" …").rstrip(".")
        raise ResourceError(
            f"Ray must answer at RAY_ADDRESS={where}: {reason}. Start it with `ray start "
            "--head`, or unset RAY_ADDRESS."
            if where
            else f"A Ray cluster must start on this machine: {reason}. Free memory or disk, or "
            "use compute.mode=local."
        ) from error
    return True


def _probe(address: str) -> None:
    """Connect to the head and leave again.

    Raises:
        ResourceError: If the address is that of the cluster's web page.
        OSError: If nothing takes the connection.
    """
    if address.startswith(("http://", "https://")):
        raise ResourceError(
            f"RAY_ADDRESS is the head's, such as head:6379. Got {address}. Use head:6379; "
            "http://…:8265 is for `ray job`."
        )
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if not host or not port.isdigit():
        return  # "auto", or what Ray knows better
    end = time.monotonic() + _PROBE_SECONDS
    while True:
        left = max(0.1, end - time.monotonic())
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=left).close()
            return
        except OSError:  # refused at once while a head starts
            if time.monotonic() + _PROBE_PAUSE > end:
                raise
        time.sleep(_PROBE_PAUSE)


_PROBE_PAUSE = 0.5


@contextlib.contextmanager
def _own_termination() -> Generator[None]:
    """A program's handler of SIGTERM outlives `ray.init`, which sets one that exits at once."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        in_main = threading.current_thread() is threading.main_thread()
        if callable(before) and in_main:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _silent_stderr() -> Generator[None]:
    """Nothing reaches the terminal by file descriptor 2: C++ announces the log level there."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
