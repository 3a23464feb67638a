"""Searches by FAISS, for comparison: all states, or the states of the nearest cells.

F candidate states · n queries · d dims
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from tskd_ray.stitching.points import Points
from tskd_ray.stitching.shards import SearchName, within_radius
from tskd_ray.types import IntArray

if TYPE_CHECKING:
    from tskd_ray.stitching.index import RadiusIndex
    from tskd_ray.stitching.problem import HopProblem

_PAIRS = 2**24
"""Pairs that one FAISS range search may return at most."""


class FlatShard:
    """FAISS range search over all states, pairs decided in float64; exact."""

    name: ClassVar[SearchName] = "faiss-flat"
    exact: ClassVar[bool] = True

    def __init__(self, first: int, size: int, index: RadiusIndex) -> None:
        self.first, self.stop, self._index = first, first + size, index

    @classmethod
    def build(cls, points: Points, first: int) -> Self:
        """Search `points`, (F, d) in order of rank, the first of rank `first`."""
        return cls(first, len(points), cls._index_of(points))

    @staticmethod
    def _index_of(points: Points) -> RadiusIndex:
        from tskd_ray.stitching.index import RadiusIndex

        return RadiusIndex.flat(points)

    def nearest_first(self, problem: HopProblem, chunk: IntArray) -> IntArray:
        return np.arange(len(chunk))

    def lowest(self, problem: HopProblem, chunk: IntArray, floor: IntArray, k: int) -> IntArray:
        found = np.full((len(chunk), k), problem.nothing, dtype=np.int64)
        for rows, row, rank in self._near(problem, chunk):
            wanted = (rank > floor[rows[row]]) & (rank < problem.threshold[chunk[rows[row]]])
            near_row, near_rank = row[wanted], rank[wanted]
            order = np.lexsort((near_rank, near_row))
            near_row, near_rank = near_row[order], near_rank[order]
            place = np.arange(len(near_row)) - np.searchsorted(near_row, near_row)
            first = place < k
            found[rows[near_row[first]], place[first]] = near_rank[first]
        return found

    def count(self, problem: HopProblem, chunk: IntArray, most: int) -> IntArray:
        count = np.zeros(len(chunk), dtype=np.int64)
        for rows, row, _ in self._near(problem, chunk):
            count[rows] = np.minimum(np.bincount(row, minlength=len(rows)), most)
        return count

    def _near(
        self, problem: HopProblem, chunk: IntArray
    ) -> Iterator[tuple[IntArray, IntArray, IntArray]]:
        """Per block of rows: those rows, and pairs (row in the block, rank) within reach."""
        block = max(1, _PAIRS // (self.stop - self.first))
        known = np.isfinite(problem.points[problem.source[chunk] + 1]).all(axis=1)
        rows_known = np.flatnonzero(known)
        for start in range(0, len(rows_known), block):
            rows = rows_known[start : start + block]
            source = problem.source[chunk[rows]]
            lims, near = self._index.within(problem.points[source + 1], problem.radius)
            row = np.repeat(np.arange(len(rows)), np.diff(lims))
            rank = near + self.first
            others = within_radius(problem, source[row], problem.of_rank[rank])
            yield rows, row[others], rank[others]

    def save(self, folder: Path) -> None:
        np.save(folder / "size.npy", self.stop - self.first)
        self._index.save(folder)

    @classmethod
    def open(cls, folder: Path, first: int) -> Self:
        """Map what `save` wrote."""
        from tskd_ray.stitching.index import RadiusIndex

        size = int(np.load(folder / "size.npy", allow_pickle=False))
        return cls(first, size, RadiusIndex.open(folder))


class InvertedShard(FlatShard):
    """The same over the states of the cells nearest to s'; approximate.

    The best state near s' may lie in another cell: `argmax_recall` tells how often.
    """

    name: ClassVar[SearchName] = "faiss-ivf"
    exact: ClassVar[bool] = False

    @staticmethod
    def _index_of(points: Points) -> RadiusIndex:
        from tskd_ray.stitching.index import RadiusIndex

        return RadiusIndex.inverted(points)
