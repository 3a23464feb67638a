"""Which search suits the data at hand, and what an approximate one misses.

N transitions · F candidate states · n sampled transitions
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tskd_ray.models.threads import torch_threads
from tskd_ray.stitching.backends import build_shard
from tskd_ray.stitching.shards import SearchName, Shard
from tskd_ray.types import IntArray

if TYPE_CHECKING:
    from tskd_ray.stitching.problem import HopProblem, Search

WORTH_CHOOSING = 50_000
"""Candidates below which any search takes seconds."""

_SAMPLE = 256
"""Transitions that searches are timed on at most: enough for the mean of unequal costs."""

_LEAST = 32

_PAIRS = 2**31
"""Distances that a timing may take: a second or two, whatever the size of the data."""

_REPEATS = 2


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How "auto" came to its search."""

    search: SearchName
    microseconds: dict[SearchName, float]  # per transition, on one thread
    transitions: int  # timed


def build_shards(
    problem: HopProblem, search: Search, size: int, *, device: str = "cpu"
) -> tuple[Iterator[Shard], Choice | None]:
    """Shards of `size` candidates at most, built one at a time, and how they were chosen.

    Args:
        problem: Its own shards are not looked at.
        search: A name, or "auto": whichever of "cells" and "blocks" is faster on a sample,
            searched in the first shard. Both are exact and find the same. Where there are
            fewer than `WORTH_CHOOSING` candidates, "cells".
        size: At least 1.
        device: Of torch, for "blocks".
    """

    def build(name: SearchName, first: int) -> Shard:
        ranks = problem.of_rank[first : first + size]
        return build_shard(name, problem.points.take(ranks), first, device=device)

    starts = range(0, len(problem.of_rank), size)
    if search != "auto" or len(problem.of_rank) < WORTH_CHOOSING:
        name: SearchName = "cells" if search == "auto" else search
        return (build(name, first) for first in starts), None
    points = problem.points.take(problem.of_rank[:size])
    options = [build_shard(name, points, 0, device=device) for name in ("cells", "blocks")]
    choice = faster(problem, options)
    chosen = next(shard for shard in options if shard.name == choice.search)
    options.clear()

    def shards() -> Iterator[Shard]:
        yield chosen
        yield from (build(choice.search, first) for first in starts[1:])

    return shards(), choice


def faster(
    problem: HopProblem,
    options: Sequence[Shard],
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> Choice:
    """The fastest of exact searches of the same candidates, on the same transitions.

    Timed without eq. 9, whose model costs all of them the same, and on one thread; the best of
    a few rounds, in which they take turns.

    Args:
        problem: Its own shards are not looked at.
        options: At least one.
        clock: Seconds.
    """
    sample = sample_transitions(problem, _PAIRS // max(1, options[0].stop - options[0].first))
    seconds: dict[SearchName, float] = {shard.name: np.inf for shard in options}
    with torch_threads(1):  # as compiled searches are
        for shard in options:
            _search(problem, shard, sample[:2])  # compiles
        for _ in range(_REPEATS):
            for shard in options:
                begin = clock()
                _search(problem, shard, sample)
                seconds[shard.name] = min(seconds[shard.name], clock() - begin)
    return Choice(
        search=min(seconds, key=lambda name: seconds[name]),
        microseconds={name: s / max(1, len(sample)) * 1e6 for name, s in seconds.items()},
        transitions=len(sample),
    )


def sample_transitions(problem: HopProblem, most: int = _SAMPLE) -> IntArray:
    """Some transitions of the problem, always the same, ascending; 32 to 256 of them."""
    n = min(max(_LEAST, min(_SAMPLE, most)), problem.n_transitions)
    return np.sort(np.random.default_rng(0).choice(problem.n_transitions, n, replace=False))


def argmax_recall(problem: HopProblem, sample: IntArray) -> float:
    """How often the problem's search finds the best of the better states near s'.

    Args:
        problem: With an approximate search; for an exact one this is 1.
        sample: (n,) numbers of transitions; `sample_transitions` gives some.

    Returns:
        A share of those transitions that have a better state near; 1 if none has.
    """
    from tskd_ray.stitching.hops import best_neighbours

    exact, _ = build_shards(problem, "blocks", max(1, len(problem.of_rank)))
    best = best_neighbours(replace(problem, shards=tuple(exact)), sample)
    found = best_neighbours(problem, sample)
    return float((found == best)[best >= 0].mean()) if (best >= 0).any() else 1.0


def _search(problem: HopProblem, shard: Shard, sample: IntArray) -> None:
    from tskd_ray.stitching.hops import search_shard

    search_shard(replace(problem, shards=(shard,)), 0, sample, dynamics=False)
