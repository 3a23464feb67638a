"""`ActionVAE`: actions that join two states, drawn from a conditional VAE, as in MBTS.

B batch · N rows · S observation dim · A action dim · Z latent dim
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

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
from tskd_ray.models.hop_inputs import StepNoise, hop_rows, pair_noise, recorded_steps
from tskd_ray.models.mlp import BatchedMLP, predict
from tskd_ray.models.saved import SavedModel
from tskd_ray.models.standardizer import Standardizer
from tskd_ray.progress import Progress, silent
from tskd_ray.types import Float32Array, FloatArray

KIND = "action_vae"
HIDDEN, WIDE, MANY_STEPS = 128, 750, 900_000
"""Two hidden layers each: the first width below so many steps, the second from there on."""

LATENT_PER_ACTION = 2
LOG_STD_RANGE = (-4.0, 15.0)
HELD_OUT = 0.05


@dataclass(frozen=True, eq=False)
class ActionVAE(SavedModel):
    """Decoder of (s, s' − s), standardised, and a latent; tanh to the bounds of actions.

    A pair's latent is named by the run seed and by the pair, so its action is the same in any
    order and in any epoch. Reference: Hepburn & Montana (2022), arXiv 2211.11603.
    """

    kind = KIND

    network: BatchedMLP
    inputs: Standardizer
    low: Float32Array  # (A,)
    high: Float32Array  # (A,)
    seed: int
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
        """Minimise half the reconstruction error plus half the divergence, each a mean.

        `metrics_` has the learning curve and the root mean squared error of drawn actions on
        held-out episodes, in units of half the action range.
        """
        s, s2 = recorded_steps(trajectories)
        x_all, (low, high) = hop_rows(s, s2), action_bounds(trajectories)
        train, held = hold_out_episodes(trajectories, HELD_OUT, seed=seed, key=KIND)
        rows, held_rows = steps_of(trajectories, train), steps_of(trajectories, held)
        inputs = Standardizer.fit(x_all[rows])
        y_all = _scaled(trajectories.actions, low, high)
        x = torch.from_numpy(inputs.normalize(x_all[rows]))
        y = torch.from_numpy(y_all[rows])
        given, actions = x.shape[1], y.shape[1]
        latent = LATENT_PER_ACTION * actions
        hidden = (HIDDEN if len(y_all) < MANY_STEPS else WIDE,) * 2
        keys = [(KIND, "encoder")], [(KIND, "decoder")]
        encoder = BatchedMLP(given + actions, 2 * latent, hidden, seed=seed, keys=keys[0])
        decoder = BatchedMLP(given + latent, actions, hidden, seed=seed, keys=keys[1])
        size = settings.batch_size
        batches = BatchSampler.shared(len(rows), size, seed=seed, keys=[(KIND,)])
        noise = StepNoise(size, latent, seed=seed, key=(KIND,))

        def loss(number: int) -> Tensor:
            batch = batches(number)
            states, action = gather(x, batch), gather(y, batch)
            encoded = encoder(torch.cat([states, action], dim=-1))
            mean, log_std = encoded.split(latent, dim=-1)
            log_std = log_std.clamp(*LOG_STD_RANGE)
            drawn = mean + log_std.exp() * torch.from_numpy(noise(number))
            found = torch.tanh(decoder(torch.cat([states, drawn], dim=-1)))
            divergence = -0.5 * (1 + 2 * log_std - mean.square() - (2 * log_std).exp()).mean()
            return 0.5 * ((found - action).square().mean() + divergence)

        both = nn.ModuleList([encoder, decoder])
        curve = fit(both, loss, settings, resume=resume, progress=progress)
        model = cls(decoder, inputs, low, high, seed)
        found = _scaled(model.predict(s[held_rows], s2[held_rows]), low, high)
        error = found - y_all[held_rows]
        rmse = float(np.sqrt(np.square(error, dtype=np.float64).mean()))
        model.metrics_.update(curve=curve, held_out_rmse=rmse)
        return model

    def predict(self, s: FloatArray, s2: FloatArray) -> Float32Array:
        """Actions (N, A) within the bounds, one draw for each pair of states (N, S)."""
        latent = LATENT_PER_ACTION * len(self.low)
        rows = [
            self.inputs.normalize(hop_rows(s, s2)),
            pair_noise(self.seed, KIND, latent, s, s2),
        ]
        scaled = np.tanh(predict(self.network, np.concatenate(rows, axis=1))[0])
        actions = scaled * ((self.high - self.low) / 2) + (self.low + self.high) / 2
        return np.clip(actions, self.low, self.high)


def _scaled(actions: FloatArray, low: Float32Array, high: Float32Array) -> Float32Array:
    """Actions (N, A) in units of half their range; 0 where there is none."""
    half = (high - low) / 2
    scaled = (actions - (low + high) / 2) / np.where(half > 0, half, 1.0)
    return scaled.astype(np.float32)
