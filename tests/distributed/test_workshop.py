"""Each job once, in order, within the room there is; without a cluster but for lost workers."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tskd_ray.config.schema import ComputeConfig
from tskd_ray.distributed.outcome import Failure
from tskd_ray.distributed.workshop import Job, Slots, Workshop
from tskd_ray.progress import Progress


class Bench(Workshop):
    """Notes what it would have had done."""

    def __init__(self, room: int = 2, bad: str = "") -> None:
        super().__init__(ComputeConfig())
        self.room, self.bad = room, bad
        self.did: list[str] = []
        self.slots: dict[str, int] = {}
        self.at_once = self.most_at_once = 0

    def _room(self) -> int:
        return self.room

    async def _attempts(self, job: Job, slots: int) -> Failure | None:
        self.did.append(job.key)
        self.slots[job.key] = slots
        self.at_once += slots
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.001)
        self.at_once -= slots
        return Failure(error=None, summary="bad", traceback="") if job.key == self.bad else None


def job(key: str, *after: str, **options: Any) -> Job:
    return Job(key=key, name=key, function=print, after=after, **options)


CHAIN = [job("a"), job("b", "a"), job("c", "b")]


def test_jobs_that_trials_share_are_done_once_and_after_their_inputs() -> None:
    async def trials(bench: Bench) -> list[Failure | None]:
        orders = ([*CHAIN, job("x", "c")], [*CHAIN, job("y", "c")], CHAIN[:2])
        return await asyncio.gather(*map(bench.ensure, [*orders, []]))

    bench = Bench()
    assert asyncio.run(trials(bench)) == [None] * 4
    assert Counter(bench.did) == Counter("abcxy")
    assert [bench.did.index(key) for key in "abc"] == [0, 1, 2]


def test_a_failure_reaches_all_who_need_the_job_and_nobody_else() -> None:
    async def trials(bench: Bench) -> list[Failure | None]:
        orders = ([*CHAIN, job("x", "c")], CHAIN[:1], CHAIN)
        return await asyncio.gather(*map(bench.ensure, orders))

    bench = Bench(bad="b")
    first, second, third = asyncio.run(trials(bench))
    assert first is not None
    assert second is None
    assert third is not None
    assert sorted(bench.did) == ["a", "b"], "what follows from it is not tried"


def test_a_trial_that_goes_away_leaves_its_jobs_to_the_others() -> None:
    async def trials(bench: Bench) -> Failure | None:
        leaver = asyncio.create_task(bench.ensure(CHAIN))
        await asyncio.sleep(0)
        stayer = asyncio.create_task(bench.ensure(CHAIN))
        await asyncio.sleep(0.0005)
        leaver.cancel()
        return await stayer

    bench = Bench()
    assert asyncio.run(trials(bench)) is None
    assert bench.did == ["a", "b", "c"]


def test_no_more_runs_at_once_than_there_is_room_for() -> None:
    jobs = [job(f"t{number}") for number in range(9)]
    jobs += [job(f"s{number}", workers=100) for number in range(3)]
    bench = Bench(room=4)
    assert asyncio.run(bench.ensure(jobs)) is None
    assert bench.most_at_once == 4
    assert len(bench.did) == len(jobs)


def test_a_job_with_workers_of_its_own_gets_what_is_free_and_leaves_others_theirs() -> None:
    alone = Bench(room=8)
    asyncio.run(alone.ensure([job("s", workers=100)]))
    assert alone.slots == {"s": 8}
    asked = Bench(room=8)
    asyncio.run(asked.ensure([job("s", workers=3)]))
    assert asked.slots == {"s": 3}
    shared = Bench(room=8)
    asyncio.run(shared.ensure([job("s", workers=100), job("t"), job("u")]))
    assert shared.slots == {"s": 6, "t": 1, "u": 1}


def test_earlier_trials_are_served_first() -> None:
    async def take(slots: Slots) -> list[int]:
        served: list[int] = []

        async def one(order: int) -> None:
            await slots.take(1, order)
            served.append(order)
            await asyncio.sleep(0)
            slots.give(1)

        await asyncio.gather(*(one(order) for order in (3, 1, 2, 0)))
        return served

    assert asyncio.run(take(Slots(lambda: 1))) == [0, 1, 2, 3]


def test_a_cluster_without_room_gets_a_job_to_wait_for_it() -> None:
    bench = Bench(room=0)
    assert asyncio.run(bench.ensure(CHAIN)) is None


def stopped_until(folder: Path, times: int, progress: Progress) -> None:
    """Hangs the first `times` times."""
    hung = len(list(folder.iterdir()))
    if hung < times:
        (folder / str(hung)).touch()
        os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.ray
def test_a_job_that_hangs_is_done_again_so_often(
    tmp_path: Path, three_workers: ComputeConfig
) -> None:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])

    def fate(attempts: int) -> Failure | None:
        folder = tmp_path / str(attempts)
        folder.mkdir()
        arguments = {"folder": folder, "times": 1}
        lives = {"hang_timeout": 2.0, "max_attempts": attempts}
        hasty = three_workers.model_copy(update=lives)
        hanging = Job(key="k", name="k", function=stopped_until, arguments=arguments)
        return asyncio.run(Workshop(hasty).ensure([hanging]))

    try:
        assert fate(2) is None
        failure = fate(1)
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert failure is not None
    assert "k lost its worker 1 times" in failure.summary
    assert "compute.hang_timeout=2 s" in failure.summary
