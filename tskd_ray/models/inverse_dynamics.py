"""Inverse dynamics a = f(s, s'): the action that joins two states (eq. 7).

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
from tskd_ray.models.batches import (
    BatchSampler,
    action_bounds,
    gather,
    hold_out_episodes,
    steps_of,
)
from tskd_ray.models.fit import fit
from tskd_ray.models.mlp import BatchedMLP, predict
from tskd_ray.models.saved import SavedModel
from tskd_ray.models.standardizer import Standardizer
from tskd_ray.progress import Progress, silent
from tskd_ray.types import Float32Array, FloatArray

KIND = "inverse_dynamics"
HIDDEN = (512, 512)
HELD_OUT = 0.05


@dataclass(frozen=True, eq=False)
class InverseDynamics(SavedModel):
    """MLP 2 x 512 on (s, s' − s), each standardised: a raw s' hides the small difference."""

    kind = KIND

    network: BatchedMLP
    state: Standardizer
    step: Standardizer
    low: Float32Array  # (A,)
    high: Float32Array  # (A,)
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
        """Minimise the squared error of actions, each scaled by half its range.

        `metrics_` has the learning curve and the root mean squared error on held-out episodes,
        in units of half the action range.
        """
        keys = [(KIND,)]
        from_NS = trajectories.observations[trajectories.step_state]
        difference_NS = trajectories.observations[trajectories.step_state + 1] - from_NS
        low, high = action_bounds(trajectories)
        train, held = hold_out_episodes(trajectories, HELD_OUT, seed=seed, key=KIND)
        rows = steps_of(trajectories, train)
        state, step = Standardizer.fit(from_NS[rows]), Standardizer.fit(difference_NS[rows])
        inputs = np.concatenate(
            [state.normalize(from_NS), step.normalize(difference_NS)], axis=1
        )
        centre, half = _centre(low, high)
        targets = ((trajectories.actions - centre) / half).astype(np.float32)
        x, y = torch.from_numpy(inputs[rows]), torch.from_numpy(targets[rows])
        network = BatchedMLP(x.shape[1], y.shape[1], HIDDEN, seed=seed, keys=keys)
        batches = BatchSampler.shared(len(rows), settings.batch_size, seed=seed, keys=keys)

        def loss(number: int) -> Tensor:
            batch = batches(number)
            return (network(gather(x, batch)) - gather(y, batch)).square().mean()

        curve = fit(network, loss, settings, resume=resume, progress=progress)
        model = cls(network, state, step, low, high)
        held_rows = steps_of(trajectories, held)
        error = model._scaled(inputs[held_rows]) - targets[held_rows]
        rmse = float(np.sqrt(np.square(error, dtype=np.float64).mean()))
        model.metrics_.update(curve=curve, held_out_rmse=rmse)
        return model

    def predict(self, s: FloatArray, s2: FloatArray) -> Float32Array:
        """Actions (N, A) within the bounds, for states and next states (N, S) in raw units."""
        inputs = np.concatenate([self.state.normalize(s), self.step.normalize(s2 - s)], axis=1)
        centre, half = _centre(self.low, self.high)
        return np.clip(self._scaled(inputs) * half + centre, self.low, self.high)

    def _scaled(self, inputs: Float32Array) -> Float32Array:
        return np.clip(predict(self.network, inputs)[0], -1.0, 1.0)


def _centre(low: Float32Array, high: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Middle and half width of the bounds; a width of zero counts as one, to divide by."""
    half = (high - low) / 2
    return ((low + high) / 2).astype(np.float32), np.where(half > 0, half, 1.0).astype(
        np.float32
    )
