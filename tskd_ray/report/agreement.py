"""Whether two ways to measure policies put them in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tskd_ray.seeding import numpy_rng
from tskd_ray.types import Float64Array

SMALLEST = 3
"""Pairs below which an order says nothing."""
REPLICATES = 1000


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Spearman's rank correlation, with the 95% bootstrap interval over pairs."""

    correlation: float
    low: float
    high: float
    pairs: int

    @property
    def text(self) -> str:
        """`0.82 (0.66 to 0.90, 48 pairs)`."""
        return f"{self.correlation:.2f} ({self.low:.2f} to {self.high:.2f}, {self.pairs} pairs)"


def agreement(
    a: Sequence[float | None], b: Sequence[float | None], *, seed: int = 0
) -> Agreement | None:
    """Compare two measures of the same things, where both are known.

    A replicate in which either measure is constant has no order and counts as 0.

    Returns:
        None with fewer than `SMALLEST` pairs, or if either measure is constant.
    """
    pairs = [
        (x, y)
        for x, y in zip(a, b, strict=True)
        if x is not None and y is not None and np.isfinite(x) and np.isfinite(y)
    ]
    if len(pairs) < SMALLEST:
        return None
    values = np.array(pairs, dtype=np.float64)
    found = spearman(values[:, 0], values[:, 1])
    if found is None:
        return None
    rng = numpy_rng(seed, "report", "agreement")
    draws = values[rng.integers(0, len(values), size=(REPLICATES, len(values)))]
    replicates = [spearman(draw[:, 0], draw[:, 1]) or 0.0 for draw in draws]
    low, high = np.quantile(replicates, [0.025, 0.975])
    return Agreement(correlation=found, low=float(low), high=float(high), pairs=len(pairs))


def spearman(x: Float64Array, y: Float64Array) -> float | None:
    """The correlation of ranks, ties sharing their mean rank; None if either is constant."""
    from scipy.stats import rankdata

    ranks = np.stack([rankdata(x), rankdata(y)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    spread = np.sqrt(np.square(ranks).sum(axis=1).prod())
    return float((ranks[0] * ranks[1]).sum() / spread) if spread > 0 else None
