"""Compiled inner loops of the hop search.

S states · F candidate states, in cells · n queries · M ensemble members · d dims

Imported only where a loop is about to run, since importing numba takes as long as small work.
Everything is plain float64 without fast-math: sums run in the order they are written, so that
a decision does not depend on the machine's vector width, the thread or the search backend.
All that a kernel calls is in this file: numba's cache notices changes of no other one.
"""
# What numba compiles is untyped outside.
# pyright: reportUntypedFunctionDecorator=false

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tskd_ray.stitching.cells import Cells
from tskd_ray.stitching.compiled import compiled
from tskd_ray.types import BoolArray, Float64Array, FloatArray, IntArray

SLACK = 1e-9
"""Relative allowance for rounding when a cell or a member is ruled out by the triangle
inequality; far above (d + 4)·2⁻⁵³ for any d met here, and never part of a decision."""


class Space(NamedTuple):
    """Where the states are, and what counts as near."""

    points: FloatArray  # (S, d) coordinates in the metric of the radius
    states: FloatArray  # (S, d) raw
    of_rank: IntArray  # (F,) state of each rank
    limit: float  # largest squared distance that counts as within the radius
    radius: float


class Queries(NamedTuple):
    """Transitions s -> s', sorted by cell."""

    arrival: IntArray  # (n,) state number of s', whose neighbourhood is searched
    cell: IntArray  # (n,) cell of s'; -1 if it is in none
    floor: IntArray  # (n,) only ranks with floor < rank < stop are admissible
    stop: IntArray  # (n,)
    own: IntArray  # (n,) rank of s, never its own destination (D16)


class Gaussians(NamedTuple):
    """An ensemble's prediction of the next state, per query; M = 0 leaves eq. 9 out."""

    mean: Float64Array  # (M, n, d)
    log_std: Float64Array  # (M, n, d)


class Scratch(NamedTuple):
    """Of one query: what eq. 9 needs again for every candidate."""

    precision: Float64Array  # (M, d)
    norm: Float64Array  # (M,) log density of the mean, but for d/2·log 2π
    log_p: Float64Array  # (M,)
    least: Float64Array  # (1,) right side of eq. 9
    ready: BoolArray  # (1,) whether the above are filled in


@compiled
def _distance(a: FloatArray, b: FloatArray) -> float:
    total = 0.0
    for k in range(a.shape[0]):
        difference = np.float64(a[k]) - np.float64(b[k])
        total += difference * difference
    return math.sqrt(total)


@compiled
def _within(a: FloatArray, b: FloatArray, limit: float) -> bool:
    """Squared distance at most `limit`; partial sums never fall, so it may stop early."""
    total = 0.0
    for k in range(a.shape[0]):
        difference = np.float64(a[k]) - np.float64(b[k])
        total += difference * difference
        if total > limit:
            return False
    return total <= limit  # not "True": a NaN is never within


@compiled
def _log_mean_exp(log_p: Float64Array) -> float:
    """log(mean(exp(log_p))), exact where all entries are equal; NaN if any is."""
    largest = -np.inf
    for m in range(log_p.shape[0]):
        if math.isnan(log_p[m]):
            return np.nan
        largest = max(largest, log_p[m])
    if math.isinf(largest):
        return largest  # mean of zeros, or an infinite density
    total = 0.0
    for m in range(log_p.shape[0]):
        total += math.exp(log_p[m] - largest)
    return largest + math.log(total / log_p.shape[0])


@compiled
def _log_density(
    x: FloatArray, mean: Float64Array, precision: Float64Array, norm: float, least: float
) -> float:
    """Log N(x; mean, 1/precision²) up to d/2·log 2π; may stop early once below `least`."""
    total = 0.0
    for k in range(mean.shape[0]):
        z = (np.float64(x[k]) - mean[k]) * precision[k]
        total += z * z
        if norm - 0.5 * total < least:
            break
    return norm - 0.5 * total


@compiled
def _scratch(gaussians: Gaussians) -> Scratch:
    M, _, d = gaussians.mean.shape
    ready = np.zeros(1, dtype=np.bool_)
    return Scratch(np.empty((M, d)), np.empty(M), np.empty(M), np.empty(1), ready)


@compiled
def _prepare(q: int, recorded: FloatArray, gaussians: Gaussians, scratch: Scratch) -> float:
    """Fill the scratch of query q; the right side of eq. 9, in log space (D13)."""
    M, _, d = gaussians.mean.shape
    for m in range(M):
        scratch.norm[m] = 0.0
        for k in range(d):
            scratch.precision[m, k] = math.exp(-gaussians.log_std[m, q, k])
            scratch.norm[m] -= gaussians.log_std[m, q, k]
        scratch.log_p[m] = _log_density(
            recorded, gaussians.mean[m, q], scratch.precision[m], scratch.norm[m], -np.inf
        )
    return _log_mean_exp(scratch.log_p)


@compiled
def _plausible(
    q: int, x: FloatArray, gaussians: Gaussians, scratch: Scratch, least: float
) -> bool:
    """min_m log p_m(x) >= least; a NaN on either side refuses (D17)."""
    for m in range(gaussians.mean.shape[0]):
        log_p = _log_density(
            x, gaussians.mean[m, q], scratch.precision[m], scratch.norm[m], least
        )
        if not log_p >= least:
            return False
    return True


@compiled
def plausible_pairs(
    states: FloatArray,
    arrival: IntArray,
    candidate: IntArray,
    gaussians: Gaussians,
    accepted: BoolArray,
) -> None:
    """Eq. 9 for each row: `candidate[q]` against the recorded `arrival[q]`, into `accepted`."""
    scratch = _scratch(gaussians)
    for q in range(arrival.shape[0]):
        least = _prepare(q, states[arrival[q]], gaussians, scratch)
        accepted[q] = _plausible(q, states[candidate[q]], gaussians, scratch, least)


@compiled
def _near_cells(
    centre: FloatArray, reach: float, stop: int, cells: Cells, near: IntArray
) -> int:
    """List in `near` the cells that may hold a rank below `stop` within `reach` of `centre`."""
    count = 0
    for c in range(cells.lowest.shape[0]):
        if cells.lowest[c] >= stop:
            break  # cells are sorted by their lowest rank
        # "not >": where numbers overflowed to NaN, nothing may be ruled out
        if not _distance(centre, cells.centroids[c]) > (reach + cells.radii[c]) * (1 + SLACK):
            near[count] = c
            count += 1
    return count


@compiled
def _cells_of_group(
    first: int, stop: int, queries: Queries, space: Space, cells: Cells, near: IntArray
) -> int:
    """The cells that a query of the same cell as query `first` may have to visit."""
    cell = queries.cell[first]
    if cell < 0:
        point = space.points[queries.arrival[first]]
        return _near_cells(point, space.radius, stop, cells, near)
    reach = float(cells.radii[cell]) + space.radius
    return _near_cells(cells.centroids[cell], reach, stop, cells, near)


@compiled
def _group_end(cell: IntArray, first: int) -> int:
    """End of the run of queries that share the cell of query `first`; -1 shares with none."""
    last = first + 1
    while cell[first] >= 0 and last < cell.shape[0] and cell[last] == cell[first]:
        last += 1
    return last


@compiled
def _insert(rank: int, found: IntArray) -> int:
    """Sort `rank` into the k lowest ranks `found`, dropping the highest; the new highest."""
    place = found.shape[0] - 1
    while place > 0 and found[place - 1] > rank:
        found[place] = found[place - 1]
        place -= 1
    found[place] = rank
    return found[-1]


@compiled
def _may_be_within(distance: float, away: float, radius: float) -> bool:
    """By the triangle inequality; both distances are to the centroid of the cell."""
    # "not >": where numbers overflowed to NaN, nothing may be ruled out
    return not abs(distance - away) > radius + SLACK * (distance + away + radius)


@compiled
def _search_cell(
    c: int,
    q: int,
    bound: int,
    query: FloatArray,
    away: float,
    queries: Queries,
    space: Space,
    cells: Cells,
    gaussians: Gaussians,
    scratch: Scratch,
    found: IntArray,
) -> int:
    """Take what members of cell `c` are admissible, by rank; the new bound."""
    for i in range(cells.start[c], cells.start[c + 1]):
        rank = cells.ranks[i]
        if rank >= bound:
            break
        if not _may_be_within(cells.distances[i], away, space.radius):
            continue
        if rank <= queries.floor[q] or rank == queries.own[q]:
            continue
        if not _within(query, cells.members[i], space.limit):
            continue
        if gaussians.mean.shape[0]:
            if not scratch.ready[0]:
                scratch.ready[0] = True
                recorded = space.states[queries.arrival[q]]
                scratch.least[0] = _prepare(q, recorded, gaussians, scratch)
            x = space.states[space.of_rank[rank]]
            if not _plausible(q, x, gaussians, scratch, scratch.least[0]):
                continue
        bound = min(bound, _insert(rank, found))
    return bound


@compiled
def _search(
    q: int,
    queries: Queries,
    space: Space,
    cells: Cells,
    near: IntArray,
    gaussians: Gaussians,
    scratch: Scratch,
    found: IntArray,
) -> None:
    """Fill `found`, (k,), for query q.

    Visits the cells of `near` in the order of their lowest rank, and the members of a cell by
    rank, until nothing better than the k-th rank found can follow.
    """
    query, bound = space.points[queries.arrival[q]], queries.stop[q]
    for c in near:
        if cells.lowest[c] >= bound:
            break
        away = _distance(query, cells.centroids[c])
        if not away > (cells.radii[c] + space.radius) * (1 + SLACK):
            bound = _search_cell(
                c, q, bound, query, away, queries, space, cells, gaussians, scratch, found
            )


@compiled
def best_in_cells(
    queries: Queries,
    space: Space,
    cells: Cells,
    gaussians: Gaussians,
    found: IntArray,
    tested: BoolArray,
) -> None:
    """The lowest admissible ranks within the radius of each query, exactly.

    Queries of one cell share a list of the cells within reach, made once for all of them.

    Args:
        queries: Sorted by cell, or each makes a list of its own.
        space: Coordinates and radius.
        cells: All candidates.
        gaussians: Predictions that the candidates must pass eq. 9 against, if any.
        found: (n, k) filled with the k lowest ranks, ascending; S marks an empty place.
        tested: (n,) set where eq. 9 was tested, on a state that passed all else.
    """
    near = np.empty(cells.lowest.shape[0], dtype=np.int64)
    scratch = _scratch(gaussians)
    found[:] = space.points.shape[0]
    first = 0
    while first < found.shape[0]:
        last = _group_end(queries.cell, first)
        stop = queries.stop[first:last].max()
        n_near = _cells_of_group(first, stop, queries, space, cells, near)
        for q in range(first, last):
            scratch.ready[0] = False
            _search(q, queries, space, cells, near[:n_near], gaussians, scratch, found[q])
            tested[q] = scratch.ready[0]
        first = last


@compiled
def _count(
    q: int, most: int, queries: Queries, space: Space, cells: Cells, near: IntArray
) -> int:
    """Candidates within the radius of query q but s and s'; stops at `most`."""
    query, radius, total = space.points[queries.arrival[q]], space.radius, 0
    for c in near:
        away = _distance(query, cells.centroids[c])
        if away > (cells.radii[c] + radius) * (1 + SLACK):
            continue
        for i in range(cells.start[c], cells.start[c + 1]):
            if not _may_be_within(cells.distances[i], away, radius):
                continue
            if cells.ranks[i] == queries.own[q] or cells.ranks[i] == queries.floor[q]:
                continue
            total += _within(query, cells.members[i], space.limit)
            if total >= most:
                return total
    return total


@compiled
def count_in_cells(
    queries: Queries, most: int, space: Space, cells: Cells, count: IntArray
) -> None:
    """How many candidates lie within the radius of each s', besides s and s', into `count`.

    Args:
        queries: `floor` holds the rank of s', `stop` is not looked at.
        most: Stop counting a neighbourhood there.
        space: Coordinates and radius.
        cells: All candidates.
        count: (n,) filled.
    """
    near = np.empty(cells.lowest.shape[0], dtype=np.int64)
    first, stop = 0, space.points.shape[0]
    while first < count.shape[0]:
        last = _group_end(queries.cell, first)
        n_near = _cells_of_group(first, stop, queries, space, cells, near)
        for q in range(first, last):
            count[q] = _count(q, most, queries, space, cells, near[:n_near])
        first = last
