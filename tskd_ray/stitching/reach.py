"""Compiled: which cells, and which of their members, may be within reach of a query.

C cells · L levels of the tree · W = 16 lanes · d dims

All in float32 with a slack for its rounding: what is ruled out here is too far for certain, and
the rest remains to be decided.
"""
# What numba compiles is untyped outside.
# pyright: reportUntypedFunctionDecorator=false

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tskd_ray.compiled import compiled, inlined
from tskd_ray.stitching.cells import LANES, Cells
from tskd_ray.stitching.ellipsoids import Ellipsoids, likely_cells, likely_lanes
from tskd_ray.stitching.lanes import lowest_bit, near_boxes, near_members, prefetch
from tskd_ray.stitching.splits import middle
from tskd_ray.types import Float32Array, Float64Array, FloatArray, Int32Array, IntArray

_GROUP = 256
"""Queries that share a list of cells, at most."""

_TOGETHER = 4
"""Neighbouring cells whose states, as queries, share one."""

_LEADING = 4
"""Dimensions that are looked at first."""

_AHEAD = 8
"""Cells whose bounds are on their way from memory while one is looked at."""

_EPS = float(np.finfo(np.float32).eps)


class Space(NamedTuple):
    """Where the states are, and what counts as near."""

    states: FloatArray  # (S, d) raw
    of_rank: IntArray  # (F,) state of each rank
    scale: Float64Array  # (d,) raw states are points times this
    limit: float  # largest squared distance that counts as within the radius
    radius: float


class Group(NamedTuple):
    """Near queries, which share a list of the cells within reach of any of them."""

    offset: Float64Array  # (d,) of the query at hand from the centre
    along: Float32Array  # (_GROUP, d) the queries, in the coordinates of the cells
    low: Float32Array  # (d,) least of them
    high: Float32Array  # (d,) greatest
    limit: Float32Array  # (1,) largest squared distance there that may be within the radius
    stack: IntArray  # (W·L, 2) level and node
    marks: IntArray  # (C / 64,) a bit per cell; all 0 between uses
    marked: IntArray  # (C / 64²,) a bit per word of those that is not 0; likewise
    near: Int32Array  # (C,) cells within reach, by number and so by lowest rank
    boxes: Float32Array  # (2·d·C,) their bounds, laid out as the boxes of the tree
    given: Float32Array  # (2·d·C,) likewise, in the given coordinates; only for eq. 9
    cursor: IntArray  # (5,) how many are listed, and of how many the bounds are laid out;
    # of `next_cell`: first of the W at hand, which of them are still to visit, lanes found


@inlined
def _along_axes(
    state: int, space: Space, cells: Cells, offset: Float64Array, along: Float32Array
) -> float:
    """A state in the coordinates of the cells, into `along`; the largest, NaN if any is."""
    largest = 0.0
    for i in range(along.shape[0]):
        offset[i] = space.states[state, i] / space.scale[i] - cells.centre[i]
    for k in range(along.shape[0]):
        total = 0.0
        for i in range(along.shape[0]):
            total += cells.axes[k, i] * offset[i]
        along[k] = total
        if not abs(total) <= largest:
            largest = abs(total)
            if math.isnan(largest):
                return np.nan
    return largest


@inlined
def _place(along: Float32Array, cells: Cells) -> int:
    first, stop = 0, cells.cell_at.shape[0]
    while stop - first > 1:
        between = middle(first, stop)
        if along[cells.split_axis[between]] < cells.split_at[between]:
            stop = between
        else:
            first = between
    return first


@compiled
def places(space: Space, arrival: IntArray, cells: Cells, place: IntArray) -> None:
    """Where in the tree each s' belongs, into `place`, (n,): near ones have near places."""
    offset = np.empty(cells.axes.shape[0])
    along = np.empty(cells.axes.shape[0], dtype=np.float32)
    for q in range(arrival.shape[0]):
        _along_axes(arrival[q], space, cells, offset, along)
        place[q] = _place(along, cells)


@compiled
def new_group(cells: Cells, members: int) -> Group:
    """Work space for queries of `cells`, with eq. 9 of so many ensemble members or none."""
    n_cells, d, _ = cells.inner.shape
    padded = (n_cells + LANES - 1) // LANES * LANES
    return Group(
        np.empty(d),
        np.empty((_GROUP, d), dtype=np.float32),
        np.empty(d, dtype=np.float32),
        np.empty(d, dtype=np.float32),
        np.empty(1, dtype=np.float32),
        np.empty((LANES * cells.level.shape[0], 2), dtype=np.int64),
        np.zeros((n_cells + 63) // 64, dtype=np.int64),
        np.zeros((n_cells + 4095) // 4096, dtype=np.int64),
        np.empty(n_cells, dtype=np.int32),
        np.empty(padded * 2 * d, dtype=np.float32),
        np.empty(padded * 2 * d if members else 0, dtype=np.float32),
        np.zeros(5, dtype=np.int64),
    )


@compiled
def gather(first: int, space: Space, arrival: IntArray, cells: Cells, group: Group) -> int:
    """Fill in the queries from number `first` on whose neighbourhood is the same; their end."""
    d = group.low.shape[0]
    shared, size, last = -1, 1.0, first
    group.low[:], group.high[:] = np.inf, -np.inf
    while last < min(arrival.shape[0], first + _GROUP):
        along = group.along[last - first]
        largest = _along_axes(arrival[last], space, cells, group.offset, along)
        if not largest < np.inf:
            along[0] = np.nan  # not finite, and so near nothing
        else:
            near = _place(along, cells) // _TOGETHER
            if shared not in (-1, near):
                break
            shared = near
            size = max(size, largest * math.sqrt(d))
            for k in range(d):
                group.low[k] = min(group.low[k], along[k])
                group.high[k] = max(group.high[k], along[k])
        last += 1
    reach = space.radius / cells.unit[0] + 2 * _EPS * size  # rounding of the coordinates
    group.limit[0] = reach * reach * (1 + (d + 6) * _EPS)  # of the sums, and of the limit
    return last


@compiled
def list_near(most: int, cells: Cells, group: Group) -> None:
    """List the cells within reach of the group that hold a rank below `most`."""
    d = group.low.shape[0]
    group.stack[0, 0], group.stack[0, 1], waiting = cells.level.shape[0] - 2, 0, 1
    while waiting:
        waiting -= 1
        level, node = group.stack[waiting, 0], group.stack[waiting, 1]
        row = cells.level[level] + node
        bits = near_boxes(
            cells.boxes, row * 2 * d * LANES, group.low, group.high, 0, d, group.limit[0]
        )
        while bits:
            lane = lowest_bit(bits)
            bits &= bits - 1
            if cells.lowest[row, lane] >= most:
                continue
            child = node * LANES + lane
            if level:
                group.stack[waiting, 0], group.stack[waiting, 1] = level - 1, child
                waiting += 1
            else:
                cell = cells.cell_at[child]
                word = cell >> 6
                group.marks[word] |= np.int64(1) << (cell & 63)
                group.marked[word >> 6] |= np.int64(1) << (word & 63)
    count = 0
    for place in range(group.marked.shape[0]):
        words = group.marked[place]
        group.marked[place] = 0
        while words:
            word = (place << 6) + lowest_bit(words)
            words &= words - 1
            bits = group.marks[word]
            group.marks[word] = 0
            while bits:
                group.near[count] = (word << 6) + lowest_bit(bits)
                count += 1
                bits &= bits - 1
    group.cursor[0], group.cursor[1] = count, 0


@compiled
def _unpack(stop: int, cells: Cells, group: Group) -> None:
    """Lay out the bounds of the listed cells before number `stop`."""
    last = group.cursor[0] - 1
    _lay_out(group.cursor[1], stop, last, group.near, cells.bounds, group.boxes)
    if group.given.shape[0]:
        _lay_out(group.cursor[1], stop, last, group.near, cells.given_bounds, group.given)
    group.cursor[1] = stop


@inlined
def _lay_out(
    first: int,
    stop: int,
    last: int,
    near: Int32Array,
    bounds: Float32Array,
    boxes: Float32Array,
) -> None:
    d = bounds.shape[2]
    for i in range(first, stop):
        ahead = near[min(i + _AHEAD, last)] * 2 * d
        prefetch(bounds, ahead)
        prefetch(bounds, ahead + LANES)
        prefetch(bounds, ahead + 2 * d - 1)
        at, cell = i // LANES * 2 * d * LANES + i % LANES, near[i]
        for k in range(d):
            boxes[at + 2 * k * LANES] = bounds[cell, 0, k]
            boxes[at + (2 * k + 1) * LANES] = bounds[cell, 1, k]


@inlined
def rewind(group: Group) -> None:
    """Let `next_cell` begin with the first listed cell again."""
    group.cursor[2] = -LANES
    group.cursor[3] = 0


@inlined
def _sixteen(first: int, query: int, cells: Cells, group: Group, ellipsoids: Ellipsoids) -> int:
    """Which of W listed cells from number `first` on may hold what is looked for, as bits."""
    d, listed, near = group.low.shape[0], group.cursor[0], group.near
    if first >= group.cursor[1]:
        _unpack(min(listed, first + 4 * LANES), cells, group)
    bits = near_boxes(
        group.boxes, first * 2 * d, group.along, group.along, query * d, d, group.limit[0]
    )
    bits &= (1 << min(LANES, listed - first)) - 1
    if ellipsoids.ready[0]:
        bits = likely_cells(group.given, first, bits, ellipsoids)
    coming = bits
    while coming:
        start = near[first + lowest_bit(coming)] * d * LANES
        coming &= coming - 1
        for k in range(min(d, _LEADING)):
            prefetch(cells.inner, start + k * LANES)
    return bits


@compiled
def next_cell(
    query: int, bound: int, cells: Cells, group: Group, ellipsoids: Ellipsoids
) -> int:
    """The next listed cell with members that may be near a query; those lanes into the cursor.

    Args:
        query: Counted from the first of the group.
        bound: Cells without a rank below it are left out.
        cells: All.
        group: With cells listed; the cursor is moved.
        ellipsoids: Once they are ready, members that fail eq. 9 for certain are left out too.

    Returns:
        Number of the cell, -1 if none is left.
    """
    near, ranks, inner, along = group.near, cells.ranks, cells.inner, group.along
    d, listed, limit = group.low.shape[0], group.cursor[0], group.limit[0]
    first, bits, at = group.cursor[2], group.cursor[3], query * d
    leading = min(d, _LEADING)
    while True:
        while bits == 0:
            first += LANES
            if first >= listed or ranks[near[first], 0] >= bound:
                return -1
            bits = _sixteen(first, query, cells, group, ellipsoids)
        cell = int(near[first + lowest_bit(bits)])
        bits &= bits - 1
        if ranks[cell, 0] >= bound:
            return -1
        # The leading axes carry most of the distance.
        if near_members(inner, cell * d * LANES, along, at, leading, limit) == 0:
            continue
        lanes = near_members(inner, cell * d * LANES, along, at, d, limit)
        if lanes and ellipsoids.ready[0]:
            lanes &= likely_lanes(cell, cells, ellipsoids)
        if lanes:
            group.cursor[2], group.cursor[3], group.cursor[4] = first, bits, lanes
            return cell
