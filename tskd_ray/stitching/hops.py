"""Where each transition hops to: the best admissible state near its s' (eqs. 9 and 11).

n transitions · M ensemble members · d dims

The decision at a transition depends on that transition alone, so any set of them may be decided
anywhere: `decide_hops` is a pure function of the problem and the transitions' numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tskd_ray.errors import DataError
from tskd_ray.stitching.cells import Cells
from tskd_ray.stitching.problem import HopProblem
from tskd_ray.types import BoolArray, FloatArray, Int8Array, IntArray

if TYPE_CHECKING:
    from tskd_ray.stitching.kernels import Gaussians, Queries, Space

_T = TypeVar("_T")

_CHUNK = 8_192
"""Transitions decided at a time: bounds the memory of gathered densities and candidates."""

_PAIRS = 65_536
"""Pairs of states per call of a density."""

_FLAT_PAIRS = 2**24
"""Pairs that one FAISS range search may return at most."""


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


def decide_hops(
    problem: HopProblem, transitions: IntArray | None = None, *, threads: int = 1
) -> HopDecisions:
    """Decide transitions of an epoch; the result does not depend on how they are split.

    Args:
        problem: The epoch's frozen snapshot.
        transitions: (n,) numbers, in any order; default all.
        threads: Of the cell search. A callable density is called in this thread only.

    Reference: docs/algorithm.md, D16 to D18.
    """
    if transitions is None:
        transitions = np.arange(problem.n_transitions, dtype=np.int64)
    if not len(transitions) or not len(problem.of_rank):
        return HopDecisions(
            transitions=transitions,
            candidate=np.full(len(transitions), -1, dtype=np.int64),
            verdict=np.full(len(transitions), Verdict.NO_NEIGHBOUR, dtype=np.int8),
        )
    in_kernel = problem.cells is not None and problem.mean is not None
    decide = (
        _decide_in_kernel
        if in_kernel and problem.candidate == "dynamics_first"
        else _decide_in_rounds
    )
    if problem.log_density is not None:
        threads = 1
    parts = HopDecisions.join(_by_chunk(problem, transitions, decide, threads))
    # `join` sorted by number; give back in the order asked for.
    place = np.searchsorted(parts.transitions, transitions)
    return HopDecisions(
        transitions=transitions,
        candidate=parts.candidate[place],
        verdict=parts.verdict[place],
    )


def best_neighbours(
    problem: HopProblem, transitions: IntArray, *, threads: int = 1
) -> IntArray:
    """The best of the better-valued states near each s', eq. 9 aside; (n,), -1 for none.

    What `candidate: best_value_first` then tests; transitions must be distinct.
    """

    def search(problem: HopProblem, chunk: IntArray) -> tuple[IntArray, IntArray]:
        return chunk, _next_candidates(problem, chunk, _no_floor(chunk), 1)[:, 0]

    best = np.full(problem.n_transitions, -1, dtype=np.int64)
    if len(problem.of_rank):
        for chunk, rank in _by_chunk(problem, transitions, search, threads):
            found = rank < len(problem.rank)
            best[chunk[found]] = problem.of_rank[rank[found]]
    return best[transitions]


def _by_chunk(
    problem: HopProblem,
    transitions: IntArray,
    function: Callable[[HopProblem, IntArray], _T],
    threads: int,
) -> list[_T]:
    """`function` of chunks of the transitions, near ones together, on `threads` threads."""
    order = np.argsort(_cell_of(problem, transitions), kind="stable")
    chunks = [transitions[order[i : i + _CHUNK]] for i in range(0, len(order), _CHUNK)]
    if threads == 1:
        return [function(problem, chunk) for chunk in chunks]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda chunk: function(problem, chunk), chunks))


def count_neighbours(
    problem: HopProblem, transitions: IntArray, *, most: int | None = None
) -> IntArray:
    """Candidates within the radius of each s', besides s and s' themselves; (n,).

    Args:
        problem: The epoch's frozen snapshot.
        transitions: (n,) numbers; keep them few, a full count costs the whole neighbourhood.
        most: Stop counting a neighbourhood there.
    """
    count = np.zeros(len(transitions), dtype=np.int64)
    if not len(problem.of_rank) or not len(transitions):
        return count
    most = problem.n_transitions + len(problem.rank) if most is None else most
    if problem.cells is None:
        for rows, ranks in _flat_neighbours(problem, transitions):
            row_count = np.bincount(ranks[:, 0], minlength=len(rows))
            count[rows] = np.minimum(row_count, most)
        return count
    from tskd_ray.stitching import kernels

    order = np.argsort(_cell_of(problem, transitions), kind="stable")
    arrival = problem.source[transitions[order]] + 1
    counted = np.zeros(len(transitions), dtype=np.int64)
    queries = _queries(problem, transitions[order], floor=problem.rank[arrival])
    kernels.count_in_cells(queries, most, *_space_and_cells(problem), counted)
    count[order] = counted
    return count


def _decide_in_kernel(problem: HopProblem, chunk: IntArray) -> HopDecisions:
    """Gaussian densities over cells: eq. 9 is a predicate inside the compiled search."""
    found, tested = _search_cells(problem, chunk, _no_floor(chunk), 1, test_dynamics=True)
    return _verdicts(problem, chunk, found[:, 0], tested)


def _decide_in_rounds(problem: HopProblem, chunk: IntArray) -> HopDecisions:
    """Candidates in the order of their rank, tested outside the search until one passes."""
    nothing = len(problem.rank)
    best = np.full(len(chunk), nothing, dtype=np.int64)
    met = np.zeros(len(chunk), dtype=np.bool_)
    floor = _no_floor(chunk)
    active, k = np.arange(len(chunk)), 1
    required = None
    while len(active):
        found = _next_candidates(problem, chunk[active], floor[active], k)
        met[active] |= found[:, 0] < nothing
        rows, columns = np.nonzero(found < nothing)
        ranks = found[rows, columns]
        if problem.log_density is not None and required is None:
            required = _mean_log_density(problem, chunk)
        passed = _passes(
            problem,
            chunk[active[rows]],
            problem.of_rank[ranks],
            None if required is None else required[active[rows]],
        )
        np.minimum.at(best, active[rows[passed]], ranks[passed])
        if problem.candidate == "best_value_first":
            break
        going_on = (best[active] == nothing) & (found[:, -1] < nothing)
        floor[active] = found[:, -1]
        active = active[going_on]
        k = min(4 * k, 256)
    return _verdicts(problem, chunk, best, met)


def _verdicts(
    problem: HopProblem, chunk: IntArray, best: IntArray, better: BoolArray
) -> HopDecisions:
    """Name the test that refused; only where nothing better was met is more to look up."""
    accepted = best < len(problem.rank)
    candidate = np.full(len(chunk), -1, dtype=np.int64)
    candidate[accepted] = problem.of_rank[best[accepted]]
    verdict = np.full(len(chunk), Verdict.DYNAMICS, dtype=np.int8)
    verdict[accepted] = Verdict.ACCEPTED
    none_better = np.flatnonzero(~better)
    alone = count_neighbours(problem, chunk[none_better], most=1) == 0
    verdict[none_better] = np.where(alone, Verdict.NO_NEIGHBOUR, Verdict.NO_BETTER)
    return HopDecisions(transitions=chunk, candidate=candidate, verdict=verdict)


def _next_candidates(problem: HopProblem, chunk: IntArray, floor: IntArray, k: int) -> IntArray:
    """The k lowest ranks above `floor` of better states near each s', (n, k)."""
    if problem.cells is not None:
        return _search_cells(problem, chunk, floor, k, test_dynamics=False)[0]
    nothing = len(problem.rank)
    found = np.full((len(chunk), k), nothing, dtype=np.int64)
    for rows, pairs in _flat_neighbours(problem, chunk):
        row, rank = pairs[:, 0], pairs[:, 1]
        wanted = (rank > floor[rows[row]]) & (rank < problem.threshold[chunk[rows[row]]])
        row, rank = row[wanted], rank[wanted]
        order = np.lexsort((rank, row))
        row, rank = row[order], rank[order]
        place = np.arange(len(row)) - np.searchsorted(row, row)
        first = place < k
        found[rows[row[first]], place[first]] = rank[first]
    return found


def _flat_neighbours(problem: HopProblem, chunk: IntArray) -> Any:
    """Per block of rows: those rows, and pairs (row in the block, rank) within the radius."""
    block = max(1, _FLAT_PAIRS // len(problem.of_rank))
    known = np.flatnonzero(np.isfinite(problem.points[problem.source[chunk] + 1]).all(axis=1))
    for first in range(0, len(known), block):
        rows = known[first : first + block]
        queries = problem.points[problem.source[chunk[rows]] + 1]
        lims, ranks = problem.flat_index.within(queries, problem.radius)
        row = np.repeat(np.arange(len(rows)), np.diff(lims))
        squared = np.zeros(len(row))
        states = problem.of_rank[ranks]
        for k in range(queries.shape[1]):  # the order of the sum is part of the result
            difference = problem.points[states, k].astype(np.float64) - queries[row, k]
            squared += difference * difference
        source = problem.source[chunk[rows[row]]]
        others = (squared <= problem.limit) & (states != source) & (states != source + 1)
        yield rows, np.stack([row[others], ranks[others]], axis=1)


def _search_cells(
    problem: HopProblem, chunk: IntArray, floor: IntArray, k: int, *, test_dynamics: bool
) -> tuple[IntArray, BoolArray]:
    """The k lowest admissible ranks, (n, k), and whether eq. 9 was tested at all, (n,)."""
    from tskd_ray.stitching import kernels

    found = np.empty((len(chunk), k), dtype=np.int64)
    tested = np.zeros(len(chunk), dtype=np.bool_)
    queries = _queries(problem, chunk, floor)
    gaussians = _gaussians(problem, chunk if test_dynamics else None)
    kernels.best_in_cells(queries, *_space_and_cells(problem), gaussians, found, tested)
    return found, tested


def _queries(problem: HopProblem, chunk: IntArray, floor: IntArray) -> Queries:
    from tskd_ray.stitching.kernels import Queries

    source = problem.source[chunk]
    return Queries(
        arrival=source + 1,
        cell=_cell_of(problem, chunk),
        floor=floor,
        stop=problem.threshold[chunk],
        own=problem.rank[source],
    )


def _space_and_cells(problem: HopProblem) -> tuple[Space, Cells]:
    """The kernels' view of a problem.

    Read-only, so that mapped and plain arrays are one type, compiled for once.
    """
    from tskd_ray.stitching.kernels import Space

    assert problem.cells is not None
    space = Space(
        *map(_read_only, (problem.points, problem.states, problem.of_rank)),
        limit=problem.limit,
        radius=problem.radius,
    )
    return space, Cells(*map(_read_only, problem.cells))


def _passes(
    problem: HopProblem, chunk: IntArray, candidate: IntArray, required: FloatArray | None
) -> BoolArray:
    """Eq. 9 for each pair of a transition and a candidate state, (n,)."""
    passed = np.zeros(len(chunk), dtype=np.bool_)
    for i in range(0, len(chunk), _PAIRS):
        part = slice(i, i + _PAIRS)
        source = problem.source[chunk[part]]
        if required is not None:
            log_p = _call_density(problem, source, candidate[part])
            # A NaN compares false and so refuses (D17); np.min passes it on.
            passed[part] = log_p.min(axis=0) >= required[part]
        else:
            from tskd_ray.stitching import kernels

            kernels.plausible_pairs(
                _read_only(problem.states),
                source + 1,
                candidate[part],
                _gaussians(problem, chunk[part]),
                passed[part],
            )
    return passed


def _mean_log_density(problem: HopProblem, chunk: IntArray) -> FloatArray:
    """Right side of eq. 9, log mean_m p_m(s' | s), (n,); exact for equal densities (D13)."""
    required = np.empty(len(chunk))
    for i in range(0, len(chunk), _PAIRS):
        source = problem.source[chunk[i : i + _PAIRS]]
        log_p = _call_density(problem, source, source + 1)
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


def _gaussians(problem: HopProblem, chunk: IntArray | None) -> Gaussians:
    """The predictions for the chunk's transitions in float64, none for None."""
    from tskd_ray.stitching.kernels import Gaussians

    if chunk is None or problem.mean is None or problem.log_std is None:
        empty = np.zeros((0, 0, problem.states.shape[1]))
        return Gaussians(empty, empty)
    return Gaussians(
        np.ascontiguousarray(problem.mean[:, chunk], dtype=np.float64),
        np.ascontiguousarray(problem.log_std[:, chunk], dtype=np.float64),
    )


def _cell_of(problem: HopProblem, transitions: IntArray) -> IntArray:
    """Cell of each s', (n,); -1 if it is no candidate itself or there are no cells."""
    if problem.cells is None:
        return np.full(len(transitions), -1, dtype=np.int64)
    rank = problem.rank[problem.source[transitions] + 1]
    known = rank < len(problem.of_rank)
    cell = np.full(len(transitions), -1, dtype=np.int64)
    cell[known] = problem.cells.of_rank[rank[known]]
    return cell


def _no_floor(chunk: IntArray) -> IntArray:
    return np.full(len(chunk), -1, dtype=np.int64)


def _read_only(array: Any) -> Any:
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view
