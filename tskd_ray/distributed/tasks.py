"""Independent named functions: each a Ray task, or one after the other in process."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tskd_ray.config.schema import ComputeConfig
from tskd_ray.distributed.guard import guard
from tskd_ray.distributed.metrics import count_lost_worker
from tskd_ray.distributed.outcome import (
    Failure,
    outcome,
    perhaps_hung,
    raise_failure,
)
from tskd_ray.errors import StageError
from tskd_ray.models.threads import torch_threads
from tskd_ray.progress import Progress, silent

_POLL_SECONDS = 0.5
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A call `function(**arguments, progress=...)` that a worker process can make.

    The function is picklable (defined at the top of a module), tells its progress, and leaves
    large results in folders that it is given: what it returns travels through memory.
    """

    function: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    gpu: bool = True
    """Hold `compute.gpus_per_worker` GPUs while it runs, if `compute.device` is cuda."""


def _nobody(name: str) -> Progress:
    return silent


def run_tasks(
    tasks: Mapping[str, Task],
    compute: ComputeConfig,
    *,
    progress: Callable[[str], Progress] = _nobody,
) -> dict[str, Any]:
    """Run every task once; in parallel on the connected cluster unless `compute.mode` is local.

    Args:
        tasks: By name; none needs another's result.
        compute: Each task holds `threads` CPUs and runs with that many torch threads. A task
            whose worker is lost runs again, up to `max_attempts` times in all; a worker that
            gives no sign of life for `hang_timeout` is killed, and so lost.
        progress: Given a task's name, whom to tell how far it is.

    Returns:
        What each returned, by name, in the order given.

    Raises:
        TskdError: What a task raised, as it is. The others are then stopped.
        StageError: For anything else that a task raised, or workers lost too often.
    """
    if compute.mode == "local":
        return {
            name: _value(call_task(task, compute.threads, progress(name)), name)
            for name, task in tasks.items()
        }
    return _run_on_ray(tasks, compute, progress)


def call_task(task: Task, threads: int, progress: Progress = silent) -> Any:
    """What the task returns, or the Failure of what it raises."""
    with torch_threads(threads):
        return outcome(lambda: task.function(**task.arguments, progress=progress))


def call_guarded(task: Task, compute: ComputeConfig, progress: Progress = silent) -> Any:
    """The same in a worker, which is killed if it hangs."""
    with guard(compute.hang_timeout).at_work():
        return call_task(task, compute.threads, progress)


def _value(result: Any, name: str) -> Any:
    if isinstance(result, Failure):
        raise_failure(result, f"Task {name}")
    return result


def _run_on_ray(
    tasks: Mapping[str, Task], compute: ComputeConfig, progress: Callable[[str], Progress]
) -> dict[str, Any]:
    import ray
    from ray.exceptions import RayError

    remote: Any = ray.remote  # typed for plain functions only
    hub: Any = remote(num_cpus=0)(_Board).remote()
    tellers = {name: progress(name) for name in tasks}  # one bar and one rate each
    attempts: Counter[str] = Counter()
    running: dict[Any, tuple[str, float]] = {}
    results: dict[str, Any] = {}

    def start(name: str) -> None:
        attempts[name] += 1
        gpus = compute.gpus_per_worker if tasks[name].gpu and compute.device == "cuda" else 0
        # no retries by Ray: it would retry running out of memory for ever
        call = remote(num_cpus=compute.threads, num_gpus=gpus, max_retries=0)(call_guarded)
        reference = call.remote(tasks[name], compute, _Teller(hub, name))
        running[reference] = name, time.monotonic()

    try:
        for name in tasks:
            start(name)
        while running:
            done, _ = ray.wait(list(running), timeout=_POLL_SECONDS)
            _pass_on(hub, tellers)
            for reference in done:
                name, since = running.pop(reference)
                try:
                    result = ray.get(reference)
                except RayError as error:
                    count_lost_worker(stage=name)
                    why = perhaps_hung(time.monotonic() - since, compute)
                    _check_attempts(name, attempts[name], compute, error, why)
                    start(name)
                else:
                    results[name] = _value(result, name)
        _pass_on(hub, tellers)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        ray.kill(hub)
    return {name: results[name] for name in tasks}


def _check_attempts(
    name: str, attempts: int, compute: ComputeConfig, error: Exception, why: str
) -> None:
    log.warning(
        "Task %s lost its worker (%s), attempt %d of %d.",
        name, type(error).__name__, attempts, compute.max_attempts, extra={"stage": name},
    )  # fmt: skip
    if attempts >= compute.max_attempts:
        raise StageError(
            f"Task {name} lost its worker {attempts} times, the last time by "
            f"{type(error).__name__}. {why} Run the same command again to resume, or raise "
            "compute.max_attempts."
        ) from error


class _Board:
    """Actor that holds the latest word of each task until the driver asks."""

    def __init__(self) -> None:
        self._latest: dict[str, tuple[int, int, dict[str, float]]] = {}

    def tell(self, name: str, done: int, total: int, metrics: dict[str, float]) -> None:
        self._latest[name] = (done, total, metrics)

    def take(self) -> dict[str, tuple[int, int, dict[str, float]]]:
        latest, self._latest = self._latest, {}
        return latest


class _Teller:
    """`Progress` in a worker: at most two messages a second, and the last one."""

    def __init__(self, hub: Any, name: str) -> None:
        self._hub = hub
        self._name = name
        self._next = 0.0

    def __call__(self, done: int, total: int, **metrics: float) -> None:
        if done < total and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _POLL_SECONDS
        self._hub.tell.remote(self._name, done, total, metrics)


def _pass_on(hub: Any, tellers: Mapping[str, Progress]) -> None:
    import ray
    from ray.exceptions import RayError

    try:
        latest: Any = ray.get(hub.take.remote(), timeout=10 * _POLL_SECONDS)
    except RayError:
        return  # the board went with its node; the work goes on untold
    for name, (done, total, metrics) in latest.items():
        tellers[name](done, total, **metrics)
