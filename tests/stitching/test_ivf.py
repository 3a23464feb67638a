"""The approximate search: what it finds is true, and what it misses is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stitching.test_blocks import near_ranks, of_states
from stitching.test_hops import assert_same, gait_problem
from tskd_ray.errors import StorageError
from tskd_ray.stitching.choose import argmax_recall, sample_transitions
from tskd_ray.stitching.hops import best_neighbours, count_neighbours, decide_hops
from tskd_ray.stitching.problem import HopProblem


def clusters(n: int = 12, size: int = 60) -> np.ndarray:
    """Groups far apart, each so tight that all of it lies within a radius of 1."""
    rng = np.random.default_rng(2)
    centres = 100.0 * rng.permutation(n)[:, None] * np.ones(3)
    return (centres[:, None] + rng.uniform(-0.2, 0.2, (n, size, 3))).reshape(-1, 3)


def test_only_the_approximate_search_says_so() -> None:
    for search, exact in (("cells", 1), ("blocks", 1), ("faiss-flat", 1), ("faiss-ivf", 0)):
        assert gait_problem(search=search).shards[0].exact == exact


@pytest.mark.parametrize("radius", [0.3, 0.5, 1.5])
def test_the_recall_is_the_share_of_best_neighbours_found(radius: float) -> None:
    problem = gait_problem(search="faiss-ivf", radius=radius)
    sample = sample_transitions(problem)
    found = best_neighbours(problem, sample)
    right = wrong = 0
    for transition, state in zip(sample, found, strict=True):
        better = [
            rank
            for rank in near_ranks(problem, transition)
            if rank < problem.threshold[transition]
        ]
        if not better:
            assert state == -1
        elif state == problem.of_rank[min(better)]:
            right += 1
        else:
            wrong += 1
            assert state == -1 or problem.rank[state] in better
    assert wrong > 0
    assert argmax_recall(problem, sample) == right / (right + wrong)


def test_it_misses_little_where_neighbourhoods_are_cells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tskd_ray.stitching.index._CELLS_PER_ROOT", 0.5)
    problem = of_states(clusters(), 1.0, search="faiss-ivf")
    transitions = np.arange(problem.n_transitions)
    assert argmax_recall(problem, transitions) > 0.99


def test_an_exact_search_has_full_recall() -> None:
    for search in ("cells", "faiss-flat"):
        problem = gait_problem(search=search)
        assert argmax_recall(problem, sample_transitions(problem)) == 1.0
    alone = gait_problem(search="faiss-ivf", radius=1e-9)
    assert argmax_recall(alone, sample_transitions(alone)) == 1.0


def test_counts_are_never_too_high() -> None:
    approximate, exact = gait_problem(search="faiss-ivf"), gait_problem(search="faiss-flat")
    transitions = np.arange(0, exact.n_transitions, 3)
    few, all_of_them = (count_neighbours(p, transitions) for p in (approximate, exact))
    assert (few <= all_of_them).all()
    assert few.sum() > 0.2 * all_of_them.sum()


@pytest.mark.parametrize("search", ["faiss-flat", "faiss-ivf"])
def test_a_saved_index_is_mapped_and_finds_the_same(search: Any, tmp_path: Path) -> None:
    problem = gait_problem(search=search, shard_states=900)
    problem.save(tmp_path / "problem")
    opened = HopProblem.open(tmp_path / "problem")
    maps = Path("/proc/self/maps").read_text()
    assert str(tmp_path / "problem" / "shard-0" / "index.faiss") in maps
    assert_same(decide_hops(opened), decide_hops(problem))
    (tmp_path / "problem" / "shard-0" / "index.faiss").write_bytes(b"IxF2")
    with pytest.raises(StorageError, match="Make it again"):
        HopProblem.open(tmp_path / "problem")
