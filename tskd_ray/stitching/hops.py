"""Where each transition hops to: the best admissible state near its s' (eqs. 9 and 11).

n transitions · M ensemble members · d dims

The decision at a transition depends on that transition alone, so any set of them may be decided
anywhere: `search_shard` is a pure function of the problem, the shard and the transitions'
numbers, and `decide_by_shards` joins its answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any

import numpy as np

from tskd_ray.errors import DataError
from tskd_ray.stitching.problem import HopProblem
from tskd_ray.stitching.shards import CellShard, Shard, read_only
from tskd_ray.types import BoolArray, Float64Array, FloatArray, Int8Array, IntArray

PIECE = 131_072
"""Transitions searched at a time: bounds the memory of their Gaussians and candidates. Near
ones among them share the listing of cells, so that fewer are slower."""

_PAIRS = 65_536
"""Pairs of states per call of a density."""


class Verdict(IntEnum):
    """Which test a transition's candidates failed, if they did."""

    ACCEPTED = 0
    NO_NEIGHBOUR = 1  # no other state within the radius
    NO_BETTER = 2  # none of them has a higher value
    DYNAMICS = 3  # none of those (or not the best of them) passes eq. 9


@dataclass(frozen=True, kw_only=True, eq=False)
class HopDecisions:
    """What was decided for a set of transitions."""

    transitions: IntArray  # (n,) their numbers
    candidate: IntArray  # (n,) state number to hop to, or -1
    verdict: Int8Array  # (n,) `Verdict`

    @classmethod
    def join(cls, parts: Sequence[HopDecisions]) -> HopDecisions:
        """All decisions of `parts`, by transition number."""
        transitions = np.concatenate([part.transitions for part in parts])
        order = np.argsort(transitions, kind="stable")
        return cls(
            transitions=transitions[order],
            candidate=np.concatenate([part.candidate for part in parts])[order],
            verdict=np.concatenate([part.verdict for part in parts])[order],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What searches of shards have found for n transitions."""

    rank: IntArray  # (n,) of the candidate, or `HopProblem.nothing`
    better: BoolArray  # (n,) a better-valued neighbour was met, and so eq. 9 tested
    near: BoolArray  # (n,) some neighbour was met; looked for only where none is better

    @classmethod
    def nothing(cls, n: int, problem: HopProblem) -> Found:
        """Before any search."""
        return cls(
            rank=np.full(n, problem.nothing, dtype=np.int64),
            better=np.zeros(n, dtype=np.bool_),
            near=np.zeros(n, dtype=np.bool_),
        )

    def take_in(self, rows: IntArray, other: Found) -> None:
        """Join the answers of another shard for some rows: lowest rank, any met."""
        self.rank[rows] = np.minimum(self.rank[rows], other.rank)
        self.better[rows] |= other.better
        self.near[rows] |= other.near


def decide_hops(
    problem: HopProblem,
    transitions: IntArray | None = None,
    *,
    dynamics: bool = True,
    threads: int = 1,
) -> HopDecisions:
    """Decide transitions of an epoch; the result does not depend on how they are split.

    Args:
        problem: The epoch's frozen snapshot.
        transitions: (n,) numbers, in any order; default all.
        dynamics: False asks only whether something better is near; then nothing is accepted,
            and `Verdict.DYNAMICS` says that something is.
        threads: Of the search. A callable density is called in this thread only.

    Reference: docs/algorithm.md, D16 to D18.
    """
    if transitions is None:
        transitions = np.arange(problem.n_transitions, dtype=np.int64)
    search = partial(search_shard, problem, dynamics=dynamics, threads=threads)
    return decide_by_shards(problem, transitions, search, dynamics=dynamics)


def decide_by_shards(
    problem: HopProblem,
    transitions: IntArray,
    search: Callable[[int, IntArray], Found],
    *,
    dynamics: bool = True,
) -> HopDecisions:
    """Ask shard after shard, best values first, about the transitions that are still open.

    Args:
        problem: The epoch's frozen snapshot.
        transitions: (n,) numbers.
        search: Of a shard's number and transitions; `search_shard`, here or on workers.
        dynamics: As in `decide_hops`.
    """
    found = Found.nothing(len(transitions), problem)
    threshold = problem.threshold[transitions]
    for number, shard in enumerate(problem.shards):
        settled = found.rank < problem.nothing
        if problem.candidate == "best_value_first" or not dynamics:
            settled |= found.better  # the best one was tested, and refused
        # Nothing better is here, and whether something else is near is known.
        settled |= (threshold <= shard.first) & (found.better | found.near)
        rows = np.flatnonzero(~settled)
        if len(rows):
            found.take_in(rows, search(number, transitions[rows]))
    return _verdicts(problem, transitions, found)


def _verdicts(problem: HopProblem, transitions: IntArray, found: Found) -> HopDecisions:
    accepted = found.rank < problem.nothing
    candidate = np.full(len(transitions), -1, dtype=np.int64)
    candidate[accepted] = problem.of_rank[found.rank[accepted]]
    verdict = np.full(len(transitions), Verdict.NO_NEIGHBOUR, dtype=np.int8)
    verdict[found.near] = Verdict.NO_BETTER
    verdict[found.better] = Verdict.DYNAMICS
    verdict[accepted] = Verdict.ACCEPTED
    return HopDecisions(transitions=transitions, candidate=candidate, verdict=verdict)


def search_shard(
    problem: HopProblem,
    number: int,
    transitions: IntArray,
    *,
    dynamics: bool = True,
    threads: int = 1,
) -> Found:
    """What shard `number` has for each of the transitions; (n,) numbers in any order."""
    shard = problem.shards[number]

    def search(chunk: IntArray) -> Found:
        return _search_piece(problem, shard, chunk, dynamics=dynamics)

    found = Found.nothing(len(transitions), problem)
    for rows, part in _by_piece(problem, shard, transitions, search, threads):
        found.take_in(rows, part)
    return found


def best_neighbours(
    problem: HopProblem, transitions: IntArray, *, threads: int = 1
) -> IntArray:
    """The best of the better-valued states near each s', eq. 9 aside; (n,), -1 for none.

    What `candidate: best_value_first` then tests.
    """
    best = np.full(len(transitions), problem.nothing, dtype=np.int64)
    for shard in problem.shards:

        def search(chunk: IntArray, shard: Shard = shard) -> IntArray:
            return shard.lowest(problem, chunk, _no_floor(chunk), 1)[:, 0]

        open_rows = np.flatnonzero(best == problem.nothing)
        for rows, rank in _by_piece(problem, shard, transitions[open_rows], search, threads):
            best[open_rows[rows]] = rank
    found = best < problem.nothing
    best[found] = problem.of_rank[best[found]]
    best[~found] = -1
    return best


def count_neighbours(
    problem: HopProblem, transitions: IntArray, *, most: int | None = None
) -> IntArray:
    """Candidates within the radius of each s', besides s and s' themselves; (n,).

    Args:
        problem: The epoch's frozen snapshot.
        transitions: (n,) numbers; keep them few, a full count costs the whole neighbourhood.
        most: Stop counting a neighbourhood there.
    """
    most = len(problem.rank) if most is None else most
    count = np.zeros(len(transitions), dtype=np.int64)
    for shard in problem.shards:

        def search(chunk: IntArray, shard: Shard = shard) -> IntArray:
            return shard.count(problem, chunk, most)

        for rows, part in _by_piece(problem, shard, transitions, search, 1):
            count[rows] = np.minimum(count[rows] + part, most)
    return count


def _by_piece(
    problem: HopProblem,
    shard: Shard,
    transitions: IntArray,
    function: Callable[[IntArray], Any],
    threads: int,
) -> list[tuple[IntArray, Any]]:
    """`function` of pieces of the transitions, with the rows that each piece answers.

    A piece is of consecutive transitions, whose Gaussians come together, put into an order in
    which the search finds its data in the cache.
    """
    by_number = np.argsort(transitions, kind="stable")
    size = max(1, min(PIECE, -(-len(transitions) // threads)))

    def piece(start: int) -> tuple[IntArray, Any]:
        rows = by_number[start : start + size]
        rows = rows[shard.nearest_first(problem, transitions[rows])]
        return rows, function(transitions[rows])

    starts = range(0, len(transitions), size)
    if threads == 1 or len(starts) == 1 or problem.log_density is not None:
        return [piece(start) for start in starts]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(piece, starts))


def _search_piece(
    problem: HopProblem, shard: Shard, chunk: IntArray, *, dynamics: bool
) -> Found:
    gaussians = problem.gaussians
    if not dynamics:
        better = shard.lowest(problem, chunk, _no_floor(chunk), 1)[:, 0] < problem.nothing
        rank = np.full(len(chunk), problem.nothing, dtype=np.int64)
    elif (
        problem.candidate == "dynamics_first"
        and isinstance(shard, CellShard)
        and gaussians is not None
        and problem.own_places is None
    ):
        # eq. 9 is a predicate inside the compiled search
        rank, better = shard.lowest_plausible(problem, chunk, gaussians.at(chunk))
    else:
        rank, better = _search_in_rounds(problem, shard, chunk)
    near = np.zeros(len(chunk), dtype=np.bool_)
    alone = np.flatnonzero(~better)
    near[alone] = shard.count(problem, chunk[alone], 1) > 0
    return Found(rank=rank, better=better, near=near)


def _search_in_rounds(
    problem: HopProblem, shard: Shard, chunk: IntArray
) -> tuple[IntArray, BoolArray]:
    """Candidates in the order of their rank, tested outside the search until one passes."""
    best = np.full(len(chunk), problem.nothing, dtype=np.int64)
    met = np.zeros(len(chunk), dtype=np.bool_)
    floor = _no_floor(chunk)
    active, k = np.arange(len(chunk)), 1
    test: _Test | None = None
    while len(active):
        found = shard.lowest(problem, chunk[active], floor[active], k)
        met[active] |= found[:, 0] < problem.nothing
        rows, columns = np.nonzero(found < problem.nothing)
        ranks = found[rows, columns]
        if len(rows):
            test = test or _Test(problem, chunk)
            passed = test(active[rows], problem.of_rank[ranks])
            np.minimum.at(best, active[rows[passed]], ranks[passed])
        if problem.candidate == "best_value_first":
            break
        going_on = (best[active] == problem.nothing) & (found[:, -1] < problem.nothing)
        floor[active] = found[:, -1]
        active = active[going_on]
        k = min(4 * k, 256)
    return best, met


class _Test:
    """Eq. 9 for pairs of a transition of the chunk and a candidate state."""

    def __init__(self, problem: HopProblem, chunk: IntArray) -> None:
        self.problem, self.source = problem, problem.source[chunk]
        self.gaussians: tuple[Float64Array, Float64Array] | None = None
        if problem.gaussians is not None:
            self.gaussians = problem.gaussians.at(chunk)
        else:
            self.required = _mean_log_density(problem, self.source)

    def __call__(self, rows: IntArray, candidate: IntArray) -> BoolArray:
        """Whether each pair (row of the chunk, candidate state) passes, (p,)."""
        passed = np.zeros(len(rows), dtype=np.bool_)
        for start in range(0, len(rows), _PAIRS):
            part = slice(start, start + _PAIRS)
            passed[part] = self._pass(rows[part], candidate[part])
        return passed

    def _pass(self, rows: IntArray, candidate: IntArray) -> BoolArray:
        if self.gaussians is None:
            log_p = _call_density(self.problem, self.source[rows], candidate)
            # A NaN compares false and so refuses (D17); np.min passes it on.
            return log_p.min(axis=0) >= self.required[rows]
        from tskd_ray.stitching import kernels

        passed = np.zeros(len(rows), dtype=np.bool_)
        kernels.plausible_pairs(
            read_only(self.problem.states),
            self.source[rows] + 1,
            candidate,
            kernels.Gaussians(
                *(np.ascontiguousarray(part[:, rows]) for part in self.gaussians)
            ),
            passed,
        )
        return passed


def _mean_log_density(problem: HopProblem, source: IntArray) -> FloatArray:
    """Right side of eq. 9, log mean_m p_m(s' | s), (n,); exact for equal densities (D13)."""
    required = np.empty(len(source))
    for i in range(0, len(source), _PAIRS):
        part = source[i : i + _PAIRS]
        log_p = _call_density(problem, part, part + 1)
        largest = log_p.max(axis=0)
        with np.errstate(invalid="ignore"):  # infinite ones are set right below
            spread = np.log(np.exp(log_p - largest).mean(axis=0))
        required[i : i + _PAIRS] = np.where(np.isinf(largest), largest, largest + spread)
    return required


def _call_density(problem: HopProblem, source: IntArray, arrival: IntArray) -> FloatArray:
    assert problem.log_density is not None
    log_p = np.asarray(problem.log_density(problem.states[source], problem.states[arrival]))
    if log_p.ndim != 2 or log_p.shape[1] != len(source) or not len(log_p):
        raise DataError(
            "log_density must return one row per ensemble member, shaped (M, n). Got "
            f"{log_p.shape} for n = {len(source)}."
        )
    return log_p.astype(np.float64)


def _no_floor(chunk: IntArray) -> IntArray:
    return np.full(len(chunk), -1, dtype=np.int64)
