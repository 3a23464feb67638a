"""`Points`: coordinates in the metric of the radius, worked out where they are looked at.

S states · F points · n rows · d dims

At ten million states a standardised copy in float64 is larger than the search structure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tskd_ray.types import Float64Array, FloatArray, IntArray

_BLOCK = 65_536
"""Rows in float64 at a time."""


@dataclass(frozen=True, eq=False)
class Points:
    """Rows of states (D19): as they are, or each dimension divided by a scale, in float64."""

    states: FloatArray  # (S, d) raw
    scale: Float64Array | None = None  # (d,)
    rows: IntArray | None = None  # (F,) numbers of the states meant; default: all

    def __len__(self) -> int:
        return len(self.states if self.rows is None else self.rows)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.states.shape[1]

    def __getitem__(self, rows: Any) -> FloatArray:
        """Coordinates (n, d) of a slice or an array of row numbers."""
        states = self.states[rows if self.rows is None else self.rows[rows]]
        return states if self.scale is None else states / self.scale

    def take(self, rows: IntArray) -> Points:
        """Those rows of it, not copied."""
        return Points(self.states, self.scale, rows if self.rows is None else self.rows[rows])

    def blocks(self, size: int = _BLOCK) -> Iterator[tuple[slice, Float64Array]]:
        """All rows in order, a block at a time, and which they are."""
        for i in range(0, len(self), size):
            rows = slice(i, min(i + size, len(self)))
            yield rows, self[rows].astype(np.float64, copy=False)

    def mean(self) -> Float64Array:
        """Of each dimension, (d,)."""
        return _column_sums(block for _, block in self.blocks()) / len(self)


def deviations(states: FloatArray) -> Float64Array:
    """Standard deviation of each dimension over finite rows (S, d); 1 where it is constant."""
    points = Points(states, rows=np.flatnonzero(np.isfinite(states).all(axis=1)))
    if not len(points):
        return np.ones(states.shape[1])
    mean = points.mean()
    squares = (np.square(block - mean) for _, block in points.blocks())
    deviation = np.sqrt(_column_sums(squares) / len(points))
    return np.where(deviation > 0, deviation, 1.0)


def _column_sums(blocks: Iterator[Float64Array]) -> Float64Array:
    """Sums of the columns of all blocks, row after row, as NumPy adds up one whole array."""
    total = next(blocks).sum(axis=0)
    for block in blocks:
        total = np.vstack([total, block]).sum(axis=0)
    return total
