"""Compiled: halve space again and again, so that near states come to lie side by side.

F points · C cells of W points · d dims
"""
# What numba compiles is untyped outside.
# pyright: reportUntypedFunctionDecorator=false

from __future__ import annotations

import numpy as np

from tskd_ray.compiled import compiled
from tskd_ray.stitching.cells import LANES
from tskd_ray.types import Float32Array, Float64Array, Int32Array

_SAMPLE = 256
"""Points that an axis is chosen by."""


@compiled
def middle(first: int, stop: int) -> int:
    """Where to halve the places first … stop − 1 (two at least).

    The left part fills whole nodes of the tree, so that each node holds what is near.
    """
    node = 1
    while node * LANES < stop - first:
        node *= LANES
    return first + node * ((stop - first + node - 1) // node // 2)


@compiled
def _widest(points: Float32Array, sums: Float64Array, squares: Float64Array) -> int:
    """The axis along which a sample of the points varies most."""
    n, d = points.shape
    sums[:], squares[:] = 0.0, 0.0
    step = max(1, n // _SAMPLE)
    count = 0
    for i in range(0, n, step):
        count += 1
        for k in range(d):
            x = np.float64(points[i, k]) - np.float64(points[0, k])
            sums[k] += x
            squares[k] += x * x
    best, most = 0, -1.0
    for k in range(d):
        variance = squares[k] - sums[k] * sums[k] / count
        if variance > most:
            best, most = k, variance
    return best


@compiled
def _swap(points: Float32Array, order: Int32Array, i: int, j: int) -> None:
    order[i], order[j] = order[j], order[i]
    for k in range(points.shape[1]):
        points[i, k], points[j, k] = points[j, k], points[i, k]


@compiled
def _select(points: Float32Array, order: Int32Array, axis: int, nth: int) -> None:
    """Reorder so that place `nth` parts lower from higher ones (Hoare's FIND)."""
    first, last = 0, points.shape[0] - 1
    while first < last:
        a, b, c = points[first, axis], points[(first + last) >> 1, axis], points[last, axis]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = first, last
        while i <= j:
            while points[i, axis] < pivot:
                i += 1
            while points[j, axis] > pivot:
                j -= 1
            if i <= j:
                _swap(points, order, i, j)
                i += 1
                j -= 1
        if nth <= j:
            last = j
        elif nth >= i:
            first = i
        else:
            return


@compiled
def split(
    points: Float32Array, order: Int32Array, split_axis: Int32Array, split_at: Float32Array
) -> None:
    """Reorder `points`, (F, d), and `order`, (F,), into cells of W; note the splits.

    Args:
        points: Finite.
        order: Reordered with them.
        split_axis: (C,) `Cells.split_axis`, filled but for entry 0, of no split.
        split_at: (C,) likewise.
    """
    n, d = points.shape
    todo = np.empty((128, 2), dtype=np.int64)
    todo[0, 0], todo[0, 1], waiting = 0, split_axis.shape[0], 1
    sums, squares = np.empty(d), np.empty(d)
    while waiting:
        waiting -= 1
        first, stop = todo[waiting, 0], todo[waiting, 1]
        if stop - first < 2:
            continue
        between = middle(first, stop)
        begin, end = first * LANES, min(n, stop * LANES)
        axis = _widest(points[begin:end], sums, squares)
        _select(points[begin:end], order[begin:end], axis, between * LANES - begin)
        split_axis[between], split_at[between] = axis, points[between * LANES, axis]
        todo[waiting, 0], todo[waiting, 1] = first, between
        todo[waiting + 1, 0], todo[waiting + 1, 1] = between, stop
        waiting += 2
