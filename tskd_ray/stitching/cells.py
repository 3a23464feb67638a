"""`Cells`: the states in groups of near ones, each sorted by value.

F candidate states · C cells · d dims

What makes the exact search fast: a query visits the cells within its reach in the order of
their best member, and stops as soon as nothing better than what it has can follow. It never
lists a neighbourhood, so its memory is constant and a larger radius costs hardly more.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tskd_ray.data.trajectories import ranges
from tskd_ray.types import Float64Array, FloatArray, IntArray

_FEW = 128
"""So few states are one cell: k-means would cost more than it saves."""


class Cells(NamedTuple):
    """Cells sorted by their lowest rank, their members by rank; a tuple, as kernels want."""

    centroids: Float64Array  # (C, d)
    radii: Float64Array  # (C,) largest distance of a member to the centroid
    lowest: IntArray  # (C,) lowest rank of a member
    start: IntArray  # (C + 1,) first member of each cell, and F
    ranks: IntArray  # (F,) rank of each member
    distances: Float64Array  # (F,) to the cell's centroid
    members: FloatArray  # (F, d) coordinates
    of_rank: IntArray  # (F,) cell of the state of each rank


def default_cells(n_points: int) -> int:
    """How many cells suit `n_points`: about 4·√F, measured best on gait data."""
    return 1 if n_points <= _FEW else int(4 * np.sqrt(n_points))


def build_cells(points: FloatArray, assignment: IntArray) -> Cells:
    """Group `points`, (F, d) in order of rank, by `assignment`, (F,) any non-negative numbers.

    Any assignment gives the same search results; a good one gives them sooner.
    """
    order = np.argsort(assignment, kind="stable")  # within a cell: still by rank
    _, start = np.unique(assignment[order], return_index=True)
    start = np.append(start, len(order)).astype(np.int64)
    by_lowest = np.argsort(order[start[:-1]], kind="stable")
    sizes = np.diff(start)[by_lowest]
    order = order[ranges(start[by_lowest], sizes)]
    start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    members = np.ascontiguousarray(points[order])
    sums = np.add.reduceat(members.astype(np.float64), start[:-1], axis=0)
    centroids = sums / sizes[:, None]
    cell = np.repeat(np.arange(len(sizes)), sizes)
    distances = np.sqrt(((members.astype(np.float64) - centroids[cell]) ** 2).sum(axis=1))
    of_rank = np.empty(len(order), dtype=np.int64)
    of_rank[order] = cell
    return Cells(
        centroids=centroids,
        radii=np.maximum.reduceat(distances, start[:-1]),
        lowest=order[start[:-1]].astype(np.int64),
        start=start,
        ranks=order.astype(np.int64),
        distances=distances,
        members=members,
        of_rank=of_rank,
    )
