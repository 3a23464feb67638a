"""Search in blocks of rank: distances to many states at once, by matrix products.

F candidate states · n queries · d dims

The search for data in which nothing can be ruled out early, and for GPUs. The states lie in
order of rank, and all open queries look at one block of them after the other, best values
first. A query is done once it has what it wants, or where nothing better than s' follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from tskd_ray.stitching.frames import EPS, Frame, norms
from tskd_ray.stitching.points import Points
from tskd_ray.stitching.shards import SearchName, mapped, within_radius
from tskd_ray.types import Float32Array, IntArray

if TYPE_CHECKING:
    from tskd_ray.stitching.problem import HopProblem

_FIRST = 256
"""Ranks in the first block. Each one is twice as large as the one before: most queries that
find anything find it early, and few distances are computed in vain."""

_NARROWEST = 2048
"""Ranks that a block grows to however many queries are open."""

_PRODUCT = {"cpu": 2**20, "cuda": 2**25}
"""Entries of one matrix product: what a cache holds, or what keeps a GPU busy."""

_ROUNDING = {"highest": EPS, "high": 2.0**-9, "medium": 2.0**-6}
"""Relative error of a product of two numbers, by torch's setting for matrix products. Below
"highest", pairs to be decided again become many: slower, and still exact."""

_PAIRS = 2**18
"""Pairs decided in float64 at a time."""

_FAR = 1e15
"""Norm of a query beyond which squares do not fit into float32."""


class BlockShard:
    """Matrix products over blocks of rank, pairs decided in float64; exact."""

    name: ClassVar[SearchName] = "blocks"
    exact: ClassVar[bool] = True

    def __init__(
        self, first: int, frame: Frame, table: Float32Array, device: str = "cpu"
    ) -> None:
        """Over `table`, (F, d + 2): coordinates in `frame`, their squared norm, and 1."""
        self.first, self.stop = first, first + len(table)
        self.device = device
        self._frame, self._table = frame, table
        self._product = _PRODUCT["cpu" if device == "cpu" else "cuda"]
        self._resident: Any = None
        if device != "cpu":
            import torch

            self._resident = torch.tensor(table, device=device)

    @classmethod
    def build(cls, points: Points, first: int, device: str = "cpu") -> Self:
        """Search `points`, (F, d) in order of rank, the first of rank `first`.

        Args:
            points: Finite.
            first: A rank.
            device: Of torch, where products are computed; a GPU keeps the states.
        """
        frame = Frame.of(points)
        d = points.shape[1]
        table = np.ones((len(points), d + 2), dtype=np.float32)
        for rows, scaled in frame.scaled(points):
            table[rows, :d] = scaled
            table[rows, d] = norms(scaled) ** 2
        return cls(first, frame, table, device)

    def nearest_first(self, problem: HopProblem, chunk: IntArray) -> IntArray:
        return np.arange(len(chunk))

    def lowest(self, problem: HopProblem, chunk: IntArray, floor: IntArray, k: int) -> IntArray:
        found = np.full((len(chunk), k), problem.nothing, dtype=np.int64)
        met = np.zeros(len(chunk), dtype=np.int64)
        stop = problem.threshold[chunk]
        for row, rank in self._hits(problem, chunk, floor, stop, met, k):
            place = met[row] + np.arange(len(row)) - np.searchsorted(row, row)
            first = place < k
            found[row[first], place[first]] = rank[first]
            np.add.at(met, row, 1)
        return found

    def count(self, problem: HopProblem, chunk: IntArray, most: int) -> IntArray:
        met = np.zeros(len(chunk), dtype=np.int64)
        # Worse states first: who asks for one neighbour has mostly found no better one.
        threshold = problem.threshold[chunk]
        ranges = (
            (threshold - 1, np.full(len(chunk), self.stop)),
            (np.full(len(chunk), self.first - 1), threshold),
        )
        for floor, stop in ranges:
            for row, _ in self._hits(problem, chunk, floor, stop, met, most):
                np.add.at(met, row, 1)
        return np.minimum(met, most)

    def _hits(
        self,
        problem: HopProblem,
        chunk: IntArray,
        floor: IntArray,
        stop: IntArray,
        met: IntArray,
        wanted: int,
    ) -> Iterator[tuple[IntArray, IntArray]]:
        """Pairs (row, rank) within reach and of floor < rank < stop, both ascending.

        A row's pairs come in the order of their rank, and end soon after `met`, which the
        caller keeps, says that it has had `wanted` of them.
        """
        known = np.isfinite(problem.points[problem.source[chunk] + 1]).all(axis=1)
        stop = np.where(known, np.minimum(stop, self.stop), self.first)
        next_rank = np.maximum(floor + 1, self.first)
        queries = self._queries(problem, chunk)
        start, size = self.first, _FIRST
        while True:
            open_rows = np.flatnonzero((met < wanted) & (np.maximum(next_rank, start) < stop))
            if not len(open_rows):
                return
            start = max(start, int(next_rank[open_rows].min()))
            end = min(start + size, self.stop)
            here = open_rows[next_rank[open_rows] < end]
            for rows, near in self._near(queries, here, start, end):
                row, rank = rows[near // (end - start)], start + near % (end - start)
                wanted_here = (next_rank[row] <= rank) & (rank < stop[row])
                row, rank = row[wanted_here], rank[wanted_here]
                exact = _exact(problem, chunk, row, rank)
                yield row[exact], rank[exact]
            start, size = end, min(2 * size, max(_NARROWEST, self._product // len(here)))

    def _queries(self, problem: HopProblem, chunk: IntArray) -> Any:
        """A row per s', (n, d + 2), whose product with a state's is at most 0 if it is near.

        Some that are not near are let through, none that is gets lost: the slack covers all
        rounding, of coordinates and of sums in any order.
        """
        import torch

        rounding = _ROUNDING[torch.get_float32_matmul_precision()]
        scaled = self._frame.of_queries(problem.points[problem.source[chunk] + 1])
        norm = norms(scaled)
        reach, limit = self._frame.limit(problem.radius, norm, rounding)
        rows = np.ones((len(chunk), scaled.shape[1] + 2), dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # far ones are set below
            rows[:, :-2] = -2 * scaled
            rows[:, -1] = np.maximum(norm**2 - limit, -np.finfo(np.float32).max)
        far = ~(norm < _FAR)
        rows[far] = 0
        rows[far, -1] = np.where(norm[far] - 1 > reach[far], 1, -1)
        return torch.from_numpy(rows).to(self.device)

    def _near(
        self, queries: Any, rows: IntArray, start: int, end: int
    ) -> Iterator[tuple[IntArray, IntArray]]:
        """Per group of rows: the group, and places in its product with ranks start … end."""
        import torch

        part = slice(start - self.first, end - self.first)
        # a copy: torch refuses to share what is mapped read-only
        on_cpu = self._resident is None
        states = torch.tensor(self._table[part]) if on_cpu else self._resident[part]
        at_once = max(1, self._product // (end - start))
        for i in range(0, len(rows), at_once):
            group = rows[i : i + at_once]
            product = queries[torch.from_numpy(group).to(self.device)] @ states.T
            flat = product.reshape(-1)
            if on_cpu:  # NumPy compares and lists four times as fast as torch
                yield group, np.flatnonzero(flat.numpy() <= 0)
            else:
                yield group, (flat <= 0).nonzero()[:, 0].cpu().numpy()

    def save(self, folder: Path) -> None:
        np.save(folder / "table.npy", self._table)
        self._frame.save(folder)

    @classmethod
    def open(cls, folder: Path, first: int, device: str = "cpu") -> Self:
        """Map what `save` wrote; a GPU gets a copy."""
        return cls(first, Frame.open(folder), mapped(folder / "table.npy"), device)


def _exact(problem: HopProblem, chunk: IntArray, row: IntArray, rank: IntArray) -> Any:
    """Whether each pair of a row and a rank is within reach, and s is neither; (pairs,)."""
    within = np.empty(len(row), dtype=np.bool_)
    for i in range(0, len(row), _PAIRS):
        part = slice(i, i + _PAIRS)
        source = problem.source[chunk[row[part]]]
        within[part] = within_radius(problem, source, problem.of_rank[rank[part]])
    return within
