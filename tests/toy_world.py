"""A world small enough to know: a damped point pushed by an action, ending beyond a wall."""

from __future__ import annotations

from typing import Any

import numpy as np

from tskd_ray.data.trajectories import EnvironmentSpec, Trajectories
from tskd_ray.types import FloatArray

WALL = 1.0
SPACE = EnvironmentSpec(
    id="Toy-v0", action_low=(-2.0,), action_high=(2.0,), max_episode_steps=40
)


def toy_step(s: FloatArray, a: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Next states (N, 2) and rewards (N,) of (position, speed) under a push (N, 1)."""
    speed = 0.9 * s[:, 1] + 0.1 * a[:, 0]
    return np.stack([s[:, 0] + speed, speed], axis=1), 1.0 + speed


def toy_trajectories(
    episodes: int = 60, *, gain: float = 1.0, seed: int = 0, limit: int = 40, wall: float = WALL
) -> Trajectories:
    """Episodes of the policy a = gain · (0.5 − position) + noise, from random starts."""
    rng = np.random.default_rng(seed)
    built: list[dict[str, Any]] = []
    for _ in range(episodes):
        states = [rng.normal(scale=0.3, size=2)]
        actions: list[FloatArray] = []
        rewards: list[float] = []
        terminated = False
        while not terminated and len(actions) < limit:
            action = np.clip(gain * (0.5 - states[-1][:1]) + rng.normal(size=1), -2.0, 2.0)
            after, reward = toy_step(states[-1][None], action[None])
            states.append(after[0])
            actions.append(action)
            rewards.append(float(reward[0]))
            terminated = bool(abs(after[0, 0]) > wall)
        built.append(
            {
                "observations": np.array(states, dtype=np.float32),
                "actions": np.array(actions, dtype=np.float32),
                "rewards": np.array(rewards, dtype=np.float32),
                "terminated": terminated,
            }
        )
    return Trajectories.from_episodes(built, environment=SPACE)
