"""What generated trajectories are worth, without training a student on them.

n trajectories · N steps · S observation dim
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from tskd_ray.data.trajectories import Trajectories
from tskd_ray.errors import DataError
from tskd_ray.evaluation.fidelity import one_step_fidelity
from tskd_ray.models.standardizer import Standardizer
from tskd_ray.seeding import numpy_rng
from tskd_ray.types import Float64Array, FloatArray

SAMPLES = 1000
"""Steps and states that are looked at."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Of one set of generated trajectories."""

    returns: tuple[float, ...]  # (n,) claimed: predicted rewards
    mean_length: float
    step_error: float  # median one-step error, in sd of a true step
    judged_by: str  # "simulator", or "ensemble": then `step_error` is its members' spread
    reward_error: float | None  # rms of claimed − true reward; None without a simulator
    reward_bias: float | None  # mean of the same
    distance: float  # median distance to the nearest recorded state, standardised

    @property
    def mean_return(self) -> float:
        return float(np.mean(self.returns))

    @property
    def return_error(self) -> float:
        """Standard error of the mean; 0 for a single trajectory."""
        n = len(self.returns)
        return float(np.std(self.returns, ddof=1) / np.sqrt(n)) if n > 1 else 0.0


def quality(
    generated: Trajectories, disagreement: FloatArray, recorded: Trajectories, seed: int
) -> Quality:
    """Look at generated trajectories from the outside.

    Args:
        generated: n of them, with claimed rewards.
        disagreement: Mean over each one's steps of the dynamics ensemble's spread, (n,).
        recorded: What they are generated from; its environment, if it is a MuJoCo one, judges
            single steps. It is started in the generated states and judges nothing else.
        seed: Chooses the steps and states that are looked at.
    """
    step_error, judge = float(np.mean(disagreement)), "ensemble"
    reward_error = reward_bias = None
    if recorded.environment is not None:
        try:
            found = one_step_fidelity(
                generated,
                recorded.environment,
                seed,
                samples=SAMPLES,
                step_std=recorded.step_std(),
            ).summary()
            step_error, judge = found["step_error_median"], "simulator"
            reward_error, reward_bias = found["reward_error_rms"], found["reward_error_bias"]
        except DataError:
            pass  # its state cannot be set from an observation: the ensemble has to do
    return Quality(
        returns=tuple(float(value) for value in generated.returns),
        mean_length=float(generated.lengths.mean()),
        step_error=step_error,
        judged_by=judge,
        reward_error=reward_error,
        reward_bias=reward_bias,
        distance=float(np.median(distances(generated.observations, recorded, seed))),
    )


def distances(states: FloatArray, recorded: Trajectories, seed: int) -> Float64Array:
    """Of sampled states to the nearest recorded one, each dimension by its sd; (≤ 1000,)."""
    scale = Standardizer.fit(recorded.observations)
    tree = KDTree(scale.normalize(recorded.observations))
    found, _ = tree.query(scale.normalize(_sample(states, seed)))
    return np.asarray(found, dtype=np.float64)


def coverage(states: FloatArray, recorded: Trajectories, seed: int) -> float:
    """Share of sampled recorded states that have one of `states` near.

    Near is what nine in ten recorded states have another recorded state within. Each dimension
    counts by its sd.
    """
    scale = Standardizer.fit(recorded.observations)
    asked = scale.normalize(_sample(recorded.observations, seed))
    others, _ = KDTree(scale.normalize(recorded.observations)).query(asked, k=2)
    found, _ = KDTree(scale.normalize(states)).query(asked)
    return float(np.mean(found <= np.quantile(others[:, 1], 0.9)))


def _sample(states: FloatArray, seed: int) -> FloatArray:
    count = min(SAMPLES, len(states))
    return states[numpy_rng(seed, "distance").choice(len(states), size=count, replace=False)]
