"""Hop decisions are the same in process and on three workers, one of them killed."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tskd_ray.distributed.stitch as stitch
from tskd_ray.config.schema import ComputeConfig
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.distributed.stitch import decide_hops_distributed
from tskd_ray.errors import StageError, StorageError
from tskd_ray.stitching.hops import HopDecisions, decide_hops
from tskd_ray.stitching.problem import HopProblem, hop_problem

LOCAL = ComputeConfig(mode="local")
SEARCHER = stitch._Searcher  # before a test replaces it


@pytest.fixture(autouse=True, scope="module")
def _by_value() -> Iterator[None]:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


class NearIsLikely:
    def gaussian(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = np.stack([states, states + 0.1]).astype(np.float64)
        return mean, np.zeros_like(mean)


def small_problem(**options: Any) -> HopProblem:
    rng = np.random.default_rng(0)
    episodes = [
        {
            "observations": rng.normal(size=(length + 1, 3)),
            "actions": np.zeros((length, 1)),
            "rewards": np.ones(length),
            "terminated": False,
        }
        for length in rng.integers(1, 30, 40)
    ]
    return hop_problem(
        Trajectories.from_episodes(episodes),
        value=lambda states: states[:, 0],
        log_density=NearIsLikely(),
        radius=0.7,
        **options,
    )


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, HopProblem]:
    made = small_problem()
    folder = tmp_path_factory.mktemp("problem")
    made.save(folder)
    return folder, made


class InTrouble(SEARCHER):  # type: ignore[misc, valid-type]
    """Its process is killed, waits for ever, is stopped: each once, within a block."""

    def answer(self, batch: dict[str, Any]) -> Any:
        trouble = {50: "killed", 100: "waits", 150: "stopped"}.get(int(batch["row"][0]))
        if trouble is not None and not (sign := self._ask.locate() / trouble).exists():
            sign.touch()
            if trouble == "waits":
                threading.Event().wait()
            os.kill(os.getpid(), signal.SIGKILL if trouble == "killed" else signal.SIGSTOP)
        return super().answer(batch)


class DiesAlways(SEARCHER):  # type: ignore[misc, valid-type]
    def __call__(self, batch: dict[str, Any]) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


def arrays(decisions: HopDecisions) -> list[bytes]:
    names = ("transitions", "candidate", "verdict")
    return [getattr(decisions, name).tobytes() for name in names]


def test_ranges_do_not_change_decisions(problem: tuple[Path, HopProblem]) -> None:
    folder, made = problem
    expected = decide_hops(made)
    assert (expected.candidate >= 0).any()
    told: list[tuple[int, int]] = []
    decided, elsewhere = decide_hops_distributed(
        folder,
        LOCAL,
        block=100,
        progress=lambda done, total, **_: told.append((done, total)),
    )
    assert arrays(decided) == arrays(expected)
    assert elsewhere == 0.0, "all in this process"
    n = made.n_transitions
    assert told == [(min(k + 100, n), n) for k in range(0, n, 100)]


def test_no_transitions_no_decisions(problem: tuple[Path, HopProblem]) -> None:
    none = np.zeros(0, dtype=np.int64)
    for compute in (LOCAL, ComputeConfig()):
        decided, _ = decide_hops_distributed(problem[0], compute, transitions=none)
        assert len(decided.transitions) == 0


def test_missing_and_double_rows_are_refused() -> None:
    stitch._check_complete(np.ones(3, dtype=np.int64))
    with pytest.raises(StageError, match=r"decided exactly once\. Got 3 decisions for 3"):
        stitch._check_complete(np.array([1, 1, 1, 0]))
    with pytest.raises(StageError, match=r"decided exactly once\. Got 6 decisions for 3"):
        stitch._check_complete(np.array([2, 2, 2]))


@pytest.mark.parametrize("mode", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_shards_and_subsets_are_decided_the_same(
    problem: tuple[Path, HopProblem], mode: str, request: Any, tmp_path: Path
) -> None:
    compute = request.getfixturevalue("three_workers") if mode == "ray" else LOCAL
    sharded = small_problem(shard_states=150, folder=tmp_path / "problem")
    assert len(sharded.shards) > 3
    some = np.random.default_rng(0).permutation(sharded.n_transitions)[:200]
    decided, _ = decide_hops_distributed(
        tmp_path / "problem", compute, transitions=some, block=64
    )
    assert arrays(decided) == arrays(decide_hops(problem[1], some))


@pytest.mark.ray
def test_workers_read_the_problem_where_they_are_told(
    problem: tuple[Path, HopProblem], three_workers: ComputeConfig, tmp_path: Path
) -> None:
    folder, made = problem
    copy = shutil.copytree(folder, tmp_path / "copy")
    some = np.arange(100)
    decided, _ = decide_hops_distributed(
        folder, three_workers, transitions=some, locate=partial(Path, str(copy))
    )
    assert arrays(decided) == arrays(decide_hops(made, some))
    with pytest.raises(StorageError, match="nowhere is not readable as one"):
        decide_hops_distributed(
            folder,
            three_workers,
            transitions=some,
            locate=partial(Path, str(tmp_path / "nowhere")),
        )


@pytest.mark.ray
def test_same_decisions_on_ray_with_killed_and_hung_workers(
    problem: tuple[Path, HopProblem],
    three_workers: ComputeConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, made = problem
    expected = arrays(decide_hops(made))
    monkeypatch.setattr(stitch, "_Searcher", InTrouble)
    hasty = three_workers.model_copy(update={"hang_timeout": 3.0, "max_attempts": 4})
    decided, cpu_seconds = decide_hops_distributed(folder, hasty, block=50)
    assert arrays(decided) == expected
    assert cpu_seconds > 0
    assert all((folder / trouble).exists() for trouble in ("killed", "waits", "stopped"))


@pytest.mark.ray
def test_a_range_that_kills_every_worker_ends_the_run(
    problem: tuple[Path, HopProblem],
    three_workers: ComputeConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = three_workers.model_copy(update={"workers": 1, "max_attempts": 2})
    monkeypatch.setattr(stitch, "_Searcher", DiesAlways)
    with pytest.raises(StageError, match="lost workers in the hop decisions"):
        decide_hops_distributed(problem[0], one)


@pytest.mark.parametrize("mode", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_an_unreadable_problem_is_told_as_it_is(
    tmp_path: Path, mode: str, request: Any
) -> None:
    compute = request.getfixturevalue("three_workers") if mode == "ray" else LOCAL
    with pytest.raises(StorageError, match="is not readable as one"):
        decide_hops_distributed(tmp_path, compute)
