"""What models of hops read: rows of (s, s' − s) and more, and noise that belongs to a pair.

N rows · S observation dim · Z latent dim
"""

from __future__ import annotations

import numpy as np

from tskd_ray.data.trajectories import Trajectories
from tskd_ray.models.batches import STEPS_PER_BLOCK
from tskd_ray.models.mlp import MemberKey
from tskd_ray.seeding import numpy_rng
from tskd_ray.types import Float32Array, FloatArray


def hop_rows(s: FloatArray, s2: FloatArray, *others: FloatArray) -> FloatArray:
    """Rows (s, s' − s, others…), in raw units: a raw s' hides the small difference."""
    return np.concatenate([s, s2 - s, *others], axis=1)


def recorded_steps(trajectories: Trajectories) -> tuple[FloatArray, FloatArray]:
    """States and next states of all steps, (N, S) each."""
    source = trajectories.step_state
    return trajectories.observations[source], trajectories.observations[source + 1]


def pair_noise(seed: int, kind: str, width: int, s: FloatArray, s2: FloatArray) -> Float32Array:
    """Standard normal (N, Z), named by the run seed and by the pair itself.

    So what a pair gets does not depend on the others, their order or the epoch.
    """
    pairs = np.concatenate([s, s2], axis=1)
    noise = np.empty((len(pairs), width), dtype=np.float32)
    for row, pair in enumerate(pairs):
        rng = numpy_rng(seed, kind, "pair", pair.tobytes().hex())
        noise[row] = rng.standard_normal(width, dtype=np.float32)
    return noise


class StepNoise:
    """Standard normal draws (B, Z) of training steps: a function of (seed, key, step) alone."""

    def __init__(self, batch_size: int, width: int, *, seed: int, key: MemberKey) -> None:
        self._shape = (STEPS_PER_BLOCK, batch_size, width)
        self._seed, self._key = seed, key
        self._block = -1
        self._drawn = np.empty(0, dtype=np.float32)

    def __call__(self, step: int) -> Float32Array:
        """Of one step, (B, Z)."""
        block, within = divmod(step, STEPS_PER_BLOCK)
        if block != self._block:
            rng = numpy_rng(self._seed, *self._key, "noise", block)
            self._drawn = rng.standard_normal(self._shape, dtype=np.float32)
            self._block = block
        return self._drawn[within]
