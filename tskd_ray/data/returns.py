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


def window_advantages(
    trajectories: Trajectories, values: FloatArray, discount: float, steps: int
) -> Float64Array:
    """What each window of `steps` steps brings beyond its first state's value, (N,) float64.

    A(t) = Σ γᵏ·r(t+k) over the window + γⁿ·V(s(t+n)) − V(s(t)), with n = `steps`, or what is
    left of the episode. Nothing comes after a termination; after a time-out V of the final
    state does (D25).

    Args:
        trajectories: N steps of E episodes.
        values: (N + E,) V of each state, final ones included.
        discount: γ in [0, 1], the one that V knows.
        steps: Of a window, at least 1.
    """
    to_go = returns_to_go(trajectories.rewards, trajectories.offsets, discount)
    now = np.arange(trajectories.n_steps)
    end = trajectories.offsets[1:][trajectories.step_episode]
    n = np.minimum(steps, end - now)
    over = now + n == end
    later = np.where(over, 0.0, to_go[np.minimum(now + n, trajectories.n_steps - 1)])
    dead = over & trajectories.terminated[trajectories.step_episode]
    first = trajectories.step_state
    beyond = np.where(dead, 0.0, values[first + n])
    return to_go + discount**n * (beyond - later) - values[first]


def shares_below(values: FloatArray) -> Float64Array:
    """Of each value the share of all that are less, ties in order, in (0, 1); (N,)."""
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values)) + 0.5
    return ranks / len(values)


def steps_cost(trajectories: Trajectories) -> bool:
    """Whether the mean reward is negative (D24).

    Then an episode that was cut is spared what its steps would have cost, and ranks too high.
    """
    return bool(trajectories.rewards.mean(dtype=np.float64) < 0)


def return_scale(labels: FloatArray) -> float:
    """What divides return labels (D5): the largest; if none is positive, the largest magnitude.

    Dividing by a negative label would turn the order round.
    """
    best = float(labels.max())
    return best if best > 0 else max(float(np.abs(labels).max()), 1e-6)
