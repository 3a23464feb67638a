"""FAISS indexes that list what lies within a radius: all points, or some of its cells.

F points · n queries · d dims. The one file that imports faiss.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np

from tskd_ray.stitching.frames import Frame, norms
from tskd_ray.stitching.points import Points
from tskd_ray.types import FloatArray, IntArray

PROBES = 8
"""Cells that an approximate query looks into."""

_CELLS_PER_ROOT = 4
"""Cells of the approximate index, times √F."""

_TRAINING = 64
"""Points per cell that its k-means is fitted to, at most."""


class RadiusIndex:
    """All points within a radius, some a little farther; or most of those, if approximate.

    FAISS compares float32 distances strictly, so that pairs at the radius would be lost: it
    searches in a `Frame` with a slack, and the caller decides each pair in float64.
    """

    def __init__(self, frame: Frame, index: Any) -> None:
        self._frame, self._index = frame, index

    @classmethod
    def flat(cls, points: Points) -> Self:
        """`IndexFlatL2` of `points`, (F, d), finite: looks at every one."""
        import faiss

        return cls._filled(points, lambda d: faiss.IndexFlatL2(d))

    @classmethod
    def inverted(cls, points: Points) -> Self:
        """`IndexIVFFlat` of `points`, (F, d), finite: looks into `PROBES` of its cells."""
        import faiss

        n_cells = max(1, min(len(points), int(_CELLS_PER_ROOT * len(points) ** 0.5)))

        def empty(d: int) -> Any:
            index: Any = faiss.IndexIVFFlat(faiss.IndexFlatL2(d), d, n_cells)
            index.cp.min_points_per_centroid = 1  # FAISS would print a warning
            index.cp.max_points_per_centroid = _TRAINING
            index.nprobe = PROBES
            return index

        return cls._filled(points, empty)

    @classmethod
    def _filled(cls, points: Points, empty: Any) -> Self:
        frame, index = Frame.of(points), empty(points.shape[1])
        if not index.is_trained:
            step = max(1, len(points) // (_TRAINING * index.nlist))
            index.train(frame.of_queries(np.ascontiguousarray(points[::step])))
        for _, scaled in frame.scaled(points):
            index.add(np.ascontiguousarray(scaled))
        return cls(frame, index)

    def within(self, queries: FloatArray, radius: float) -> tuple[IntArray, IntArray]:
        """Row offsets (n + 1,) and numbers of points that may lie within `radius`.

        Memory grows with the number of pairs: at most n × F.
        """
        scaled = self._frame.of_queries(queries)
        _, limit = self._frame.limit(radius, norms(scaled))
        most = float(np.finfo(np.float32).max) / 2
        bound = min(float(limit.max(initial=0.0)), most)
        lims, _, ids = self._index.range_search(
            np.ascontiguousarray(scaled),
            float(np.nextafter(np.float32(bound), np.float32(np.inf))),
        )
        return lims.astype(np.int64), ids.astype(np.int64)

    def save(self, folder: Path) -> None:
        """Write into `folder` what `open` maps."""
        import faiss

        faiss.write_index(self._index, str(folder / "index.faiss"))
        self._frame.save(folder)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Map what `save` wrote, shared between processes.

        Raises:
            OSError: If it is not there, or not whole.
        """
        import faiss

        path = str(folder / "index.faiss")
        try:
            return cls(Frame.open(folder), faiss.read_index(path, faiss.IO_FLAG_MMAP_IFC))
        except RuntimeError as error:
            raise OSError(f"FAISS cannot read {path}") from error
