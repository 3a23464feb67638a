"""Compiled inner loops of the hop search and of the walks.

S states · F candidate states, in cells · C cells · n queries · M ensemble members · d dims

Imported only where a loop is about to run, since importing numba takes as long as small work.
Everything is plain float64 without fast-math: sums run in the order they are written, so that
a decision does not depend on the machine's vector width, the thread or the search backend.
"""
# numba's decorators are untyped
# pyright: reportUntypedFunctionDecorator=false, reportMissingTypeStubs=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import math

import numpy as np
from numba import njit

from tskd_ray.types import BoolArray, Float64Array, FloatArray, Int8Array, IntArray

SLACK = 1e-9
"""Relative allowance for rounding when a cell or a member is ruled out by the triangle
inequality; far above (d + 4)·2⁻⁵³ for any d met here, and never part of a decision."""

TERMINATED, TRUNCATED, CYCLE, CAP = 0, 1, 2, 3
"""How a walk ended, in the order of `walks.END_NAMES`."""


@njit(nogil=True, cache=True)
def _distance(a: FloatArray, b: FloatArray) -> float:
    total = 0.0
    for k in range(a.shape[0]):
        difference = np.float64(a[k]) - np.float64(b[k])
        total += difference * difference
    return math.sqrt(total)


@njit(nogil=True, cache=True)
def _within(a: FloatArray, b: FloatArray, limit: float) -> bool:
    """Squared distance at most `limit`; partial sums never fall, so it may stop early."""
    total = 0.0
    for k in range(a.shape[0]):
        difference = np.float64(a[k]) - np.float64(b[k])
        total += difference * difference
        if total > limit:
            return False
    return total <= limit  # not "True": a NaN is never within


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
def _log_density(
    x: FloatArray, mean: Float64Array, precision: Float64Array, norm: float, least: float
) -> float:
    """log N(x; mean, 1/precision²) up to d/2·log 2π; may stop early once below `least`."""
    total = 0.0
    for k in range(mean.shape[0]):
        z = (np.float64(x[k]) - mean[k]) * precision[k]
        total += z * z
        if norm - 0.5 * total < least:
            break
    return norm - 0.5 * total


@njit(nogil=True, cache=True)
def _prepare(
    recorded: FloatArray,
    mean_Md: Float64Array,
    log_std_Md: Float64Array,
    precision_Md: Float64Array,
    norm_M: Float64Array,
    log_p_M: Float64Array,
) -> float:
    """Fill the scratch arrays of one transition; its right side of eq. 9, in log space (D13)."""
    for m in range(mean_Md.shape[0]):
        norm_M[m] = 0.0
        for k in range(mean_Md.shape[1]):
            precision_Md[m, k] = math.exp(-log_std_Md[m, k])
            norm_M[m] -= log_std_Md[m, k]
        log_p_M[m] = _log_density(recorded, mean_Md[m], precision_Md[m], norm_M[m], -np.inf)
    return _log_mean_exp(log_p_M)


@njit(nogil=True, cache=True)
def _plausible(
    x: FloatArray,
    mean_Md: Float64Array,
    precision_Md: Float64Array,
    norm_M: Float64Array,
    least: float,
) -> bool:
    """min_m log p_m(x) >= least; a NaN on either side refuses (D17)."""
    for m in range(mean_Md.shape[0]):
        if not _log_density(x, mean_Md[m], precision_Md[m], norm_M[m], least) >= least:
            return False
    return True


@njit(nogil=True, cache=True)
def plausible_pairs(
    states: FloatArray,
    arrival: IntArray,
    candidate: IntArray,
    mean: Float64Array,
    log_std: Float64Array,
    accepted: BoolArray,
) -> None:
    """Eq. 9 for each row: `candidate[q]` against the recorded `arrival[q]`, into `accepted`."""
    M, n, d = mean.shape
    precision, norm, log_p = np.empty((M, d)), np.empty(M), np.empty(M)
    for q in range(n):
        mean_Md, log_std_Md = mean[:, q], log_std[:, q]
        least = _prepare(states[arrival[q]], mean_Md, log_std_Md, precision, norm, log_p)
        accepted[q] = _plausible(states[candidate[q]], mean_Md, precision, norm, least)


@njit(nogil=True, cache=True)
def _near_cells(
    centre: FloatArray,
    reach: float,
    stop: int,
    centroids: Float64Array,
    radii: Float64Array,
    lowest: IntArray,
    near: IntArray,
) -> int:
    """List in `near` the cells that may hold a rank below `stop` within `reach` of `centre`."""
    count = 0
    for c in range(lowest.shape[0]):
        if lowest[c] >= stop:
            break  # cells are sorted by their lowest rank
        # "not >": where numbers overflowed to NaN, nothing may be ruled out
        if not _distance(centre, centroids[c]) > (reach + radii[c]) * (1 + SLACK):
            near[count] = c
            count += 1
    return count


@njit(nogil=True, cache=True)
def _group_end(cell: IntArray, first: int) -> int:
    """End of the run of queries that share the cell of query `first`; -1 shares with none."""
    last = first + 1
    while cell[first] >= 0 and last < cell.shape[0] and cell[last] == cell[first]:
        last += 1
    return last


@njit(nogil=True, cache=True)
def best_in_cells(
    arrival: IntArray,
    cell: IntArray,
    floor: IntArray,
    stop: IntArray,
    own: IntArray,
    points: FloatArray,
    limit: float,
    radius: float,
    centroids: Float64Array,
    radii: Float64Array,
    lowest: IntArray,
    start: IntArray,
    ranks: IntArray,
    distances: Float64Array,
    members: FloatArray,
    states: FloatArray,
    state_of_rank: IntArray,
    mean: Float64Array,
    log_std: Float64Array,
    found: IntArray,
    better: BoolArray,
) -> None:
    """The lowest admissible ranks within `radius` of each query, exactly.

    Queries come sorted by cell. Those of one cell share a list of the cells within reach, made
    once per cell; a query then visits them in the order of their lowest rank, and a cell's
    members by rank, until nothing better can follow.

    Args:
        arrival: (n,) state number s' whose neighbourhood is searched.
        cell: (n,) cell of s', or -1 if it is in none.
        floor, stop: (n,) only ranks with floor < rank < stop are admissible.
        own: (n,) rank of the state s that is left, never its own destination (D16).
        points: (S, d) coordinates in the metric of the radius.
        limit: Largest squared distance that counts as within the radius.
        mean, log_std: (M, n, d) of the next state, per query; M = 0 skips eq. 9.
        found: (n, k) filled with the k lowest ranks, ascending; S marks an empty place.
        better: (n,) set where a state passed every test but eq. 9.
    """
    n, k = found.shape
    M, d = mean.shape[0], points.shape[1]
    nothing = points.shape[0]
    near = np.empty(lowest.shape[0], dtype=np.int64)
    precision, norm, log_p = np.empty((M, mean.shape[2])), np.empty(M), np.empty(M)
    query = np.empty(d)
    first = 0
    while first < n:
        last = _group_end(cell, first)
        highest = 0
        for q in range(first, last):
            highest = max(highest, stop[q])
        if cell[first] >= 0:
            g = cell[first]
            n_near = _near_cells(
                centroids[g], radii[g] + radius, highest, centroids, radii, lowest, near
            )
        else:
            n_near = _near_cells(
                points[arrival[first]], radius, highest, centroids, radii, lowest, near
            )
        for q in range(first, last):
            bound, least, ready = stop[q], np.nan, False
            for j in range(k):
                found[q, j] = nothing
            for j in range(d):
                query[j] = points[arrival[q], j]
            for j in range(n_near):
                c = near[j]
                if lowest[c] >= bound:
                    break
                away = _distance(query, centroids[c])
                if away > (radii[c] + radius) * (1 + SLACK):
                    continue
                for i in range(start[c], start[c + 1]):
                    rank = ranks[i]
                    if rank >= bound:
                        break
                    gap = abs(distances[i] - away)
                    if gap > radius + SLACK * (distances[i] + away + radius):
                        continue
                    if rank <= floor[q] or not _within(query, members[i], limit):
                        continue
                    if rank == own[q]:
                        continue
                    better[q] = True
                    if M > 0:
                        if not ready:
                            least = _prepare(
                                states[arrival[q]], mean[:, q], log_std[:, q],
                                precision, norm, log_p,
                            )  # fmt: skip
                            ready = True
                        x = states[state_of_rank[rank]]
                        if not _plausible(x, mean[:, q], precision, norm, least):
                            continue
                    place = k - 1
                    while place > 0 and found[q, place - 1] > rank:
                        found[q, place] = found[q, place - 1]
                        place -= 1
                    found[q, place] = rank
                    if found[q, k - 1] < bound:
                        bound = found[q, k - 1]
        first = last


@njit(nogil=True, cache=True)
def count_in_cells(
    arrival: IntArray,
    cell: IntArray,
    own: IntArray,
    arrival_rank: IntArray,
    most: int,
    points: FloatArray,
    limit: float,
    radius: float,
    centroids: Float64Array,
    radii: Float64Array,
    lowest: IntArray,
    start: IntArray,
    ranks: IntArray,
    distances: Float64Array,
    members: FloatArray,
    count: IntArray,
) -> None:
    """How many candidates lie within `radius` of each s', besides s and s' themselves.

    Stops at `most` per query; otherwise as `best_in_cells`.
    """
    near = np.empty(lowest.shape[0], dtype=np.int64)
    nothing = points.shape[0]
    first = 0
    while first < arrival.shape[0]:
        last = _group_end(cell, first)
        if cell[first] >= 0:
            g = cell[first]
            n_near = _near_cells(
                centroids[g], radii[g] + radius, nothing, centroids, radii, lowest, near
            )
        else:
            n_near = _near_cells(
                points[arrival[first]], radius, nothing, centroids, radii, lowest, near
            )
        for q in range(first, last):
            total = 0
            for j in range(n_near):
                c = near[j]
                if total >= most:
                    break
                away = _distance(points[arrival[q]], centroids[c])
                if away > (radii[c] + radius) * (1 + SLACK):
                    continue
                for i in range(start[c], start[c + 1]):
                    gap = abs(distances[i] - away)
                    if gap > radius + SLACK * (distances[i] + away + radius):
                        continue
                    if ranks[i] == own[q] or ranks[i] == arrival_rank[q]:
                        continue
                    if _within(points[arrival[q]], members[i], limit):
                        total += 1
                        if total >= most:
                            break
            count[q] = total
        first = last


@njit(nogil=True, cache=True)
def follow(
    first_step: IntArray,
    cap: IntArray,
    step_source: IntArray,
    successor: IntArray,
    hop: BoolArray,
    step_of_state: IntArray,
    final_terminated: BoolArray,
    stop_at_cycle: bool,
    length: IntArray,
    n_hops: IntArray,
    last_state: IntArray,
    end: Int8Array,
    cyclic: BoolArray,
    used: BoolArray,
) -> None:
    """Walk from each episode's first step along `successor`; fills the arrays after the flag.

    Args:
        successor: (n,) state number that each step arrives at, recorded or hopped to.
        step_of_state: (S,) step that leaves a state; -1 for final states.
        final_terminated: (S,) whether a final state is terminal.
    """
    left_by = np.full(step_of_state.shape[0], -1, dtype=np.int64)
    for walk in range(first_step.shape[0]):
        step = first_step[walk]
        while True:
            left_by[step_source[step]] = walk
            length[walk] += 1
            if hop[step]:
                n_hops[walk] += 1
                used[step] = True
            state = successor[step]
            step = step_of_state[state]
            if step < 0:
                end[walk] = TERMINATED if final_terminated[state] else TRUNCATED
                break
            if left_by[state] == walk:
                cyclic[walk] = True
                if stop_at_cycle:
                    end[walk] = CYCLE
                    break
            if length[walk] >= cap[walk]:
                end[walk] = CAP
                break
        last_state[walk] = state


@njit(nogil=True, cache=True)
def trace(
    first_step: IntArray,
    length: IntArray,
    successor: IntArray,
    step_of_state: IntArray,
    path: IntArray,
) -> None:
    """The steps of walks of known lengths, one walk after the other, into `path`."""
    place = 0
    for walk in range(first_step.shape[0]):
        step = first_step[walk]
        for _ in range(length[walk]):
            path[place] = step
            place += 1
            step = step_of_state[successor[step]]
