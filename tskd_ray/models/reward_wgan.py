"""`RewardWGAN`: rewards of steps (s, a, s') drawn from a Wasserstein GAN, MBTS's reward model.

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
from tskd_ray.models.batches import BatchSampler, gather, hold_out_episodes, steps_of
from tskd_ray.models.fit import fit
from tskd_ray.models.hop_inputs import StepNoise, hop_rows, pair_noise, recorded_steps
from tskd_ray.models.mlp import BatchedMLP, batched_forward, predict
from tskd_ray.models.reward_mlp import HELD_OUT, SPLIT, reward_errors
from tskd_ray.models.saved import SavedModel
from tskd_ray.models.standardizer import Standardizer
from tskd_ray.progress import Progress, silent
from tskd_ray.types import Float64Array, FloatArray

KIND = "reward_wgan"
HIDDEN = (256, 256)
LATENT = 2
PENALTY = 10.0
"""Weight of the gradient penalty (Gulrajani et al. 2017)."""


@dataclass(frozen=True, eq=False)
class RewardWGAN(SavedModel):
    """Generator 2 x 256 of (s, s' − s, a) and two standard normal numbers, all standardised.

    A pair's two numbers are named by the run seed and by the pair, so its reward is the same in
    any order and in any epoch.
    """

    kind = KIND

    network: BatchedMLP
    inputs: Standardizer
    rewards: Standardizer
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
        """Play generator against critic, both taking one step at a time.

        `metrics_` has the learning curve (of the sum of both losses, which tells little) and,
        on held-out episodes, what `reward_errors` tells.
        """
        keys = [(KIND,)]
        s, s2 = recorded_steps(trajectories)
        x_all = hop_rows(s, s2, trajectories.actions)
        train, held = hold_out_episodes(trajectories, HELD_OUT, seed=seed, key=SPLIT)
        rows, held_rows = steps_of(trajectories, train), steps_of(trajectories, held)
        y_all = trajectories.rewards[:, None]
        inputs, rewards = Standardizer.fit(x_all[rows]), Standardizer.fit(y_all[rows])
        x = torch.from_numpy(inputs.normalize(x_all[rows]))
        y = torch.from_numpy(rewards.normalize(y_all[rows]))
        width = x.shape[1]
        generator = BatchedMLP(width + LATENT, 1, HIDDEN, seed=seed, keys=[(KIND, "generator")])
        critic = BatchedMLP(width + 1, 1, HIDDEN, seed=seed, keys=[(KIND, "critic")])
        batches = BatchSampler.shared(len(rows), settings.batch_size, seed=seed, keys=keys)
        # Two draws for the generator's noise, one that mixes real and generated rewards.
        noise = StepNoise(settings.batch_size, LATENT + 1, seed=seed, key=(KIND,))

        def loss(number: int) -> Tensor:
            batch = batches(number)
            given, real = gather(x, batch), gather(y, batch)
            drawn = torch.from_numpy(noise(number))[None]
            fake = generator(torch.cat([given, drawn[..., :LATENT]], dim=-1))
            return _critic_loss(critic, given, real, fake.detach(), drawn[..., LATENT:]) - (
                _frozen(critic, torch.cat([given, fake], dim=-1)).mean()
            )

        both = nn.ModuleList([generator, critic])
        curve = fit(both, loss, settings, resume=resume, progress=progress)
        model = cls(generator, inputs, rewards, seed)
        found = model.predict(s[held_rows], trajectories.actions[held_rows], s2[held_rows])
        model.metrics_.update(curve=curve, **reward_errors(found, y_all[held_rows, 0]))
        return model

    def predict(self, s: FloatArray, a: FloatArray, s2: FloatArray) -> Float64Array:
        """Rewards (N,) of steps from s by a to s', raw units: one draw for each."""
        noise = pair_noise(self.seed, KIND, LATENT, s, s2)
        rows = self.inputs.normalize(hop_rows(s, s2, a))
        scaled = predict(self.network, np.concatenate([rows, noise], axis=1))[0]
        return self.rewards.unnormalize(scaled)[:, 0]


def _critic_loss(
    critic: BatchedMLP, given: Tensor, real: Tensor, fake: Tensor, drawn: Tensor
) -> Tensor:
    """What tells real rewards (1, B, 1) from fake ones, kept to a slope of 1 in the reward."""
    mixed = real + torch.special.ndtr(drawn) * (fake - real)
    slope = _slope(critic, torch.cat([given, mixed], dim=-1))
    of_fake = critic(torch.cat([given, fake], dim=-1)).mean()
    of_real = critic(torch.cat([given, real], dim=-1)).mean()
    return of_fake - of_real + PENALTY * (slope.abs() - 1).square().mean()


def _frozen(critic: BatchedMLP, x: Tensor) -> Tensor:
    """The critic's outputs, for whoever trains on them without training it."""
    weights = [weight.detach() for weight in critic.weights]
    return batched_forward(weights, [bias.detach() for bias in critic.biases], x)


def _slope(critic: BatchedMLP, x: Tensor) -> Tensor:
    """Derivative of the outputs (1, B, 1) by the last input, as a function of the weights.

    Forward mode: which units are on is a constant, so no second backward pass is needed.
    """
    slope, h = critic.weights[0][:, -1:], x
    last = len(critic.weights) - 1
    for layer, (weight, bias) in enumerate(zip(critic.weights, critic.biases, strict=True)):
        if layer:
            slope = slope @ weight
        if layer < last:
            with torch.no_grad():
                h = torch.relu(torch.baddbmm(bias, h, weight))
            slope = slope * (h > 0)
    return slope
