"""FAISS: k-means that groups states into cells, and flat range search made exact.

F points · d dims. The one file that imports faiss.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tskd_ray.types import Float32Array, Float64Array, FloatArray, IntArray

_EPS = float(np.finfo(np.float32).eps)


def assign_cells(points: FloatArray, n_cells: int, *, iterations: int = 8) -> IntArray:
    """A cell number in [0, n_cells) for each point, by k-means.

    Cells only decide how fast the search is, never what it finds: they need not be the same
    on every machine.

    Args:
        points: (F, d), finite.
        n_cells: At most F.
        iterations: Of Lloyd's algorithm, on at most 64 points per cell.
    """
    import faiss

    scaled, _, _ = _scaled(points)
    clustering: Any = faiss.Kmeans(
        points.shape[1],
        n_cells,
        niter=iterations,
        seed=1234,
        min_points_per_centroid=1,  # faiss would print a warning
        max_points_per_centroid=64,
    )
    clustering.train(scaled)
    _, cell = clustering.index.search(scaled, 1)
    return cell[:, 0].astype(np.int64)


class FlatIndex:
    """All points within a radius by `IndexFlatL2`, a few more rather than one too few.

    FAISS compares float32 distances strictly, and loses pairs by cancellation when data lies
    far from the origin (D16): the data is centred and scaled to unit size, searched with a
    slack that covers every rounding error, and the caller decides each pair in float64.
    """

    def __init__(self, points: FloatArray) -> None:
        """Index `points`, (F, d), finite."""
        import faiss

        scaled, self._centre, self._unit = _scaled(points)
        self._index: Any = faiss.IndexFlatL2(points.shape[1])
        self._index.add(scaled)

    def within(self, queries: FloatArray, radius: float) -> tuple[IntArray, IntArray]:
        """Row offsets (n + 1,) and point numbers of every point that may lie within `radius`.

        Memory grows with the number of pairs: at most n × F.
        """
        scaled = (queries - self._centre) / self._unit  # float64
        size = max(1.0, float(np.sqrt((scaled**2).sum(axis=1).max(initial=0.0))))
        d = queries.shape[1]
        reach = radius / self._unit + 2 * _EPS * size  # rounding of the coordinates
        limit = reach**2 * (1 + (d + 4) * _EPS) + 4 * (d + 4) * _EPS * size**2  # of the sums
        most = float(np.finfo(np.float32).max) / 2
        lims, _, ids = self._index.range_search(
            np.ascontiguousarray(scaled, dtype=np.float32),
            float(np.nextafter(np.float32(min(limit, most)), np.float32(np.inf))),
        )
        return lims.astype(np.int64), ids.astype(np.int64)


def _scaled(points: FloatArray) -> tuple[Float32Array, Float64Array, float]:
    """Points in float32 with the centre taken off and of norm at most 1; centre and unit.

    Units far from 1 would overflow or vanish when squared in float32.
    """
    centre = points.mean(axis=0, dtype=np.float64)
    centred = points - centre
    unit = float(np.abs(centred).max(initial=0.0)) * np.sqrt(points.shape[1]) or 1.0
    return np.ascontiguousarray(centred / unit, dtype=np.float32), centre, float(unit)
