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
        steps = (
            recorded.observations[recorded.step_state + 1]
            - recorded.observations[recorded.step_state]
        )
        try:
            found = one_step_fidelity(
                generated,
                recorded.environment,
                seed,
                samples=SAMPLES,
                step_std=steps.std(axis=0),
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
        distance=float(np.median(_distances(generated, recorded, seed))),
    )


def _distances(generated: Trajectories, recorded: Trajectories, seed: int) -> Float64Array:
    """Of sampled generated states to the nearest recorded one, each dimension by its sd."""
    scale = Standardizer.fit(recorded.observations)
    states = generated.observations
    count = min(SAMPLES, len(states))
    rows = numpy_rng(seed, "distance").choice(len(states), size=count, replace=False)
    tree = KDTree(scale.normalize(recorded.observations))
    distances, _ = tree.query(scale.normalize(states[rows]))
    return np.asarray(distances, dtype=np.float64)
