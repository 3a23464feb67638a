"""The state value V = min(V₁, V₂) of the data's own behaviour, by TD(0) (eq. 10).

M = 2 members · N steps · S observation dim
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from tskd_ray.config.schema import FitConfig
from tskd_ray.data.returns import returns_to_go
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.models.batches import BatchSampler, gather
from tskd_ray.models.fit import fit
from tskd_ray.models.mlp import BatchedMLP, batched_forward, predict
from tskd_ray.models.saved import SavedModel
from tskd_ray.models.standardizer import Standardizer
from tskd_ray.progress import Progress, silent
from tskd_ray.types import Float64Array, FloatArray

KIND = "value"
MEMBERS = 2
HIDDEN = (256, 256)
TARGET_RATE = 0.01
WARM_START = 0.3
"""Share of the steps that regress on Monte-Carlo returns before TD(0) takes over. From random
weights TD(0) has to carry values back a hundred steps through a slow target, which takes far
longer than these networks are trained (measured: mean V 50 against 150–190)."""


@dataclass(frozen=True, eq=False)
class TwinValue(SavedModel):
    """Two value networks on standardised states, in units of a learned scale."""

    kind = KIND

    network: BatchedMLP
    state: Standardizer
    output: Standardizer  # of values, one dimension
    metrics_: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def fit(
        cls,
        trajectories: Trajectories,
        settings: FitConfig,
        seed: int,
        *,
        discount: float = 0.99,
        resume: Path | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Regress on Monte-Carlo returns first, then minimise the TD(0) error.

        Terminal states have value 0 after them; time-outs bootstrap. `metrics_` has the
        learning curve, and over the states of terminated episodes, where the Monte-Carlo return
        is whole, `mean_value` against `mean_monte_carlo` and their `correlation` (D23).
        """
        keys = [(KIND, member) for member in range(MEMBERS)]
        monte_carlo = monte_carlo_returns(trajectories, discount)
        state = Standardizer.fit(trajectories.observations)
        output = Standardizer.fit(monte_carlo[:, None])
        centre, scale = float(output.mean_[0]), float(output.std_[0])
        normal = torch.from_numpy(state.normalize(trajectories.observations))
        goal = torch.from_numpy(output.normalize(monte_carlo[:, None]))
        last = np.zeros(trajectories.n_steps, dtype=np.bool_)
        last[trajectories.offsets[1:][trajectories.terminated] - 1] = True
        reward = torch.from_numpy((trajectories.rewards / scale).astype(np.float32))[:, None]
        alive = torch.from_numpy((~last).astype(np.float32))[:, None]
        source = torch.from_numpy(trajectories.step_state)
        training = _Training(
            BatchedMLP(normal.shape[1], 1, HIDDEN, seed=seed, keys=keys), TARGET_RATE
        )
        batches = BatchSampler.shared(len(reward), settings.batch_size, seed=seed, keys=keys)
        warm_steps = round(WARM_START * settings.steps)

        def loss(number: int) -> Tensor:
            rows = batches(number)
            states = source[rows]
            predicted = training.network(gather(normal, states))
            training.follow()
            if number < warm_steps:
                target = gather(goal, rows)
            else:
                # In raw units r + γ V(s'), with V = centre + scale · network.
                after = training.target(gather(normal, states + 1)) + centre / scale
                target = gather(reward, rows) + discount * gather(alive, rows) * after
                target = target - centre / scale
            return (predicted - target).square().mean(dim=(1, 2)).sum()

        curve = fit(training, loss, settings, resume=resume, progress=progress)
        model = cls(training.network, state, output)
        model.metrics_.update(curve=curve, **model._vital_signs(trajectories, monte_carlo))
        return model

    def predict(self, s: FloatArray) -> Float64Array:
        """min(V₁, V₂), (N,), for states (N, S) in raw units."""
        outputs = predict(self.network, self.state.normalize(s))
        return self.output.unnormalize(outputs.min(axis=0))[:, 0]

    def _vital_signs(
        self, trajectories: Trajectories, monte_carlo: Float64Array
    ) -> dict[str, float]:
        whole = trajectories.terminated[trajectories.step_episode]
        rows = np.flatnonzero(whole) if whole.any() else np.arange(trajectories.n_steps)
        value = self.predict(trajectories.observations[trajectories.step_state[rows]])
        returns = monte_carlo[rows]
        return {
            "mean_value": float(value.mean()),
            "mean_monte_carlo": float(returns.mean()),
            "rmse_monte_carlo": float(np.sqrt(np.square(value - returns).mean())),
            "correlation": correlation(value, returns),
        }


def monte_carlo_returns(trajectories: Trajectories, discount: float) -> Float64Array:
    """Discounted returns-to-go (N,); after a time-out the episode's mean reward goes on.

    A crude tail, but far nearer than none: it is what the warm start regresses on.
    """
    returns = returns_to_go(trajectories.rewards, trajectories.offsets, discount)
    mean_reward = trajectories.returns / trajectories.lengths
    endless = discount < 1.0
    tail = np.where(trajectories.terminated | (not endless), 0.0, mean_reward)
    left = trajectories.offsets[1:][trajectories.step_episode] - np.arange(trajectories.n_steps)
    beyond = discount**left / (1.0 - discount) if endless else np.zeros(len(left))
    return returns + beyond * tail[trajectories.step_episode]


def correlation(a: Float64Array, b: Float64Array) -> float:
    """Pearson's, of two arrays (N,); 0 where one of them is constant."""
    spread = float(a.std() * b.std())
    return float(((a - a.mean()) * (b - b.mean())).mean()) / spread if spread > 0 else 0.0


class _Training(nn.Module):
    """The networks and their slow copy, whose weights are buffers: resuming restores them."""

    def __init__(self, network: BatchedMLP, rate: float) -> None:
        super().__init__()
        self.network = network
        self._rate = rate
        for number, parameter in enumerate(network.parameters()):
            self.register_buffer(f"slow{number}", parameter.detach().clone())

    @torch.no_grad()
    def follow(self) -> None:
        """Move the copy towards the networks (Polyak)."""
        for slow, fast in zip(self.buffers(), self.network.parameters(), strict=True):
            slow.lerp_(fast, self._rate)

    @torch.no_grad()
    def target(self, states: Tensor) -> Tensor:
        """Scaled values (M, B, 1) by the slow copy."""
        layers = list(self.buffers())
        depth = len(layers) // 2  # all weights come before all biases
        return batched_forward(layers[:depth], layers[depth:], states)
