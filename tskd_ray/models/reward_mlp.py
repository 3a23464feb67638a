"""`RewardMLP`: the reward of a step (s, a, s') by regression, MBTS's simpler reward model.

N rows · S observation dim · A action dim
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from tskd_ray.config.schema import FitConfig
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.models.batches import BatchSampler, gather, hold_out_episodes, steps_of
from tskd_ray.models.fit import fit
from tskd_ray.models.hop_inputs import hop_rows, recorded_steps
from tskd_ray.models.mlp import BatchedMLP, predict
from tskd_ray.models.saved import SavedModel
from tskd_ray.models.standardizer import Standardizer
from tskd_ray.progress import Progress, silent
from tskd_ray.types import Float64Array, FloatArray

KIND = "reward_mlp"
HIDDEN = (256, 256)
HELD_OUT = 0.05
SPLIT = "rewards"
"""The same episodes are held out for all models of rewards of a seed."""


@dataclass(frozen=True, eq=False)
class RewardMLP(SavedModel):
    """MLP 2 x 256 on (s, s' − s, a), all standardised, as is the reward it is fitted to."""

    kind = KIND

    network: BatchedMLP
    inputs: Standardizer
    rewards: Standardizer
    metrics_: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def fit(
        cls,
        trajectories: Trajectories,
        settings: FitConfig,
        seed: int,
        *,
        resume: Path | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Minimise the squared error of rewards.

        `metrics_` has the learning curve and, on held-out episodes, what `reward_errors` tells.
        """
        keys = [(KIND,)]
        x_all = hop_rows(*recorded_steps(trajectories), trajectories.actions)
        train, held = hold_out_episodes(trajectories, HELD_OUT, seed=seed, key=SPLIT)
        rows, held_rows = steps_of(trajectories, train), steps_of(trajectories, held)
        y_all = trajectories.rewards[:, None]
        inputs, rewards = Standardizer.fit(x_all[rows]), Standardizer.fit(y_all[rows])
        x = torch.from_numpy(inputs.normalize(x_all[rows]))
        y = torch.from_numpy(rewards.normalize(y_all[rows]))
        network = BatchedMLP(x.shape[1], 1, HIDDEN, seed=seed, keys=keys)
        batches = BatchSampler.shared(len(rows), settings.batch_size, seed=seed, keys=keys)

        def loss(number: int) -> Tensor:
            batch = batches(number)
            return (network(gather(x, batch)) - gather(y, batch)).square().mean()

        curve = fit(network, loss, settings, resume=resume, progress=progress)
        model = cls(network, inputs, rewards)
        found = model._of_rows(x_all[held_rows])
        model.metrics_.update(curve=curve, **reward_errors(found, y_all[held_rows, 0]))
        return model

    def predict(self, s: FloatArray, a: FloatArray, s2: FloatArray) -> Float64Array:
        """Rewards (N,) of steps from s by a to s', raw units."""
        return self._of_rows(hop_rows(s, s2, a))

    def _of_rows(self, rows: FloatArray) -> Float64Array:
        scaled = predict(self.network, self.inputs.normalize(rows))[0]
        return self.rewards.unnormalize(scaled)[:, 0]


def reward_errors(found: FloatArray, true: FloatArray) -> dict[str, float]:
    """Of held-out rewards: root mean squared error, its share of their sd, and the bias."""
    error = found.astype(np.float64) - true
    rmse = float(np.sqrt(np.square(error).mean()))
    sd = float(true.std(dtype=np.float64))
    return {
        "held_out_rmse": rmse,
        "held_out_bias": float(error.mean()),
        "held_out_rmse_of_sd": rmse / sd if sd > 0 else rmse,
    }
