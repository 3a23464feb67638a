"""Data and quickly fitted networks for benchmarks: their speed counts, not their skill."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from tskd_ray.config.schema import FitConfig
    from tskd_ray.data.trajectories import Trajectories
    from tskd_ray.models.forward_dynamics import ForwardDynamics
    from tskd_ray.models.inverse_dynamics import InverseDynamics
    from tskd_ray.models.value import TwinValue

MEMBERS = 3
"""Of the ensemble."""

_FIT_ON = 200_000
"""States that networks are fitted on at most."""


@dataclass
class Models:
    """Networks fitted for seconds: their speed counts here, not their skill."""

    value: TwinValue
    dynamics: ForwardDynamics
    inverse: InverseDynamics
    reward_of: Any  # torch module on (s, s') standardised

    @classmethod
    def fit(cls, trajectories: Trajectories, steps: int) -> Models:
        """All four, on a part of the data that takes seconds to read."""
        from tskd_ray.config.schema import FitConfig
        from tskd_ray.models.forward_dynamics import ForwardDynamics
        from tskd_ray.models.inverse_dynamics import InverseDynamics
        from tskd_ray.models.value import TwinValue

        began = time.perf_counter()
        trajectories = subset(trajectories, min(_FIT_ON, trajectories.n_states))
        settings = FitConfig(steps=steps, batch_size=256, learning_rate=1e-3)
        models = cls(
            TwinValue.fit(trajectories, settings, 0),
            ForwardDynamics.fit(trajectories, settings, 0, members=MEMBERS, best=MEMBERS),
            InverseDynamics.fit(trajectories, settings, 0),
            None,
        )
        models.reward_of = models._fit_reward(trajectories, settings)
        print(f"networks fitted in {time.perf_counter() - began:.0f} s, {steps} steps each")
        return models

    def _fit_reward(self, trajectories: Trajectories, settings: FitConfig) -> Any:
        import torch
        from torch import nn

        torch.manual_seed(0)  # pyright: ignore[reportUnknownMemberType]
        width = 2 * trajectories.observation_dim
        network = nn.Sequential(nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, 1))
        optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
        for _ in range(settings.steps):
            rows = torch.randint(trajectories.n_steps, (settings.batch_size,)).numpy()
            source = trajectories.step_state[rows]
            states = trajectories.observations[source], trajectories.observations[source + 1]
            target = torch.from_numpy(trajectories.rewards[rows].astype("float32"))
            loss = (network(self._pairs(*states))[:, 0] - target).square().mean()
            optimizer.zero_grad()
            loss.backward()  # pyright: ignore[reportUnknownMemberType]
            optimizer.step()
        return network

    def _pairs(self, s: np.ndarray, s2: np.ndarray) -> Any:
        import numpy as np
        import torch

        state, step = self.dynamics.state, self.dynamics.step
        return torch.from_numpy(np.hstack([state.normalize(s), step.normalize(s2 - s)]))

    def reward(self, s: np.ndarray, s2: np.ndarray) -> np.ndarray:
        """Reward of (s, s2), (n,)."""
        import torch

        with torch.no_grad():
            return self.reward_of(self._pairs(s, s2))[:, 0].numpy()


def load(dataset: str) -> Trajectories:
    """A dataset by any of its names, or a folder of .npy arrays."""
    from tskd_ray.data.arrays import load_arrays
    from tskd_ray.data.load import load_trajectories

    if (Path(dataset) / "trajectories.json").is_file():
        return load_arrays(dataset, mmap=False)
    return load_trajectories(dataset)


def subset(trajectories: Trajectories, n_states: int | None) -> Trajectories:
    """Random episodes with about that many states in all."""
    import numpy as np

    if n_states is None or n_states >= trajectories.n_states:
        return trajectories
    order = np.random.default_rng(0).permutation(trajectories.n_episodes)
    total = np.cumsum(trajectories.lengths[order] + 1)
    return trajectories.take(np.sort(order[: np.searchsorted(total, n_states) + 1]))
