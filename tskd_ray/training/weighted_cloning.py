"""Advantage-weighted regression: cloning that counts a step for what it brought.

The weights are those of AWR (Peng et al. 2019) and MARWIL (Wang et al. 2018), the choice of the
best steps is BAIL's (Chen et al. 2020); the advantages are of windows, over a V that never saw
the step's own episode (D25).

M students · B batch · N steps · A action dim
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tskd_ray.config.schema import AWRConfig, DistillConfig
from tskd_ray.data.returns import window_advantages
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.models.batches import gather
from tskd_ray.models.cross_fit_value import CrossFitValue
from tskd_ray.models.mlp import MemberKey
from tskd_ray.training.cloning import Cloning, Lessons
from tskd_ray.types import Float32Array, Float64Array, FloatArray, IntArray

LARGEST_EXPONENT = 4.0
"""No step counts for more than e⁴ = 55 of those with no advantage."""


class WeightedCloning(Cloning):
    """Cloning's network, batches and first weights; V is fitted before the first step.

    V is no part of the training state: a resumed training fits the same one again.
    """

    def __init__(
        self,
        lessons: Sequence[Lessons],
        settings: DistillConfig,
        seed: int,
        keys: Sequence[MemberKey],
    ) -> None:
        awr = settings.awr
        advantages = [step_advantages(one.trajectories, awr, seed) for one in lessons]
        taught = [best_steps(one, awr.share) for one in advantages]
        super().__init__(lessons, settings, seed, keys, taught)
        weights = [
            advantage_weights(one[steps], awr.scale)
            for one, steps in zip(advantages, taught, strict=True)
        ]
        self._weights = torch.from_numpy(np.concatenate(weights)[:, None])

    def loss(self, step: int) -> Tensor:
        """Weighted mean squared error of actions in [−1, 1]."""
        weights = gather(self._weights, self.batches.rows(step))  # (M, B, 1)
        return (weights * self.squared_errors(step)).mean((1, 2)).sum()


def step_advantages(trajectories: Trajectories, settings: AWRConfig, seed: int) -> Float64Array:
    """Of the window that each step begins, (N,), in units of the reward."""
    discount = settings.discount
    value = CrossFitValue.fit(trajectories, settings.fit, seed, discount=discount)
    states = value.of_recorded(trajectories)
    return window_advantages(trajectories, states, discount, settings.steps)


def best_steps(advantages: FloatArray, share: float) -> IntArray:
    """Numbers of the share of steps, one at least, whose advantages (N,) are highest, in order.

    Of equal advantages the earlier step counts as the better.
    """
    kept = max(1, round(share * len(advantages)))
    return np.sort(np.argsort(-advantages, kind="stable")[:kept])


def advantage_weights(advantages: FloatArray, scale: float) -> Float32Array:
    """exp(min(scale · A / std(A), 4)) over its mean, (N,); 1 where all advantages are equal."""
    spread = float(advantages.std())
    exponents = scale * advantages / spread if spread > 0 else np.zeros(len(advantages))
    exponents = np.minimum(exponents, LARGEST_EXPONENT)
    weights = np.exp(exponents - exponents.max())  # the mean takes the factor out again
    return (weights / weights.mean()).astype(np.float32)
