"""Returns-to-go and return labels (D4, D5).

N steps · E episodes
"""

from __future__ import annotations

import numpy as np

from tskd_ray.data.trajectories import Trajectories
from tskd_ray.types import Float64Array, FloatArray, IntArray


def returns_to_go(rewards: FloatArray, offsets: IntArray, discount: float) -> Float64Array:
    """Discounted sum of the rewards from each step to the end of its episode.

    Sums are doubled in length until they cover the longest episode: log2(length) passes over
    flat arrays instead of one per step, and pairwise summation's smaller rounding error.

    Args:
        rewards: (N,), summed in float64.
        offsets: (E + 1,) first step of each episode, and N.
        discount: γ in [0, 1].

    Returns:
        (N,) float64; a NaN or infinite reward reaches the steps before it in its episode only.

    Source: D5.
    """
    total = np.array(rewards, dtype=np.float64)
    left = np.repeat(offsets[1:], np.diff(offsets)) - np.arange(len(total))  # steps to the end
    span, factor = 1, float(discount)
    while factor > 0.0 and len(total) and span < left.max():
        steps = np.flatnonzero(left > span)
        total[steps] += factor * total[steps + span]  # the right side is copied before adding
        span, factor = 2 * span, factor * factor
    return total


def return_labels(
    trajectories: Trajectories, discount: float, termination_penalty: float = 0.0
) -> Float64Array:
    """The return condition of a window that starts at each step, (N,) float64, not yet scaled.

    All remaining rewards of the episode count (D5). The penalty, at most 0, is added to the
    last reward of terminated episodes for the label only; the diffused reward stays raw (D4).
    """
    rewards = trajectories.rewards.astype(np.float64)
    last = trajectories.offsets[1:] - 1
    rewards[last[trajectories.terminated]] += termination_penalty
    return returns_to_go(rewards, trajectories.offsets, discount)


def return_scale(labels: FloatArray) -> float:
    """What divides return labels (D5): the largest; if none is positive, the largest magnitude.

    Dividing by a negative label would turn the order round.
    """
    best = float(labels.max())
    return best if best > 0 else max(float(np.abs(labels).max()), 1e-6)
