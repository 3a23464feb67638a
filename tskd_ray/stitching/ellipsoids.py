"""Compiled: which cells, and which of their members, may pass eq. 9.

C cells · M ensemble members · d dims · W = 16 lanes

A state passes eq. 9 only inside an ellipsoid around each member's mean, whose axes are those of
the given coordinates. As in `reach`, all is float32 with a slack for its rounding: what lies
outside is ruled out for certain, and the rest remains to be decided.
"""
# What numba compiles is untyped outside.
# pyright: reportUntypedFunctionDecorator=false

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tskd_ray.compiled import compiled, inlined
from tskd_ray.stitching.cells import LANES, Cells
from tskd_ray.stitching.lanes import likely_boxes, likely_members
from tskd_ray.types import BoolArray, Float32Array, Float64Array

_EPS = float(np.finfo(np.float32).eps)


class Ellipsoids(NamedTuple):
    """One per member, for one query, in the coordinates of `Cells.given`; none if M = 0."""

    mean: Float32Array  # (M, d)
    inverse: Float32Array  # (M, d) of the standard deviation
    most: Float32Array  # (M,) sum of squares beyond which eq. 9 is not met
    ready: BoolArray  # (1,) whether the above are filled in


@compiled
def new_ellipsoids(members: int, d: int) -> Ellipsoids:
    """Work space, not ready."""
    return Ellipsoids(
        np.empty((members, d), dtype=np.float32),
        np.empty((members, d), dtype=np.float32),
        np.empty(members, dtype=np.float32),
        np.zeros(1, dtype=np.bool_),
    )


@compiled
def fill(
    mean: Float64Array,
    precision: Float64Array,
    norm: Float64Array,
    least: float,
    scale: Float64Array,
    cells: Cells,
    ellipsoids: Ellipsoids,
) -> None:
    """Fill in the ellipsoids where norm_m − ½ Σ_k ((x_k − mean_mk)·precision_mk)² ≥ least.

    Args:
        mean: (M, d) raw.
        precision: (M, d) 1 / standard deviation, raw.
        norm: (M,).
        least: Right side of eq. 9, as `norm` without d/2·log 2π.
        scale: (d,) raw states are the points of the cells times this.
        cells: Whose coordinates to use.
        ellipsoids: Filled in, and ready.
    """
    M, d = mean.shape
    unit = cells.unit[0]
    for m in range(M):
        rounding = 0.0
        for k in range(d):
            centre = (mean[m, k] / scale[k] - cells.centre[k]) / unit
            inverse = precision[m, k] * scale[k] * unit
            ellipsoids.mean[m, k], ellipsoids.inverse[m, k] = centre, inverse
            rounding += (inverse * (1 + abs(centre))) ** 2
        reach = math.sqrt(max(0.0, 2 * (norm[m] - least)))
        reach += 4 * _EPS * math.sqrt(rounding)  # of the coordinates
        ellipsoids.most[m] = reach * reach * (1 + (d + 8) * _EPS)  # of the sums, and of this
    ellipsoids.ready[0] = True


@inlined
def likely_lanes(cell: int, cells: Cells, ellipsoids: Ellipsoids) -> int:
    """Members of a cell that may lie in all ellipsoids, as bits."""
    d = cells.given.shape[1]
    lanes = -1
    for m in range(ellipsoids.most.shape[0]):
        if lanes:
            lanes &= likely_members(
                cells.given,
                cell * d * LANES,
                ellipsoids.mean,
                ellipsoids.inverse,
                m * d,
                d,
                ellipsoids.most[m],
            )
    return lanes


@inlined
def likely_cells(boxes: Float32Array, first: int, bits: int, ellipsoids: Ellipsoids) -> int:
    """Which of the W boxes from number `first` on, of `bits`, may meet all ellipsoids."""
    M, d = ellipsoids.mean.shape
    for m in range(M):
        if bits:
            bits &= likely_boxes(
                boxes,
                first * 2 * d,
                ellipsoids.mean,
                ellipsoids.inverse,
                m * d,
                d,
                ellipsoids.most[m],
            )
    return bits
