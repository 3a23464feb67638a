"""Where candidates are looked for: shards of the states, best values first, and their searches.

F candidate states · n queries · d dims

A shard holds a range of ranks. One is the rule; more of them where the search structure of all
states would not fit into memory. Since a lower rank is better, a transition that has found its
candidate in one shard needs no later one.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, cast

import numpy as np

from tskd_ray.stitching.cells import Cells, build_cells, default_cells
from tskd_ray.types import BoolArray, Float64Array, FloatArray, IntArray

if TYPE_CHECKING:
    from tskd_ray.stitching.index import FlatIndex
    from tskd_ray.stitching.kernels import Gaussians, Queries, Space
    from tskd_ray.stitching.problem import HopProblem

SearchName = Literal["cells", "faiss-flat"]

_FLAT_PAIRS = 2**24
"""Pairs that one FAISS range search may return at most."""


class Shard(Protocol):
    """The candidates of ranks first … stop − 1, and one way to search them."""

    name: ClassVar[SearchName]

    @property
    def first(self) -> int:
        raise NotImplementedError

    @property
    def stop(self) -> int:
        raise NotImplementedError

    def nearest_first(self, problem: HopProblem, chunk: IntArray) -> IntArray:
        """An order of the transitions in which neighbours are searched together, (n,)."""
        raise NotImplementedError

    def lowest(self, problem: HopProblem, chunk: IntArray, floor: IntArray, k: int) -> IntArray:
        """The k lowest ranks here, above `floor`, of better states near each s'.

        Returns:
            (n, k) ascending; `problem.nothing` marks an empty place.
        """
        raise NotImplementedError

    def count(self, problem: HopProblem, chunk: IntArray, most: int) -> IntArray:
        """Candidates here within reach of each s' besides s and s', at most `most`; (n,)."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write into an empty folder what `open` maps."""
        raise NotImplementedError


class CellShard:
    """Value-bounded search over k-means cells; exact."""

    name: ClassVar[SearchName] = "cells"

    def __init__(self, first: int, cells: Cells) -> None:
        self.first, self.stop, self.cells = first, first + len(cells.of_rank), cells

    @classmethod
    def build(cls, points: FloatArray, first: int, n_cells: int | None = None) -> Self:
        """Group `points`, (F, d) in order of rank, the first of rank `first`."""
        n = min(n_cells or default_cells(len(points)), len(points))
        if n == 1:
            return cls.of_groups(points, first, np.zeros(len(points), dtype=np.int64))
        from tskd_ray.stitching.index import assign_cells

        return cls.of_groups(points, first, assign_cells(points, n))

    @classmethod
    def of_groups(cls, points: FloatArray, first: int, assignment: IntArray) -> Self:
        """With cells as given, (F,) any non-negative numbers."""
        cells = build_cells(points, assignment)
        return cls(
            first, cells._replace(ranks=cells.ranks + first, lowest=cells.lowest + first)
        )

    def nearest_first(self, problem: HopProblem, chunk: IntArray) -> IntArray:
        return np.argsort(self._cell_of(problem, chunk), kind="stable")

    def lowest(self, problem: HopProblem, chunk: IntArray, floor: IntArray, k: int) -> IntArray:
        from tskd_ray.stitching.kernels import Gaussians

        empty = np.zeros((0, 0, problem.states.shape[1]))
        return self._search(problem, chunk, floor, k, Gaussians(empty, empty))[0]

    def lowest_plausible(
        self, problem: HopProblem, chunk: IntArray, gaussians: tuple[Float64Array, Float64Array]
    ) -> tuple[IntArray, BoolArray]:
        """The lowest rank that passes eq. 9, (n,), and whether any was tested, (n,)."""
        from tskd_ray.stitching.kernels import Gaussians

        floor = np.full(len(chunk), -1, dtype=np.int64)
        found, tested = self._search(problem, chunk, floor, 1, Gaussians(*gaussians))
        return found[:, 0], tested

    def count(self, problem: HopProblem, chunk: IntArray, most: int) -> IntArray:
        from tskd_ray.stitching import kernels

        counted = np.zeros(len(chunk), dtype=np.int64)
        floor = problem.rank[problem.source[chunk] + 1]
        queries = self._queries(problem, chunk, floor)
        kernels.count_in_cells(queries, most, *self._space_and_cells(problem), counted)
        return counted

    def _search(
        self,
        problem: HopProblem,
        chunk: IntArray,
        floor: IntArray,
        k: int,
        gaussians: Gaussians,
    ) -> tuple[IntArray, BoolArray]:
        from tskd_ray.stitching import kernels

        found = np.empty((len(chunk), k), dtype=np.int64)
        tested = np.zeros(len(chunk), dtype=np.bool_)
        queries = self._queries(problem, chunk, floor)
        space_and_cells = self._space_and_cells(problem)
        kernels.best_in_cells(queries, *space_and_cells, gaussians, found, tested)
        return found, tested

    def _queries(self, problem: HopProblem, chunk: IntArray, floor: IntArray) -> Queries:
        from tskd_ray.stitching.kernels import Queries

        source = np.asarray(problem.source[chunk])
        return Queries(
            arrival=source + 1,
            cell=self._cell_of(problem, chunk),
            floor=floor,
            stop=np.asarray(problem.threshold[chunk]),
            own=np.asarray(problem.rank[source]),
        )

    def _space_and_cells(self, problem: HopProblem) -> tuple[Space, Cells]:
        """Read-only, so that mapped and plain arrays are one type, compiled for once."""
        from tskd_ray.stitching.kernels import Space

        space = Space(
            *map(read_only, (problem.points, problem.states, problem.of_rank)),
            limit=problem.limit,
            radius=problem.radius,
        )
        return space, Cells(*map(read_only, self.cells))

    def _cell_of(self, problem: HopProblem, chunk: IntArray) -> IntArray:
        """Cell of each s', (n,); -1 if it is no candidate of this shard."""
        rank = problem.rank[problem.source[chunk] + 1]
        here = (self.first <= rank) & (rank < self.stop)
        cell = np.full(len(chunk), -1, dtype=np.int64)
        cell[here] = self.cells.of_rank[rank[here] - self.first]
        return cell

    def save(self, folder: Path) -> None:
        for name, array in self.cells._asdict().items():
            np.save(folder / f"{name}.npy", array)

    @classmethod
    def open(cls, folder: Path, first: int) -> Self:
        """Map what `save` wrote."""
        parts = {name: mapped(folder / f"{name}.npy") for name in Cells._fields}
        return cls(first, Cells(**parts))


class FlatShard:
    """FAISS range search over all states, pairs decided in float64; exact, for comparison."""

    name: ClassVar[SearchName] = "faiss-flat"

    def __init__(self, first: int, points: FloatArray) -> None:
        self.first, self.stop, self._points = first, first + len(points), points

    @classmethod
    def build(cls, points: FloatArray, first: int) -> Self:
        """Search `points`, (F, d) in order of rank, the first of rank `first`."""
        return cls(first, points)

    @cached_property
    def _index(self) -> FlatIndex:
        from tskd_ray.stitching.index import FlatIndex

        return FlatIndex(self._points)

    def nearest_first(self, problem: HopProblem, chunk: IntArray) -> IntArray:
        return np.arange(len(chunk))

    def lowest(self, problem: HopProblem, chunk: IntArray, floor: IntArray, k: int) -> IntArray:
        found = np.full((len(chunk), k), problem.nothing, dtype=np.int64)
        for rows, pairs in self._near(problem, chunk):
            row, rank = pairs[:, 0], pairs[:, 1]
            wanted = (rank > floor[rows[row]]) & (rank < problem.threshold[chunk[rows[row]]])
            row, rank = row[wanted], rank[wanted]
            order = np.lexsort((rank, row))
            row, rank = row[order], rank[order]
            place = np.arange(len(row)) - np.searchsorted(row, row)
            first = place < k
            found[rows[row[first]], place[first]] = rank[first]
        return found

    def count(self, problem: HopProblem, chunk: IntArray, most: int) -> IntArray:
        count = np.zeros(len(chunk), dtype=np.int64)
        for rows, pairs in self._near(problem, chunk):
            count[rows] = np.minimum(np.bincount(pairs[:, 0], minlength=len(rows)), most)
        return count

    def _near(self, problem: HopProblem, chunk: IntArray) -> Any:
        """Per block of rows: those rows, and pairs (row in the block, rank) within reach."""
        block = max(1, _FLAT_PAIRS // (self.stop - self.first))
        known = np.isfinite(problem.points[problem.source[chunk] + 1]).all(axis=1)
        rows_known = np.flatnonzero(known)
        for start in range(0, len(rows_known), block):
            rows = rows_known[start : start + block]
            source = problem.source[chunk[rows]]
            lims, near = self._index.within(problem.points[source + 1], problem.radius)
            row = np.repeat(np.arange(len(rows)), np.diff(lims))
            rank = near + self.first
            others = within_radius(problem, source[row], problem.of_rank[rank])
            yield rows, np.stack([row[others], rank[others]], axis=1)

    def save(self, folder: Path) -> None:
        np.save(folder / "points.npy", self._points)

    @classmethod
    def open(cls, folder: Path, first: int) -> Self:
        """Map what `save` wrote; the index is made at the first query."""
        return cls(first, mapped(folder / "points.npy"))


def within_radius(problem: HopProblem, source: IntArray, states: IntArray) -> BoolArray:
    """Whether each state lies within ρ of the s' after `source`, and is neither s nor s'; (n,).

    Decided in float64, summed dimension by dimension: the order is part of the result.
    """
    squared = np.zeros(len(states))
    for k in range(problem.points.shape[1]):
        arrived = problem.points[source + 1, k]
        difference = problem.points[states, k].astype(np.float64) - arrived
        squared += difference * difference
    return (squared <= problem.limit) & (states != source) & (states != source + 1)


_SEARCHES: dict[SearchName, type[CellShard] | type[FlatShard]] = {
    "cells": CellShard,
    "faiss-flat": FlatShard,
}


def build_shard(
    name: SearchName, points: FloatArray, first: int, n_cells: int | None = None
) -> Shard:
    """The search `name` over `points`, (F, d) in order of rank, the first of rank `first`."""
    if name == "cells":
        return CellShard.build(points, first, n_cells)
    return FlatShard.build(points, first)


def save_shard(shard: Shard, folder: Path) -> None:
    """Write a shard into a folder of its own."""
    folder.mkdir()
    shard.save(folder)
    (folder / "shard.json").write_text(json.dumps({"name": shard.name, "first": shard.first}))


def open_shard(folder: Path) -> Shard:
    """Map a saved shard."""
    about = json.loads((folder / "shard.json").read_text())
    return cast(Shard, _SEARCHES[about["name"]].open(folder, int(about["first"])))


def read_only(array: Any) -> Any:
    """A view that kernels are compiled for."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


def mapped(path: Path) -> Any:
    """A .npy file, mapped read-only and shared between processes."""
    return cast(Any, np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)))
