"""A radius by neighbour count: what ρ means differs by orders of magnitude between datasets.

S states · d dims
"""

from __future__ import annotations

import numpy as np

from tskd_ray.errors import ConfigError
from tskd_ray.seeding import numpy_rng
from tskd_ray.stitching.problem import Metric, deviations
from tskd_ray.types import FloatArray

_SAMPLE = 256
_PAIRS = 2**24
"""Distances held at a time."""


def suggest_radius(
    states: FloatArray, neighbours: int, seed: int = 0, *, metric: Metric = "raw"
) -> float:
    """The radius within which the median state has `neighbours` other states (D19).

    Cost: 256 × S distances.

    Args:
        states: (S, d); rows that are not finite are left out.
        neighbours: k. The median distance to the k-th nearest other state is returned.
        seed: Of the sample of states.
        metric: "raw", or "standardized" as in `stitch_epoch`.

    Raises:
        ConfigError: If there are not that many other states.
    """
    states = states[np.isfinite(states).all(axis=1)]
    if not 1 <= neighbours < len(states):
        raise ConfigError(
            f"radius.neighbours must be at least 1 and below the number of states. Got "
            f"{neighbours} for {len(states)} states. Choose fewer neighbours."
        )
    points = states.astype(np.float64)
    if metric == "standardized":
        points /= deviations(states)
    points -= points.mean(axis=0)
    rng = numpy_rng(seed, "suggest_radius")
    sample = rng.choice(len(points), size=min(_SAMPLE, len(points)), replace=False)
    norms = (points**2).sum(axis=1)
    block = max(1, _PAIRS // len(points))
    found: list[float] = []
    for first in range(0, len(sample), block):
        rows = sample[first : first + block]
        # Expanded squares only pick the neighbours; their distances are then taken afresh,
        # since the expansion loses digits and depends on the machine's matrix product.
        squared = norms - 2 * points[rows] @ points.T
        squared[np.arange(len(rows)), rows] = -np.inf  # the state itself
        near = np.argpartition(squared, neighbours, axis=1)[:, : neighbours + 1]
        distances = np.sqrt(((points[near] - points[rows, None]) ** 2).sum(axis=2))
        found.extend(distances.max(axis=1).tolist())
    return float(np.median(found))
