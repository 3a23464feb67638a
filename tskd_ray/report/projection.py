"""States in two dimensions, for the eye: principal axes of the recorded states.

S observation dim · P points kept · H hops kept
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tskd_ray.report.data import Projection
from tskd_ray.seeding import numpy_rng
from tskd_ray.types import BoolArray, Float64Array, FloatArray, Int8Array, IntArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Plane:
    """The two widest principal axes of standardised states."""

    mean: Float64Array  # (S,)
    scale: Float64Array  # (S,)
    axes: Float64Array  # (S, 2)
    explained: tuple[float, float]  # share of the variance of each axis

    def place(self, states: FloatArray) -> Float64Array:
        """Coordinates (N, 2) of raw states (N, S)."""
        return ((np.asarray(states, dtype=np.float64) - self.mean) / self.scale) @ self.axes


def fit_plane(states: FloatArray, origin: Int8Array) -> Plane | None:
    """The axes of the recorded states; None where fewer than two of two dimensions are finite.

    Args:
        states: (N, S), raw.
        origin: (N,) `Origin` of each state. Axes and scale come from the recorded ones (0), so
            that generated states off the data show as such.
    """
    states = np.asarray(states, dtype=np.float64)
    finite: BoolArray = np.logical_and.reduce(np.isfinite(states), axis=1)
    recorded = states[finite & (origin == 0)]
    if len(recorded) < 2:
        recorded = states[finite]
    if len(recorded) < 2 or states.shape[1] < 2:
        return None
    mean, scale = recorded.mean(axis=0), recorded.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    variance, vectors = np.linalg.eigh(np.cov((recorded - mean) / scale, rowvar=False))
    axes = vectors[:, [-1, -2]]  # (S, 2); eigh sorts upwards
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])  # a sign that is no chance
    explained = variance[[-1, -2]] / max(float(variance.sum()), 1e-12)
    return Plane(
        mean=mean, scale=scale, axes=axes, explained=(float(explained[0]), float(explained[1]))
    )


def project_states(
    states: FloatArray,
    origin: Int8Array,
    hops: IntArray | None = None,
    *,
    plane: Plane | None = None,
    max_points: int = 4000,
    max_hops: int = 250,
) -> Projection:
    """Standardise, rotate to the two widest axes, and keep as many points as a picture bears.

    Args:
        states: (N, S), raw.
        origin: (N,) `Origin` of each state.
        hops: (n, 2) state numbers, source and destination; None: no hops.
        plane: The axes; default: `fit_plane` of these states.
        max_points: Points kept, an equal share for each origin where it has that many.
        max_hops: Hops kept.
    """
    states = np.asarray(states, dtype=np.float64)
    plane = plane or fit_plane(states, origin)
    if plane is None:
        return Projection()
    finite: BoolArray = np.logical_and.reduce(np.isfinite(states), axis=1)
    rng = numpy_rng(0, "report", "projection")
    kinds = np.unique(origin[finite])
    kept = np.concatenate(
        [
            _sample(rng, np.flatnonzero(finite & (origin == kind)), max_points // len(kinds))
            for kind in kinds
        ]
    )
    kept = rng.permutation(kept)  # drawn in this order, no origin always on top
    places = plane.place(states)
    segments: list[tuple[float, float, float, float]] = []
    if hops is not None and len(hops):
        usable = np.flatnonzero(finite[hops[:, 0]] & finite[hops[:, 1]])
        chosen = hops[_sample(rng, usable, max_hops)]
        ends = np.concatenate([places[chosen[:, 0]], places[chosen[:, 1]]], axis=1)
        segments = [(float(a), float(b), float(c), float(d)) for a, b, c, d in ends.round(4)]
    return Projection(
        points=tuple((float(x), float(y)) for x, y in places[kept].round(4)),
        origins=tuple(int(kind) for kind in origin[kept]),
        hops=tuple(segments),
        explained=plane.explained,
    )


def _sample(rng: np.random.Generator, items: IntArray, count: int) -> IntArray:
    if len(items) <= count:
        return items
    return np.sort(rng.choice(items, size=count, replace=False))
