"""A radius by neighbour count: what ρ means differs by orders of magnitude between datasets.

S states · d dims
"""

from __future__ import annotations

import numpy as np

from tskd_ray.errors import ConfigError
from tskd_ray.seeding import numpy_rng
from tskd_ray.stitching.points import Points, deviations
from tskd_ray.stitching.problem import Metric
from tskd_ray.types import FloatArray, IntArray

_SAMPLE = 256

_ROWS = 8192
"""Points whose distances are held at a time."""


def suggest_radius(
    states: FloatArray, neighbours: int, seed: int = 0, *, metric: Metric = "raw"
) -> float:
    """The radius within which the median state has `neighbours` other states (D19).

    Cost: 256 × S distances, and memory for the nearest ones only.

    Args:
        states: (S, d); rows that are not finite are left out.
        neighbours: k. The median distance to the k-th nearest other state is returned.
        seed: Of the sample of states.
        metric: "raw", or "standardized" as in `stitch_epoch`.

    Raises:
        ConfigError: If there are not that many other states.
    """
    finite = np.flatnonzero(np.isfinite(states).all(axis=1))
    if not 1 <= neighbours < len(finite):
        raise ConfigError(
            f"radius.neighbours must be at least 1 and below the number of states. Got "
            f"{neighbours} for {len(finite)} states. Choose fewer neighbours."
        )
    points = Points(states, None if metric == "raw" else deviations(states), finite)
    rng = numpy_rng(seed, "suggest_radius")
    sample = rng.choice(len(points), size=min(_SAMPLE, len(points)), replace=False)
    near = _nearest(points, sample, neighbours + 1)  # the state itself among them
    distances = [
        np.linalg.norm(points[others].astype(np.float64) - points[row], axis=1).max()
        for row, others in zip(sample, near, strict=True)
    ]
    return float(np.median(distances))


def _nearest(points: Points, sample: IntArray, k: int) -> IntArray:
    """Numbers of the k nearest points of each of the sample, (n, k), themselves included.

    Expanded squares only pick the neighbours, whose distances are then taken afresh: the
    expansion loses digits and depends on the machine's matrix product.
    """
    centre = points.mean()
    queries = points[sample] - centre
    best, at = np.zeros((len(sample), 0)), np.zeros((len(sample), 0), dtype=np.int64)
    for rows, block in points.blocks(_ROWS):
        others = block - centre
        squared = np.square(others).sum(axis=1) - 2 * queries @ others.T
        own = np.flatnonzero((sample >= rows.start) & (sample < rows.stop))
        squared[own, sample[own] - rows.start] = -np.inf
        numbers = np.broadcast_to(np.arange(rows.start, rows.stop), squared.shape)
        best, at = np.hstack([best, squared]), np.hstack([at, numbers])
        if best.shape[1] > k:
            kept = np.argpartition(best, k - 1, axis=1)[:, :k]
            best = np.take_along_axis(best, kept, axis=1)
            at = np.take_along_axis(at, kept, axis=1)
    return at
