"""A tiny linear world and an untrained or briefly trained teacher for it."""

from __future__ import annotations

import numpy as np

from tskd_ray.config.schema import DiffusionConfig, FitConfig, TeacherConfig, UNetConfig
from tskd_ray.data.trajectories import EnvironmentSpec, Trajectories

UNET = UNetConfig(base_width=16, multipliers=(1, 2), embedding_width=16, kernel_size=3)


def world(episodes: int = 12, length: int = 20, *, terminated: bool = True) -> Trajectories:
    """s' = 0.9 s + 0.3 (a, a), reward = s[0]; some episodes terminate."""
    rng = np.random.default_rng(0)
    out = []
    for number in range(episodes):
        n = length - number % 3
        states = np.zeros((n + 1, 2), dtype=np.float32)
        states[0] = rng.normal(size=2)
        actions = rng.uniform(-1, 1, size=(n, 1)).astype(np.float32)
        for t in range(n):
            states[t + 1] = 0.9 * states[t] + 0.3 * actions[t]
        out.append(
            {
                "observations": states,
                "actions": actions,
                "rewards": states[:-1, 0].astype(np.float64),
                "terminated": terminated and number % 2 == 0,
            }
        )
    spec = EnvironmentSpec(
        id="Linear-v0", action_low=(-1.0,), action_high=(1.0,), max_episode_steps=length
    )
    return Trajectories.from_episodes(out, environment=spec)


def drifting() -> Trajectories:
    """States that move on, so that ahead and back are told apart."""
    rng = np.random.default_rng(1)
    episodes = []
    for number in range(40):
        n = 9 + number % 4
        along = np.arange(n + 1)[:, None] * [1.0, -2.0] + rng.normal(scale=0.2, size=(n + 1, 2))
        episodes.append(
            {
                "observations": (along + rng.normal(size=2)).astype(np.float32),
                "actions": np.zeros((n, 1), np.float32),
                "rewards": rng.normal(size=n),
                "terminated": number % 2 == 0,
            }
        )
    return Trajectories.from_episodes(episodes)


def observations_of(data: Trajectories) -> list[np.ndarray]:
    """The states of each episode."""
    return [data.episode(number)["observations"] for number in range(data.n_episodes)]


def teacher_config(
    parameterization: str = "residual", *, context: int = 1, steps: int = 30, **extra: object
) -> TeacherConfig:
    model = DiffusionConfig(
        horizon=6,
        unet=UNET,
        diffusion_steps=20,
        fit=FitConfig(steps=steps, batch_size=16, learning_rate=2e-3, ema_decay=0.9),
    )
    return TeacherConfig.model_validate(
        {
            "parameterization": parameterization,
            "context": context,
            "trajectory": model,
            "reward": model,
            "reward_sampler": {"name": "ddim", "steps": 5, "guidance": 0.0},
            **extra,
        }
    )
