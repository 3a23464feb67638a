"""A pool of disposable actors.

An actor is never restarted: restarts that cannot be placed fail at once and burn through
retries, and `ray.util.ActorPool` loses the run with its first actor. Here a lost actor is
forgotten, its shards go back to the head of the queue, and another actor is asked for, on
whatever nodes there are now. What comes back depends on the shard alone.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from tskd_ray.config.schema import ComputeConfig
from tskd_ray.distributed.autoscaler import watches
from tskd_ray.distributed.guard import Guard
from tskd_ray.distributed.metrics import count_lost_worker
from tskd_ray.distributed.outcome import Failure, outcome, perhaps_hung, raise_failure
from tskd_ray.distributed.session import cluster_nodes, describe, pool_size
from tskd_ray.errors import StageError
from tskd_ray.progress import Progress, silent

Arrays = dict[str, npt.NDArray[np.generic]]
log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_RESIZE_SECONDS = 2.0
_IN_FLIGHT = 2  # the next shard is there when one ends: no round trip between them


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A fixed unit of work. Its result must be a function of itself alone."""

    id: int
    payload: Mapping[str, Any] = field(default_factory=dict[str, Any])
    items: int = 1
    """How much of it there is, in the unit that progress is told in."""


class Worker(Protocol):
    """What an actor holds: loaded once, then fed shards."""

    def process(self, shard: Shard) -> Arrays:
        """The shard's result, whatever was processed before."""
        raise NotImplementedError


def run_pool(
    factory: Callable[[], Worker],
    shards: Sequence[Shard],
    compute: ComputeConfig,
    *,
    on_result: Callable[[int, Arrays], None],
    progress: Progress = silent,
) -> None:
    """Process every shard once on actors of the connected cluster.

    Args:
        factory: Makes a worker in the actor's process; picklable, such as a `partial` of a
            class with the folder that it loads.
        shards: With distinct ids; those finished earlier left out.
        compute: Workers, CPUs and GPUs of each; attempts per shard; time to load; time after
            which a worker without a sign of life is killed, and so lost.
        on_result: Called in the driver with each shard's id and result, in any order.
        progress: Told the items done, with `workers`, those `lost` so far and `shards_left`.

    Raises:
        TskdError: What a worker raised, as it is: trying again would not help.
        StageError: For anything else that it raised; if a shard loses `max_attempts` workers;
            if workers die or hang while loading as often; if none can be placed.
    """
    if shards:
        _Pool(factory, shards, compute, on_result, progress).run()


class _Host:
    """The actor."""

    def __init__(
        self, factory: Callable[[], Worker], threads: int, hang_timeout: float
    ) -> None:
        self._factory = factory
        self._threads = threads
        self._guard = Guard(hang_timeout)
        self._worker: Worker | None = None

    def placed(self) -> None:
        """Answers as soon as the process runs."""

    def load(self) -> Failure | None:
        """Make the worker: seconds and gigabytes."""
        import torch

        torch.set_num_threads(self._threads)
        made = outcome(self._factory)
        if isinstance(made, Failure):
            return made
        self._worker = made
        return None

    def process(self, shard: Shard) -> Arrays | Failure:
        worker = self._worker
        assert worker is not None, "fed before it was ready"
        with self._guard.at_work():
            return outcome(lambda: worker.process(shard))


@dataclass(eq=False)
class _Member:
    """An actor as the driver sees it."""

    host: Any
    placed: Any  # reference, or None once it has answered
    load: Any  # reference, or None once it has answered
    placed_at: float = 0.0
    in_flight: list[tuple[Any, Shard]] = field(default_factory=list[tuple[Any, Shard]])
    since: float = 0.0  # when it was fed or answered last

    @property
    def ready(self) -> bool:
        return self.load is None

    def references(self) -> list[Any]:
        waiting = [reference for reference in (self.placed, self.load) if reference is not None]
        return waiting + [reference for reference, _ in self.in_flight]


class _Pool:
    def __init__(
        self,
        factory: Callable[[], Worker],
        shards: Sequence[Shard],
        compute: ComputeConfig,
        on_result: Callable[[int, Arrays], None],
        progress: Progress,
    ) -> None:
        import ray

        remote: Any = ray.remote  # typed for plain functions only
        self._compute = compute
        self._gpu = compute.device == "cuda"
        self._actor: Any = remote(
            num_cpus=compute.threads,
            num_gpus=compute.gpus_per_worker if self._gpu else 0,
            max_restarts=0,
            max_task_retries=0,
        )(_Host)
        self._grows = watches()
        self._factory = ray.put(factory)
        self._on_result = on_result
        self._progress = progress
        self._queue = deque(shards)
        self._left = len(shards)
        self._items = sum(shard.items for shard in shards)
        self._done = 0
        self._members: list[_Member] = []
        self._attempts: Counter[int] = Counter()
        self._failed_starts = 0  # in a row
        self._lost = 0
        self._resize_at = 0.0
        self._spawn_at = 0.0
        self._target = 0
        self._last_placed = time.monotonic()

    def run(self) -> None:
        try:
            self._tell()
            while self._left:
                self._resize()
                self._feed()
                self._collect()
                self._check_time()
        finally:
            for member in list(self._members):
                self._drop(member)

    # -- size ----------------------------------------------------------------------------

    def _resize(self) -> None:
        """Follow the cluster: nodes come and go."""
        now = time.monotonic()
        if now >= self._resize_at:
            # at least one is asked for, so that a node that returns is found by waiting
            nodes = cluster_nodes()
            room = pool_size(self._compute, nodes, gpu=self._gpu, grows=self._grows)
            room = max(1, room)
            self._target = min(room, self._left)
            self._resize_at = now + _RESIZE_SECONDS
        surplus = len(self._members) - min(self._target, self._left)
        idle = [m for m in self._members if not m.in_flight and not m.placed_at]
        if not self._queue:
            idle = [m for m in self._members if not m.in_flight]
        for member in idle[: max(0, surplus)]:
            self._drop(member)
        if self._queue and len(self._members) < self._target and now >= self._spawn_at:
            for _ in range(self._target - len(self._members)):
                self._spawn()

    def _spawn(self) -> None:
        compute = self._compute
        host = self._actor.remote(self._factory, compute.threads, compute.hang_timeout)
        self._members.append(
            _Member(host=host, placed=host.placed.remote(), load=host.load.remote())
        )

    def _drop(self, member: _Member) -> None:
        import ray

        self._members.remove(member)
        ray.kill(member.host, no_restart=True)

    # -- work ------------------------------------------------------------------------------

    def _feed(self) -> None:
        ready = [member for member in self._members if member.ready]
        for depth in range(_IN_FLIGHT):
            # near the end a second shard would wait behind the first while others idle
            if depth and len(self._queue) <= len(self._members):
                return
            for member in ready:
                if self._queue and len(member.in_flight) <= depth:
                    shard = self._queue.popleft()
                    if not member.in_flight:
                        member.since = time.monotonic()
                    member.in_flight.append((member.host.process.remote(shard), shard))

    def _collect(self) -> None:
        import ray
        from ray.exceptions import RayError

        references = [ref for member in self._members for ref in member.references()]
        if not references:
            time.sleep(_POLL_SECONDS / 5)
            return
        ray.wait(references, num_returns=1, timeout=_POLL_SECONDS)
        done = set(ray.wait(references, num_returns=len(references), timeout=0)[0])
        for member in list(self._members):
            try:
                self._answers(member, done)
            except RayError as error:
                self._lose(member, error)

    def _answers(self, member: _Member, done: set[Any]) -> None:
        """Take what a member has answered, in the order it works.

        Raises:
            RayError: If it, or one of its answers, is lost.
        """
        import ray

        if member.placed in done:
            ray.get(member.placed)
            member.placed, member.placed_at = None, time.monotonic()
        if member.load in done:
            failure = ray.get(member.load)
            if isinstance(failure, Failure):
                raise_failure(failure, "Loading a worker")
            member.load, self._failed_starts = None, 0
        while member.in_flight and member.in_flight[0][0] in done:
            reference, shard = member.in_flight[0]
            result: Any = ray.get(reference)
            if isinstance(result, Failure):
                raise_failure(result, f"Shard {shard.id}")
            member.in_flight.pop(0)
            member.since = time.monotonic()
            self._on_result(shard.id, result)
            self._left -= 1
            self._done += shard.items
            self._tell()

    def _lose(self, member: _Member, error: Exception) -> None:
        self._drop(member)
        self._count_lost()
        # first in flight is what it worked on; the one behind is not to blame
        self._queue.extendleft(shard for _, shard in reversed(member.in_flight))
        reason = type(error).__name__
        if not member.ready:
            self._count_failed_start(reason, error)
            return
        if not member.in_flight:
            return
        shard = member.in_flight[0][1]
        self._attempts[shard.id] += 1
        log.warning(
            "A worker was lost (%s) in shard %d, attempt %d of %d; another takes it.",
            reason, shard.id, self._attempts[shard.id], self._compute.max_attempts,
            extra={"shard": shard.id},
        )  # fmt: skip
        if self._attempts[shard.id] >= self._compute.max_attempts:
            why = perhaps_hung(time.monotonic() - member.since, self._compute)
            raise StageError(
                f"Shard {shard.id} lost {self._compute.max_attempts} workers, the last one by "
                f"{reason}. {why} Finished shards are kept: run the same command again, with "
                "fewer workers or a larger compute.max_attempts."
            ) from error

    # -- starts ----------------------------------------------------------------------------

    def _check_time(self) -> None:
        now = time.monotonic()
        limit = self._compute.ready_timeout
        for member in list(self._members):
            if member.placed_at and not member.ready and now - member.placed_at > limit:
                self._drop(member)
                self._count_lost()
                self._count_failed_start(f"not ready after {limit:g} s")
        if any(member.placed_at for member in self._members):
            self._last_placed = now
        elif now - self._last_placed > limit:
            self._no_room(limit)

    def _no_room(self, limit: float) -> NoReturn:
        gpus = self._compute.gpus_per_worker if self._gpu else 0
        raise StageError(
            f"No worker of {self._compute.threads} CPUs + {gpus:g} GPUs could be placed for "
            f"{limit:g} s; the cluster has {describe(cluster_nodes())}, held by others. Wait "
            "for them, or raise compute.ready_timeout; the same command resumes."
        )

    def _count_failed_start(self, reason: str, error: Exception | None = None) -> None:
        self._failed_starts += 1
        log.warning("A worker was lost while loading (%s).", reason)
        if self._failed_starts >= self._compute.max_attempts:
            raise StageError(
                f"{self._failed_starts} workers in a row were lost while loading, the last: "
                f"{reason}. Is the memory enough for compute.workers of them? The same command "
                "resumes; compute.ready_timeout gives them more time."
            ) from error
        # a node that is going down refuses for a while
        self._spawn_at = time.monotonic() + min(5.0, 0.1 * 2**self._failed_starts)

    def _count_lost(self) -> None:
        self._lost += 1
        count_lost_worker()

    def _tell(self) -> None:
        self._progress(
            self._done,
            self._items,
            workers=sum(member.ready for member in self._members),
            lost=self._lost,
            shards_left=self._left,
        )
