"""`Cells`: the states in groups of 16 near ones, and a tree of boxes around them.

F candidate states · C cells · B nodes of the tree · d dims · W = 16 lanes

What makes the exact search fast: a query visits the cells within its reach in the order of
their best member, and stops as soon as nothing better than what it has can follow. It never
lists a neighbourhood, so its memory is constant and a larger radius costs hardly more.

Reach is judged in coordinates of its own, float32, along the principal axes of the states, with
a slack for every rounding error; whether a state is near is decided on the given coordinates.
One vector operation handles a dimension of all W members of a cell, or of all W children of a
node, which is why there are as many.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tskd_ray.stitching.points import Points
from tskd_ray.types import Float32Array, Float64Array, Int32Array, IntArray

LANES = 16
"""Numbers that one vector operation takes, W."""

NEVER = int(np.iinfo(np.int32).max)
"""Rank of a place that holds no state."""

_SAMPLE = 100_000
"""States that the principal axes are taken from."""

_BLOCK = 65_536
"""Rows at a time."""


class Cells(NamedTuple):
    """The search structure; a tuple of arrays, as kernels want. Ranks here count from 0.

    Cells are numbered by their lowest rank. Their places, in contrast, follow the splits of
    space: neighbours are near each other. The W children of node i of one level are the nodes,
    and on level 0 the places of cells, W·i … W·i + W − 1 of the level below.
    """

    size: IntArray  # (1,) F
    first_rank: IntArray  # (1,) what the first member's rank is to the caller
    centre: Float64Array  # (d,)
    axes: Float64Array  # (d, d) row k: principal axis k, divided by the unit
    unit: Float64Array  # (1,) no member is farther from the centre
    ranks: Int32Array  # (C, W) of the members, ascending, then `NEVER`
    inner: Float32Array  # (C, d, W) of the members, along the axes
    given: Float32Array  # (C, d, W) of the members, as given but for centre and unit
    bounds: Float32Array  # (C, 2, d) least and greatest of `inner`
    given_bounds: Float32Array  # (C, 2, d) and of `given`
    cell_at: Int32Array  # (C,) cell of each place
    boxes: Float32Array  # (B, d, 2, W) least and greatest of each child, level by level
    lowest: Int32Array  # (B, W) lowest rank of each child
    level: IntArray  # (L + 1,) first node of each level, and B; the last level is the root
    split_axis: Int32Array  # (C,) places p and more lie beyond the split number p …
    split_at: Float32Array  # (C,) … in coordinate `split_axis[p]`, from this value on


def build_cells(points: Points, *, first_rank: int = 0) -> Cells:
    """Group `points`, (F, d) in order of rank, finite; at least one.

    Space is halved, always across the axis of largest variance, until W states are left.
    Where a state comes to lie only decides how fast the search is, never what it finds. Takes
    about d·F·log F operations, and memory for three copies of the points in float32, of which
    two are kept.
    """
    from tskd_ray.stitching.splits import split

    n, d = points.shape
    n_cells = -(-n // LANES)
    centre, axes, unit = _frame(points)
    inner = np.empty((n_cells * LANES, d), dtype=np.float32)
    for rows, block in points.blocks():
        inner[rows] = (block - centre) @ axes.T
    order = np.full(n_cells * LANES, NEVER, dtype=np.int32)
    order[:n] = np.arange(n, dtype=np.int32)
    split_axis = np.zeros(n_cells, dtype=np.int32)
    split_at = np.zeros(n_cells, dtype=np.float32)
    split(inner[:n], order[:n], split_axis, split_at)
    inner[n:] = inner[n - 1]
    inner, order = inner.reshape(n_cells, LANES, d), order.reshape(n_cells, LANES)
    low, high, lowest = inner.min(axis=1), inner.max(axis=1), order.min(axis=1)
    cell_at = np.empty(n_cells, dtype=np.int32)
    by_lowest = np.argsort(lowest, kind="stable")
    cell_at[by_lowest] = np.arange(n_cells, dtype=np.int32)
    boxes, box_lowest, level = _levels(low, high, lowest)
    ranks, lanes = _lanes(inner, order, by_lowest)
    del inner
    given = _given(points, ranks, centre, unit)
    return Cells(
        size=np.array([n], dtype=np.int64),
        first_rank=np.array([first_rank], dtype=np.int64),
        centre=centre,
        axes=axes,
        unit=np.array([unit]),
        ranks=ranks,
        inner=lanes,
        given=given,
        bounds=np.stack([low[by_lowest], high[by_lowest]], axis=1),
        given_bounds=np.stack([given.min(axis=2), given.max(axis=2)], axis=1),
        cell_at=cell_at,
        boxes=boxes,
        lowest=box_lowest,
        level=level,
        split_axis=split_axis,
        split_at=split_at,
    )


def _frame(points: Points) -> tuple[Float64Array, Float64Array, float]:
    """Centre, principal axes divided by the unit, and the unit: no point is farther off.

    Units far from 1 would overflow or vanish when squared in float32.
    """
    sample = points[:: -(-len(points) // _SAMPLE)].astype(np.float64, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        centre = sample.mean(axis=0)
        largest = max(float(np.abs(block - centre).max()) for _, block in points.blocks())
        unit = largest * np.sqrt(points.shape[1]) or 1.0
    if not np.isfinite(unit):  # beyond what float64 can square: all in one place
        return np.zeros(points.shape[1]), np.zeros((points.shape[1],) * 2), np.inf
    sample = (sample - centre) / unit
    _, axes = np.linalg.eigh(sample.T @ sample)
    return centre, np.ascontiguousarray(axes.T[::-1]) / unit, float(unit)


def _levels(
    low: Float32Array, high: Float32Array, lowest: Int32Array
) -> tuple[Float32Array, Int32Array, IntArray]:
    """Boxes, lowest ranks and first node of each level, from the boxes of places up."""
    boxes, ranks, level = list[Float32Array](), list[Int32Array](), [0]
    d = low.shape[1]
    while True:
        nodes = -(-len(low) // LANES)
        empty = nodes * LANES - len(low)
        low = np.pad(low, ((0, empty), (0, 0)), constant_values=np.inf)
        high = np.pad(high, ((0, empty), (0, 0)), constant_values=-np.inf)
        lowest = np.pad(lowest, (0, empty), constant_values=NEVER).reshape(nodes, LANES)
        low, high = low.reshape(nodes, LANES, d), high.reshape(nodes, LANES, d)
        boxes.append(np.ascontiguousarray(np.stack([low, high], axis=1).transpose(0, 3, 1, 2)))
        ranks.append(lowest)
        level.append(level[-1] + nodes)
        if nodes == 1:
            return np.concatenate(boxes), np.concatenate(ranks), np.array(level)
        low, high, lowest = low.min(axis=1), high.max(axis=1), lowest.min(axis=1)


def _given(
    points: Points, ranks: Int32Array, centre: Float64Array, unit: float
) -> Float32Array:
    """Coordinates (C, d, W) of the members of `ranks`, (C, W); any where there is none."""
    given = np.empty((len(ranks), points.shape[1], LANES), dtype=np.float32)
    step = _BLOCK // LANES
    for i in range(0, len(ranks), step):
        members = np.minimum(ranks[i : i + step], len(points) - 1)
        given[i : i + step] = ((points[members] - centre) / unit).transpose(0, 2, 1)
    return given


def _lanes(
    inner: Float32Array, order: Int32Array, cells: IntArray
) -> tuple[Int32Array, Float32Array]:
    """Ranks (C, W) and coordinates (C, d, W) of `cells`, members by rank."""
    ranks = np.empty(order.shape, dtype=np.int32)
    lanes = np.empty((len(order), inner.shape[2], LANES), dtype=np.float32)
    for i in range(0, len(cells), _BLOCK):
        part = slice(i, i + _BLOCK)
        by_rank = np.argsort(order[cells[part]], axis=1)
        ranks[part] = np.take_along_axis(order[cells[part]], by_rank, axis=1)
        rows = np.take_along_axis(inner[cells[part]], by_rank[:, :, None], axis=1)
        lanes[part] = rows.transpose(0, 2, 1)
    return ranks, lanes
