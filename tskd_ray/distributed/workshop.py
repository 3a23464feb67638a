"""Jobs that several trials need, each done once: one actor decides what runs, and when.

A trial hands in the jobs that its result needs and waits; a job whose key was handed in before
is not done again, whoever asked first. So trials hold no CPU and need no locks, nothing is left
locked by a trial that dies, and the cluster's CPUs are given out in one place: a job that asks
the cluster for workers of its own, as generation and Ray Data do, is told how many it may have,
and so never waits for CPUs that others hold.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tskd_ray.config.schema import ComputeConfig
from tskd_ray.distributed.metrics import count_lost_worker
from tskd_ray.distributed.outcome import Failure, perhaps_hung
from tskd_ray.distributed.session import cluster_nodes, worker_slots
from tskd_ray.distributed.tasks import Task, call_guarded
from tskd_ray.errors import StageError

_RECOUNT_SECONDS = 2.0
_LIVES = 3  # of the workshop itself: it holds nothing that trials would not hand in again


@dataclass(frozen=True, kw_only=True)
class Job:
    """A call `function(**arguments, progress=...)` that leaves its result in the storage."""

    key: str
    """Of what it makes; the same key is the same job."""
    name: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    after: tuple[str, ...] = ()
    """Keys of jobs that must be done first, if any were handed in."""
    gpu: bool = False
    """Hold `compute.gpus_per_worker` GPUs, if `compute.device` is cuda."""
    workers: int = 0
    """Above 0: it is no task of one worker but asks the cluster for workers of its own, no more
    than these; it is told how many as `workers=`."""


class Slots:
    """Room for workers, given to those who came first; what others wait for is left to them."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._taken = 0
        self._waiting: list[tuple[int, int, int, asyncio.Future[int]]] = []
        self._arrivals = itertools.count()

    async def take(self, most: int, order: int) -> int:
        """Wait for room; between 1 and `most` slots, to be given back."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (order, next(self._arrivals), most, future))
        # after all who ask in this turn, so that the first to be served is not the first to ask
        asyncio.get_running_loop().call_soon(self._serve)
        return await future

    def give(self, slots: int) -> None:
        """Give slots back."""
        self._taken -= slots
        self._serve()

    def _serve(self) -> None:
        # one at least: a cluster that has lost its nodes gets the job to wait for new ones
        free = max(1, self._count()) - self._taken
        while self._waiting and free > 0:
            _, _, most, future = heapq.heappop(self._waiting)
            slots = max(1, min(most, free - len(self._waiting)))
            self._taken += slots
            free -= slots
            future.set_result(slots)


class Workshop:
    """The actor; asynchronous, so that any number of trials wait at once."""

    def __init__(self, compute: ComputeConfig, run: str = "") -> None:
        self._compute, self._run = compute, run
        self._slots = Slots(self._room)
        self._recount_at, self._counted = 0.0, 1
        self._orders = itertools.count()
        self._done: dict[str, asyncio.Task[Failure | None]] = {}
        self._running: dict[str, str] = {}
        self._made = 0
        self._failures: dict[str, Failure] = {}

    async def ensure(self, jobs: Sequence[Job]) -> Failure | None:
        """Have every job done, those of earlier trials first; the first failure, if any."""
        order = next(self._orders)
        for job in jobs:
            if job.key not in self._done:
                self._done[job.key] = asyncio.create_task(self._do(job, order))
        # shielded: a trial that goes away must not take others' jobs along
        waits = [asyncio.shield(self._done[job.key]) for job in jobs]
        failures = [failure for failure in await asyncio.gather(*waits) if failure is not None]
        return failures[0] if failures else None

    async def note_failure(self, trial: str, failure: Failure) -> None:
        """Keep what went wrong, for the driver to tell."""
        self._failures[trial] = failure

    async def state(self) -> tuple[int, list[str], dict[str, Failure]]:
        """Jobs made, names of those running, failures by trial."""
        return self._made, sorted(self._running.values()), self._failures

    async def _do(self, job: Job, order: int) -> Failure | None:
        for key in job.after:
            before = self._done.get(key)
            failure = None if before is None else await asyncio.shield(before)
            if failure is not None:
                return failure
        slots = await self._slots.take(max(1, job.workers), order)
        self._running[job.key] = job.name
        try:
            failure = await self._attempts(job, slots)
        finally:
            del self._running[job.key]
            self._slots.give(slots)
        self._made += failure is None
        return failure

    async def _attempts(self, job: Job, slots: int) -> Failure | None:
        import ray
        from ray.exceptions import RayError

        compute = self._compute
        told = {"workers": slots} if job.workers else {}
        task = Task(function=job.function, arguments={**job.arguments, **told})
        remote: Any = ray.remote  # typed for plain functions only
        call = remote(
            # one with workers of its own only waits for them
            num_cpus=0 if job.workers else compute.threads,
            num_gpus=compute.gpus_per_worker if job.gpu and compute.device == "cuda" else 0,
            max_retries=0,
        )(call_guarded)
        lost: Exception | None = None
        why = ""
        for _ in range(compute.max_attempts):
            since = time.monotonic()
            try:
                result = await call.remote(task, compute)
            except RayError as error:
                count_lost_worker(run=self._run, stage=job.name)
                lost, why = error, perhaps_hung(time.monotonic() - since, compute)
            else:
                return result if isinstance(result, Failure) else None
        reason = type(lost).__name__
        error = StageError(
            f"{job.name} lost its worker {compute.max_attempts} times, the last time by "
            f"{reason}. {why} Run the same command again to resume, or raise "
            "compute.max_attempts."
        )
        return Failure(error=error, summary=str(error), traceback="")

    def _room(self) -> int:
        if time.monotonic() >= self._recount_at:
            # none yet, where an autoscaler starts the first
            self._counted = max(1, worker_slots(self._compute, cluster_nodes(), gpu=False))
            self._recount_at = time.monotonic() + _RECOUNT_SECONDS
        return self._counted


def open_workshop(name: str, compute: ComputeConfig, run: str = "") -> Any:
    """Start the actor under a name by which trials find it; end it with `ray.kill`.

    Args:
        name: Of the actor.
        compute: Of its jobs.
        run: Name of the sweep, for metrics.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    remote: Any = ray.remote
    return remote(
        name=name,
        num_cpus=0,
        max_concurrency=10_000,
        max_restarts=_LIVES,
        max_task_retries=_LIVES,
        scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=True),
    )(Workshop).remote(compute, run)
