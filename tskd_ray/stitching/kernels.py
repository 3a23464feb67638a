"""Compiled inner loops of the hop search.

S states · F candidate states, in cells · n queries · M ensemble members · d dims

Imported only where a loop is about to run, since importing numba takes as long as small work.
Decisions are plain float64 without fast-math: sums run in the order they are written, so that
none depends on the machine's vector width, the thread or the search backend. What is too far
for certain was ruled out before (`reach`).
"""
# What numba compiles is untyped outside.
# pyright: reportUntypedFunctionDecorator=false

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tskd_ray.compiled import compiled, inlined
from tskd_ray.stitching.cells import NEVER, Cells
from tskd_ray.stitching.ellipsoids import Ellipsoids, fill, new_ellipsoids
from tskd_ray.stitching.lanes import lowest_bit
from tskd_ray.stitching.reach import (
    Group,
    Space,
    gather,
    list_near,
    new_group,
    next_cell,
    rewind,
)
from tskd_ray.types import BoolArray, Float64Array, FloatArray, IntArray

_EPS = float(np.finfo(np.float32).eps)


class Queries(NamedTuple):
    """Transitions s -> s', those with near s' together (`places`), or each is slow."""

    arrival: IntArray  # (n,) state number of s', whose neighbourhood is searched
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


@inlined
def _within(a: int, b: int, space: Space) -> bool:
    """Whether two states are near; partial sums never fall, so it may stop early."""
    total, limit = 0.0, space.limit
    for k in range(space.scale.shape[0]):
        scale = space.scale[k]
        difference = space.states[a, k] / scale - space.states[b, k] / scale
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
    return Scratch(np.empty((M, d)), np.empty(M), np.empty(M), np.empty(1))


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
def _insert(rank: int, found: IntArray) -> int:
    """Sort `rank` into the k lowest ranks `found`, dropping the highest; the new highest."""
    place = found.shape[0] - 1
    while place > 0 and found[place - 1] > rank:
        found[place] = found[place - 1]
        place -= 1
    found[place] = rank
    return found[-1]


@compiled
def _passes(
    q: int,
    rank: int,
    queries: Queries,
    space: Space,
    cells: Cells,
    gaussians: Gaussians,
    scratch: Scratch,
    ellipsoids: Ellipsoids,
) -> bool:
    """Eq. 9 for the candidate of a rank; the first one of a query fills in the rest."""
    if not ellipsoids.ready[0]:
        recorded = space.states[queries.arrival[q]]
        scratch.least[0] = _prepare(q, recorded, gaussians, scratch)
        fill(
            gaussians.mean[:, q],
            scratch.precision,
            scratch.norm,
            scratch.least[0],
            space.scale,
            cells,
            ellipsoids,
        )
    x = space.states[space.of_rank[rank]]
    return _plausible(q, x, gaussians, scratch, scratch.least[0])


@inlined
def _search(
    q: int,
    place: int,
    queries: Queries,
    space: Space,
    cells: Cells,
    group: Group,
    gaussians: Gaussians,
    scratch: Scratch,
    ellipsoids: Ellipsoids,
    found: IntArray,
) -> None:
    """Fill `found`, (n, k), for query q, which has a place in the group.

    Visits the listed cells in the order of their lowest rank, and the members of a cell by
    rank, until nothing better than the k-th rank found can follow.
    """
    bound, floor, own, first = (
        queries.stop[q],
        queries.floor[q],
        queries.own[q],
        cells.first_rank[0],
    )
    rewind(group)
    cell = next_cell(place, bound - first, cells, group, ellipsoids)
    while cell >= 0:
        lanes = group.cursor[4]
        while lanes:
            member = np.int64(cells.ranks[cell, lowest_bit(lanes)])
            lanes &= lanes - 1
            rank = member + first
            if rank >= bound:
                break
            if rank <= floor or rank == own:
                continue
            if not _within(queries.arrival[q], space.of_rank[rank], space):
                continue
            if gaussians.mean.shape[0] and not _passes(
                q, rank, queries, space, cells, gaussians, scratch, ellipsoids
            ):
                continue
            bound = min(bound, _insert(rank, found[q]))
        cell = next_cell(place, bound - first, cells, group, ellipsoids)


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

    Args:
        queries: In any order; sorted by `places` is fast.
        space: Coordinates and radius.
        cells: All candidates of a range of ranks.
        gaussians: Predictions that the candidates must pass eq. 9 against, if any.
        found: (n, k) filled with the k lowest ranks, ascending; S marks an empty place.
        tested: (n,) set where eq. 9 was tested, on a state that passed all else.
    """
    members, _, d = gaussians.mean.shape
    group, scratch = new_group(cells, members), _scratch(gaussians)
    ellipsoids = new_ellipsoids(members, d)
    found[:], tested[:] = space.states.shape[0], False
    first = 0
    while first < found.shape[0]:
        last = gather(first, space, queries.arrival, cells, group)
        most = queries.stop[first:last].max() - cells.first_rank[0]
        list_near(most, cells, group)
        for q in range(first, last):
            place = q - first
            if math.isnan(group.along[place, 0]):
                continue
            ellipsoids.ready[0] = False
            _search(
                q, place, queries, space, cells, group, gaussians, scratch, ellipsoids, found
            )
            tested[q] = ellipsoids.ready[0]
        first = last


@compiled
def _count(
    q: int,
    most: int,
    place: int,
    queries: Queries,
    space: Space,
    cells: Cells,
    group: Group,
    no_ellipsoids: Ellipsoids,
) -> int:
    """Candidates within the radius of query q but s and s'; stops at `most`."""
    arrival, first, total = queries.arrival[q], cells.first_rank[0], 0
    rewind(group)
    cell = next_cell(place, NEVER, cells, group, no_ellipsoids)
    while cell >= 0:
        lanes = group.cursor[4]
        while lanes:
            member = np.int64(cells.ranks[cell, lowest_bit(lanes)])
            lanes &= lanes - 1
            if member == NEVER:
                break
            rank = member + first
            if rank in (queries.own[q], queries.floor[q]):
                continue
            total += _within(arrival, space.of_rank[rank], space)
            if total >= most:
                return total
        cell = next_cell(place, NEVER, cells, group, no_ellipsoids)
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
        cells: All candidates of a range of ranks.
        count: (n,) filled.
    """
    group, no_ellipsoids = new_group(cells, 0), new_ellipsoids(0, space.states.shape[1])
    first = 0
    while first < count.shape[0]:
        last = gather(first, space, queries.arrival, cells, group)
        list_near(NEVER, cells, group)
        for q in range(first, last):
            place = q - first
            if math.isnan(group.along[place, 0]):
                count[q] = 0
            else:
                count[q] = _count(q, most, place, queries, space, cells, group, no_ellipsoids)
        first = last
