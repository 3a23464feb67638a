"""The pool gives the same bytes whatever dies, and tells errors of work from lost workers."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tskd_ray.config.schema import ComputeConfig
from tskd_ray.distributed.actors import Arrays, Shard, run_pool
from tskd_ray.distributed.generate import generate_shards, plan_shards
from tskd_ray.errors import DataError, StageError, StorageError
from tskd_ray.pipeline.artifacts import ArtifactStore, artifact_key

LOCAL = ComputeConfig(mode="local")
SHARDS = plan_shards(45, 5)
HANG_TIMEOUT = 3.0


@pytest.fixture(autouse=True, scope="module")
def _by_value() -> Iterator[None]:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


class Toy:
    """Noise keyed by item; `trouble` maps a shard's id to what happens to it the first time."""

    def __init__(self, folder: Path, trouble: dict[int, str] | None = None) -> None:
        self.folder = folder
        self.trouble = trouble or {}

    def process(self, shard: Shard) -> Arrays:
        ids = np.arange(shard.payload["start"], shard.payload["stop"])
        self.make_trouble(self.trouble.get(shard.id, ""), self.folder / f"{shard.id}")
        rows = [np.random.default_rng(int(i)).normal(size=3).astype(np.float32) for i in ids]
        return {"ids": ids, "observations": np.stack(rows)}

    def make_trouble(self, kind: str, sign: Path) -> None:
        if kind == "poison":
            (sign.parent / f"{sign.name}-{time.monotonic_ns()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "data":
            raise DataError("Shard of odd shape. Fix it.")
        if kind == "bug":
            raise ZeroDivisionError("a bug")
        if kind == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        if kind == "slow":
            slow_work()
        if kind in ("kill", "stop", "wait") and not sign.exists():
            sign.touch()
            if kind == "wait":
                threading.Event().wait()
            os.kill(os.getpid(), signal.SIGKILL if kind == "kill" else signal.SIGSTOP)


def slow_work() -> None:
    """Takes twice HANG_TIMEOUT, most of it without doing anything."""
    for _ in range(20):
        until = time.process_time() + 0.02
        while time.process_time() < until:
            pass
        time.sleep(HANG_TIMEOUT / 10)


def broken_teacher(folder: Path) -> Toy:
    raise StorageError("No teacher here. Train it.")


def dying_teacher(folder: Path) -> Toy:
    (folder / str(time.monotonic_ns())).touch()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def slow_once(folder: Path) -> Toy:
    """Hangs the first time it is loaded."""
    try:
        (folder / "hung").touch(exist_ok=False)
    except FileExistsError:
        return Toy(folder)
    time.sleep(600)
    raise AssertionError


def collect(factory: Any, compute: ComputeConfig, shards: list[Shard] = SHARDS) -> list[Any]:
    results: dict[int, list[Any]] = {}

    def keep(shard: int, arrays: Arrays) -> None:
        assert shard not in results, "handed over twice"
        results[shard] = [(name, arrays[name].tobytes()) for name in sorted(arrays)]

    generate_shards(factory, shards, compute, on_result=keep)
    return sorted(results.items())


def test_shards_cover_every_item_once() -> None:
    shards = plan_shards(7, 3, first=10)
    assert [(s.id, s.payload["start"], s.payload["stop"], s.items) for s in shards] == [
        (0, 10, 13, 3),
        (1, 13, 16, 3),
        (2, 16, 17, 1),
    ]
    assert plan_shards(0, 3) == []


@pytest.mark.parametrize("mode", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_an_error_of_the_work_is_raised_at_once(
    tmp_path: Path, mode: str, request: pytest.FixtureRequest
) -> None:
    compute = request.getfixturevalue("three_workers") if mode == "ray" else LOCAL
    compute = compute.model_copy(update={"workers": 1})
    with pytest.raises(DataError, match=r"^Shard of odd shape\. Fix it\."):
        collect(partial(Toy, tmp_path, {4: "data"}), compute)


def test_a_bug_of_a_worker_is_an_error_of_the_stage(tmp_path: Path) -> None:
    with pytest.raises(
        StageError, match="Shard 4 failed with ZeroDivisionError: a bug"
    ) as caught:
        collect(partial(Toy, tmp_path, {4: "bug"}), LOCAL)
    assert "make_trouble" in caught.value.__notes__[0]


def test_nothing_to_do_starts_nothing(tmp_path: Path) -> None:
    assert collect(broken_teacher, LOCAL, []) == []
    assert collect(broken_teacher, ComputeConfig(), []) == []


@pytest.mark.ray
def test_same_bytes_with_one_worker_three_none_and_killed_ones(
    tmp_path: Path, three_workers: ComputeConfig
) -> None:
    expected = collect(partial(Toy, tmp_path), LOCAL)
    assert len(expected) == len(SHARDS)
    one = three_workers.model_copy(update={"workers": 1})
    assert collect(partial(Toy, tmp_path), one) == expected
    killed = partial(Toy, tmp_path, {0: "kill", 4: "kill", 8: "kill"})
    assert collect(killed, three_workers) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "4", "8"]


@pytest.mark.ray
def test_attempts_of_a_shard_are_bounded_and_its_neighbours_not_blamed(
    tmp_path: Path, three_workers: ComputeConfig
) -> None:
    one = three_workers.model_copy(update={"workers": 1, "max_attempts": 2})
    finished: list[int] = []
    with pytest.raises(StageError, match="Shard 2 lost 2 workers"):
        run_pool(
            partial(Toy, tmp_path, {2: "poison"}),
            SHARDS,
            one,
            on_result=lambda shard, _: finished.append(shard),
        )
    assert len(list(tmp_path.iterdir())) == 2
    assert finished == [0, 1]


@pytest.mark.ray
def test_workers_that_hang_are_replaced_and_slow_ones_left_alone(
    tmp_path: Path, three_workers: ComputeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    hasty = three_workers.model_copy(update={"hang_timeout": HANG_TIMEOUT})
    trouble = {0: "stop", 4: "wait", 5: "slow"}
    expected = collect(partial(Toy, tmp_path), LOCAL)
    assert collect(partial(Toy, tmp_path, trouble), hasty) == expected
    lost = [record.args for record in caplog.records if "was lost" in record.msg]
    assert sorted(args[1:3] for args in lost if isinstance(args, tuple)) == [(0, 1), (4, 1)]


@pytest.mark.ray
def test_a_shard_that_hangs_in_every_attempt_ends_the_run(
    tmp_path: Path, three_workers: ComputeConfig
) -> None:
    hasty = three_workers.model_copy(
        update={"workers": 1, "max_attempts": 2, "hang_timeout": HANG_TIMEOUT}
    )
    with pytest.raises(
        StageError, match=r"Shard 2 lost 2 workers.*compute\.hang_timeout=3 s are killed"
    ):
        collect(partial(Toy, tmp_path, {2: "freeze"}), hasty)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("factory", "kind", "message"),
    [
        (broken_teacher, StorageError, r"^No teacher here\. Train it\."),
        (dying_teacher, StageError, "2 workers in a row were lost while loading"),
    ],
)
def test_workers_that_cannot_load(
    tmp_path: Path,
    three_workers: ComputeConfig,
    factory: Any,
    kind: type[Exception],
    message: str,
) -> None:
    one = three_workers.model_copy(update={"workers": 1, "max_attempts": 2})
    with pytest.raises(kind, match=message):
        collect(partial(factory, tmp_path), one)


@pytest.mark.ray
def test_a_worker_that_hangs_while_loading_is_replaced(
    tmp_path: Path, three_workers: ComputeConfig
) -> None:
    hasty = three_workers.model_copy(update={"workers": 1, "ready_timeout": 6.0})
    assert collect(partial(slow_once, tmp_path), hasty) == collect(
        partial(Toy, tmp_path), LOCAL
    )


@pytest.mark.ray
def test_waiting_for_room_ends(tmp_path: Path, three_workers: ComputeConfig) -> None:
    import ray

    remote: Any = ray.remote
    hog = remote(num_cpus=3)(Toy).remote(tmp_path)
    try:
        hasty = three_workers.model_copy(update={"ready_timeout": 1.0})
        with pytest.raises(StageError, match=r"No worker of 1 CPUs \+ 0 GPUs could be placed"):
            collect(partial(Toy, tmp_path), hasty)
    finally:
        ray.kill(hog)


@pytest.mark.ray
def test_a_killed_driver_goes_on_with_the_shards_it_lacks(
    tmp_path: Path, three_workers: ComputeConfig
) -> None:
    """The driver dies in the middle; the second one assembles the same bytes."""
    key = artifact_key("generate", code_version="1", config={}, inputs={}, seed=0)
    files: list[bytes] = []
    for stop_after in (3, None):
        store = ArtifactStore(tmp_path / str(stop_after))
        if stop_after is not None:
            run_until(stop_after, store.shards(key).write, tmp_path)
            assert store.shards(key).finished() == {0, 1, 2}
        with store.attempt(key, ids=range(45)) as attempt:
            shards = store.shards(key)
            left = [shard for shard in SHARDS if shard.id not in shards.finished()]
            assert len(left) == len(SHARDS) - (stop_after or 0)
            generate_shards(partial(Toy, tmp_path), left, three_workers, on_result=shards.write)
            parts = [arrays for _, arrays in shards.read_all(range(len(SHARDS)))]
            attempt.ids += np.concatenate([part["ids"] for part in parts]).tolist()
            np.save(
                attempt.folder / "observations.npy",
                np.concatenate([part["observations"] for part in parts]),
            )
        assert attempt.artifact is not None
        files.append((store.fetch(attempt.artifact) / "observations.npy").read_bytes())
    assert files[0] == files[1]


def run_until(shards: int, write: Any, folder: Path) -> None:
    class Killed(BaseException):
        pass

    def write_or_die(shard: int, arrays: Arrays) -> None:
        if shard >= shards:
            raise Killed
        write(shard, arrays)

    with pytest.raises(Killed):
        generate_shards(partial(Toy, folder), SHARDS, LOCAL, on_result=write_or_die)
