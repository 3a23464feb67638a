"""Action-conditioned dynamics: next state and reward of (s, a), for offline rollouts (D8).

M members · N rows · S observation dim · A action dim
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from tskd_ray.config.schema import FitConfig
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.models.batches import BatchSampler, gather, hold_out_episodes, steps_of
from tskd_ray.models.fit import fit
from tskd_ray.models.mlp import BatchedMLP, predict
from tskd_ray.models.saved import SavedModel
from tskd_ray.models.standardizer import Standardizer
from tskd_ray.progress import Progress, silent
from tskd_ray.types import BoolArray, Float64Array, FloatArray

KIND = "transition"
MEMBERS = 5
HIDDEN = (256, 256)
HELD_OUT = 0.05


class Step(NamedTuple):
    """What the ensemble says of N steps."""

    next_states: Float64Array  # (N, S)
    rewards: Float64Array  # (N,)
    disagreement: (
        Float64Array  # (N,) sd over members, in sd of a true step, mean over moving dims
    )


@dataclass(frozen=True, eq=False)
class Transition(SavedModel):
    """Ensemble of deterministic MLPs that predict the standardised (s' − s, r) of (s, a)."""

    kind = KIND

    network: BatchedMLP
    inputs: Standardizer
    outputs: Standardizer
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
        """Minimise the squared error; members differ by first weights and by batches.

        `metrics_` has the learning curve and, on held-out episodes, the median and root mean
        squared error of a step (in sd of a true step, root mean square over dims) and the root
        mean squared error and bias of the reward.
        """
        keys = [(KIND, member) for member in range(MEMBERS)]
        x_all, y_all = _table(trajectories)
        train, held = hold_out_episodes(trajectories, HELD_OUT, seed=seed, key=KIND)
        rows = steps_of(trajectories, train)
        inputs = Standardizer.fit(x_all[rows])
        outputs = Standardizer.fit(y_all[rows], constant=0.0)  # goals stay what they are
        x = torch.from_numpy(inputs.normalize(x_all[rows]))
        y = torch.from_numpy(outputs.normalize(y_all[rows]))
        network = BatchedMLP(x.shape[1], y.shape[1], HIDDEN, seed=seed, keys=keys)
        batches = BatchSampler.shared(len(rows), settings.batch_size, seed=seed, keys=keys)

        def loss(number: int) -> Tensor:
            batch = batches(number)
            # Summed over members: each sees the gradient that it would see alone.
            return (network(gather(x, batch)) - gather(y, batch)).square().mean((1, 2)).sum()

        curve = fit(network, loss, settings, resume=resume, progress=progress)
        model = cls(network, inputs, outputs)
        model.metrics_.update(curve=curve, **model._held_out(trajectories.take(held)))
        return model

    def predict(self, s: FloatArray, a: FloatArray) -> Step:
        """One step from states (N, S) by actions (N, A), raw units: the members' mean."""
        x = self.inputs.normalize(np.concatenate([s, a], axis=1))
        scaled_MNO = predict(self.network, x)
        mean_NO = self.outputs.unnormalize(scaled_MNO.mean(axis=0, dtype=np.float64))
        spread_NS = scaled_MNO[:, :, :-1].std(axis=0, dtype=np.float64)
        spread = _over(spread_NS, self.outputs.std_[:-1] > 0).mean(axis=1)
        return Step(s + mean_NO[:, :-1], mean_NO[:, -1], spread)

    def _held_out(self, held: Trajectories) -> dict[str, float]:
        x, y = _table(held)
        observation_dim = held.observation_dim
        step = self.predict(x[:, :observation_dim], x[:, observation_dim:])
        difference = step.next_states - x[:, :observation_dim] - y[:, :-1]
        moves = self.outputs.std_[:-1] > 0
        unit = self.outputs.std_[:-1][moves]
        error = np.sqrt(np.square(_over(difference, moves) / unit).mean(axis=1))
        reward_error = step.rewards - y[:, -1]
        return {
            "held_out_step_error_median": float(np.median(error)),
            "held_out_step_error_rms": float(np.sqrt(np.square(error).mean())),
            "held_out_reward_rmse": float(np.sqrt(np.square(reward_error).mean())),
            "held_out_reward_bias": float(reward_error.mean()),
            "held_out_disagreement_median": float(np.median(step.disagreement)),
            "held_out_disagreement_p99": float(np.quantile(step.disagreement, 0.99)),
        }


def _over(rows: Float64Array, moves: BoolArray) -> Float64Array:
    """The dimensions that steps change; what stays has no unit to measure errors in."""
    return rows if moves.all() else np.ascontiguousarray(rows[:, moves])


def _table(trajectories: Trajectories) -> tuple[FloatArray, FloatArray]:
    """Rows (s, a), (N, S + A), and (s' − s, r), (N, S + 1), in raw units."""
    states = trajectories.observations[trajectories.step_state]
    difference = trajectories.observations[trajectories.step_state + 1] - states
    x = np.concatenate([states, trajectories.actions], axis=1)
    return x, np.concatenate([difference, trajectories.rewards[:, None]], axis=1)
