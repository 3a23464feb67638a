"""Where candidates are looked for: shards of the states, best values first, and their searches.

F candidate states · n queries · d dims

A shard holds a range of ranks. One is the rule; more of them where the search structure of all
states would not fit into memory. Since a lower rank is better, a transition that has found its
candidate in one shard needs no later one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, cast

import numpy as np

from tskd_ray.stitching.cells import Cells, build_cells
from tskd_ray.stitching.points import Points
from tskd_ray.types import BoolArray, Float64Array, IntArray

if TYPE_CHECKING:
    from tskd_ray.stitching.kernels import Gaussians, Queries, Space
    from tskd_ray.stitching.problem import HopProblem

SearchName = Literal["cells", "blocks", "faiss-flat", "faiss-ivf"]


class Shard(Protocol):
    """The candidates of ranks first … stop − 1, and one way to search them."""

    name: ClassVar[SearchName]
    exact: ClassVar[bool]
    """Exact searches find the same; others may miss candidates."""

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
    """Value-bounded search over cells of near states; exact."""

    name: ClassVar[SearchName] = "cells"
    exact: ClassVar[bool] = True

    def __init__(self, first: int, cells: Cells) -> None:
        self.first, self.stop, self.cells = first, first + int(cells.size[0]), cells

    @classmethod
    def build(cls, points: Points, first: int) -> Self:
        """Group `points`, (F, d) in order of rank, the first of rank `first`."""
        return cls(first, build_cells(points, first_rank=first))

    def nearest_first(self, problem: HopProblem, chunk: IntArray) -> IntArray:
        from tskd_ray.stitching.reach import places

        place = np.empty(len(chunk), dtype=np.int64)
        space, cells = self._space_and_cells(problem)
        places(space, np.asarray(problem.source[chunk]) + 1, cells, place)
        return np.argsort(place, kind="stable")

    def lowest(self, problem: HopProblem, chunk: IntArray, floor: IntArray, k: int) -> IntArray:
        from tskd_ray.stitching.kernels import Gaussians

        empty = np.zeros((0, 0, problem.states.shape[1]))
        return self._search(problem, chunk, floor, k, Gaussians(empty, empty))[0]

    def lowest_plausible(
        self, problem: HopProblem, chunk: IntArray, gaussians: tuple[Float64Array, Float64Array]
    ) -> tuple[IntArray, BoolArray]:
        """The lowest rank that passes eq. 9, (n,), and whether any was tested, (n,).

        Of a problem whose states have no places of their own: cells are ruled out by eq. 9 too.
        """
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
            floor=floor,
            stop=np.asarray(problem.threshold[chunk]),
            own=np.asarray(problem.rank[source]),
        )

    def _space_and_cells(self, problem: HopProblem) -> tuple[Space, Cells]:
        """Read-only, so that mapped and plain arrays are one type, compiled for once."""
        from tskd_ray.stitching.kernels import Space

        space = Space(
            *map(read_only, (problem.places, problem.of_rank, problem.scale)),
            limit=problem.limit,
            radius=problem.radius,
        )
        return space, Cells(*map(read_only, self.cells))

    def save(self, folder: Path) -> None:
        for name, array in self.cells._asdict().items():
            np.save(folder / f"{name}.npy", array)

    @classmethod
    def open(cls, folder: Path, first: int) -> Self:
        """Map what `save` wrote."""
        parts = {name: mapped(folder / f"{name}.npy") for name in Cells._fields}
        return cls(first, Cells(**parts))


def within_radius(problem: HopProblem, source: IntArray, states: IntArray) -> BoolArray:
    """Whether each state lies within ρ of the s' after `source`, and is neither s nor s'; (n,).

    Decided in float64, summed dimension by dimension: the order is part of the result.
    """
    squared = np.zeros(len(states))
    arrived, candidates = problem.points[source + 1], problem.points[states]
    for k in range(problem.points.shape[1]):
        difference = candidates[:, k].astype(np.float64) - arrived[:, k]
        squared += difference * difference
    return (squared <= problem.limit) & (states != source) & (states != source + 1)


def read_only(array: Any) -> Any:
    """A view that kernels are compiled for."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


def mapped(path: Path) -> Any:
    """A .npy file, mapped read-only and shared between processes."""
    return cast(Any, np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)))
