"""Runs in processes of their own, to be killed."""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from tskd_ray.config.schema import Config

# Forked from a process that has loaded all this, a driver begins at once, not after 3 seconds.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "minari", "onnx", "scipy.sparse.linalg", "tskd_ray.evaluation.offline",
        "tskd_ray.diffusion.ddr", "tskd_ray.pipeline.run",
    ]
)  # fmt: skip


def start(config: Config, address: str | None = None) -> BaseProcess:
    """A driver of that run; on the cluster with that address, which no forked one reaches."""
    context = _FORKS if address is None else multiprocessing.get_context("spawn")
    child = context.Process(target=_drive, args=(config.model_dump_json(), address))
    child.start()
    return child


def _drive(config: str, address: str | None) -> None:
    if address is not None:
        os.environ["RAY_ADDRESS"] = address
    from tskd_ray.pipeline.run import run

    run(Config.model_validate_json(config))


def kill_at(mark: str, child: BaseProcess, artifacts: Path) -> None:
    """SIGKILL the driver as soon as a file of that name is there."""
    deadline = time.monotonic() + 120
    while not list(artifacts.glob(mark)):
        assert child.is_alive(), f"ended before {mark}"
        assert time.monotonic() < deadline, f"never came to {mark}"
        time.sleep(0.02)
    child.kill()
    child.join()


def ended_well(child: BaseProcess) -> bool:
    child.join(timeout=300)
    return child.exitcode == 0
