"""`Frame`: coordinates in which float32 distances are computed without losing a neighbour.

F points · n queries · d dims

Float32 loses pairs by cancellation where data lies far from the origin, and overflows or
vanishes where units are far from 1 (D16). So points are centred and scaled to a norm of at most
1, and compared with a limit that covers every rounding error: a few pairs too many, none too
few, and the caller decides each of them in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from tskd_ray.stitching.points import Points
from tskd_ray.types import Float32Array, Float64Array, FloatArray

EPS = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, eq=False)
class Frame:
    """Where the centre of the points is, and a length that none is farther from it."""

    centre: Float64Array  # (d,)
    unit: float

    @classmethod
    def of(cls, points: Points) -> Self:
        """The frame of `points`, (F, d), finite."""
        if not len(points):
            return cls(np.zeros(points.shape[1]), 1.0)
        with np.errstate(over="ignore", invalid="ignore"):
            centre = points.mean()
            largest = max(float(np.abs(block - centre).max()) for _, block in points.blocks())
            unit = largest * float(np.sqrt(points.shape[1])) or 1.0
        if not np.isfinite(unit):  # beyond what float64 can square: all in one place
            return cls(np.zeros(points.shape[1]), np.inf)
        return cls(centre, unit)

    def scaled(self, points: Points) -> Iterator[tuple[slice, Float32Array]]:
        """Blocks of `points`, (F, d), in this frame, and the rows that they are."""
        for rows, block in points.blocks():
            yield rows, self.of_queries(block)

    def of_queries(self, points: FloatArray) -> Float32Array:
        """(n, d) in this frame. Far away, numbers may overflow to infinity."""
        with np.errstate(over="ignore", invalid="ignore"):
            return ((points - self.centre) / self.unit).astype(np.float32)

    def limit(
        self, radius: float, norm: Float64Array, rounding: float = EPS
    ) -> tuple[Float64Array, Float64Array]:
        """Reach here, (n,), and the squared distance that no neighbour appears beyond, (n,).

        Args:
            radius: ρ, in the units of the points.
            norm: (n,) of queries in this frame.
            rounding: Relative error of one product of two coordinates.
        """
        size = np.maximum(1.0, norm)  # no point has a larger norm than 1
        terms = (len(self.centre) + 4) * rounding
        with np.errstate(over="ignore"):
            reach = radius / self.unit + 2 * EPS * size  # rounding of the coordinates
            return reach, reach**2 * (1 + terms) + 4 * terms * size**2  # of the sums

    def save(self, folder: Path) -> None:
        """Write into `folder`."""
        np.save(folder / "frame.npy", np.append(self.centre, self.unit))

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        numbers = np.load(folder / "frame.npy", allow_pickle=False)
        return cls(numbers[:-1], float(numbers[-1]))


def norms(rows: Float32Array) -> Float64Array:
    """Euclidean norm of each row, (n,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1))
