"""How "auto" chooses a search."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stitching.test_hops import assert_same, gait_problem
from tskd_ray.stitching import choose
from tskd_ray.stitching.choose import faster, sample_transitions
from tskd_ray.stitching.hops import decide_hops


class Stopwatch:
    """Time that only passes in searches, as much as is said for each."""

    def __init__(self, **seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds
        self.searched: list[tuple[str, int]] = []

    def __call__(self) -> float:
        return self.now

    def search(self, problem: Any, shard: Any, sample: Any) -> None:
        first = shard.name not in [name for name, _ in self.searched]
        self.searched.append((shard.name, len(sample)))
        self.now += 1000 if first else self.seconds[shard.name]  # the first compiles


def chosen(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> choose.Choice:
    watch = Stopwatch(**seconds)
    monkeypatch.setattr(choose, "_search", watch.search)
    problem = gait_problem()
    options = [gait_problem(search=name).shards[0] for name in ("cells", "blocks")]
    choice = faster(problem, options, clock=watch)
    assert {n for _, n in watch.searched} == {2, choice.transitions}
    return choice


def test_the_search_that_is_faster_on_the_sample_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noise = chosen(monkeypatch, cells=5.12, blocks=1.28)
    assert noise.search == "blocks"
    assert noise.transitions == 256
    assert noise.microseconds == pytest.approx({"cells": 20_000, "blocks": 5_000})
    assert chosen(monkeypatch, cells=1, blocks=30).search == "cells"


@pytest.mark.parametrize("faster_one", ["cells", "blocks"])
def test_auto_builds_what_was_chosen_and_tells_why(
    faster_one: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    want = decide_hops(gait_problem(search="faiss-flat"))
    monkeypatch.setattr(choose, "WORTH_CHOOSING", 100)
    seconds = {"cells": 2.0, "blocks": 2.0, faster_one: 1.0}
    for folder in (None, tmp_path / "problem"):
        watch = Stopwatch(**seconds)
        monkeypatch.setattr(choose, "_search", watch.search)
        monkeypatch.setattr(choose, "faster", partial(faster, clock=watch))
        problem = gait_problem(shard_states=700, folder=folder)
        assert [shard.name for shard in problem.shards] == [faster_one] * 3
        assert problem.choice is not None
        assert problem.choice.search == faster_one
        assert_same(decide_hops(problem), want)


def test_the_real_searches_are_timed_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "WORTH_CHOOSING", 100)
    problem = gait_problem()
    assert problem.choice is not None
    assert problem.choice.search == problem.shards[0].name
    assert set(problem.choice.microseconds) == {"cells", "blocks"}
    assert all(0 < spent < np.inf for spent in problem.choice.microseconds.values())
    assert_same(decide_hops(problem), decide_hops(gait_problem(search="faiss-flat")))


def test_little_data_is_searched_in_cells_without_a_choice() -> None:
    problem = gait_problem()
    assert problem.choice is None
    assert [shard.name for shard in problem.shards] == ["cells"]


def test_the_sample_is_the_same_each_time_and_small_for_large_data() -> None:
    problem = gait_problem()
    sample = sample_transitions(problem)
    assert len(np.unique(sample)) == len(sample) == 256
    np.testing.assert_array_equal(sample, sample_transitions(problem))
    assert len(sample_transitions(problem, 100)) == 100
    assert len(sample_transitions(problem, 3)) == 32
