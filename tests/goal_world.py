"""A small environment like Franka Kitchen: goals, nested dictionaries, subtasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
from gymnasium.spaces import Box, Dict
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

ID = "GoalWorld-v0"
GOALS = {"kettle": np.array([0.6, 0.0]), "door": np.array([-0.5])}
"""Where subtasks end; `door` sorts before `kettle`, so orders by name and as given differ."""


class GoalWorld(gymnasium.Env[Mapping[str, Any], np.ndarray]):
    """A hand that pushes a kettle in the plane and a door along a line.

    Pays 1 for each subtask when it is first done; ends when both are. With `once=False` it pays
    for all that are done, at every step, as Minari's Kitchen datasets do.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - as Gymnasium has it

    def __init__(self, once: bool = True) -> None:
        self.once = once
        goals = Dict({name: _box(len(goal)) for name, goal in GOALS.items()})
        self.observation_space = Dict(
            {"observation": _box(6), "desired_goal": goals, "achieved_goal": goals}
        )
        self.action_space = Box(-1.0, 1.0, (3,), np.float64)

    def reset(
        self, *, seed: int | None = None, options: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-0.1, 0.1, size=3)
        self.speed = np.zeros(3)
        self.done: set[str] = set()
        return self._observed(), {}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.speed = 0.8 * self.speed + 0.02 * np.clip(action, -1, 1)
        self.state = self.state + self.speed
        near = {
            name
            for name, value in self._achieved().items()
            if np.linalg.norm(value - GOALS[name]) < 0.2
        }
        paid = near - self.done if self.once else near
        self.done |= near
        ended = self.once and len(self.done) == len(GOALS)
        return self._observed(), float(len(paid)), ended, False, {}

    def _achieved(self) -> dict[str, np.ndarray]:
        return {"kettle": self.state[:2].copy(), "door": self.state[2:].copy()}

    def _observed(self) -> dict[str, Any]:
        return {
            "observation": np.concatenate([self.state, self.speed]),
            "desired_goal": {name: goal.copy() for name, goal in GOALS.items()},
            "achieved_goal": self._achieved(),
        }


def demonstration(observation: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
    """A noisy action towards the goals."""
    parts = [
        observation["desired_goal"][name] - observation["achieved_goal"][name]
        for name in ("kettle", "door")
    ]
    return np.clip(3 * np.concatenate(parts) + rng.normal(0, 0.5, 3), -0.999, 0.999)


def record(
    environment: gymnasium.Env[Any, Any],
    folder: Path,
    *,
    episodes: int,
    steps: int,
    seed: int = 0,
    act: Callable[[Any, np.random.Generator], np.ndarray] = demonstration,
) -> Path:
    """A dataset that Minari's own storage wrote into `folder`; episodes stop after `steps`."""
    folder.mkdir()
    storage = MinariStorage.new(
        folder,
        observation_space=environment.observation_space,
        action_space=environment.action_space,
        env_spec=environment.spec,
        data_format="hdf5",
    )
    storage.update_metadata(
        {"dataset_id": "test/goals-v0", "minari_version": minari.__version__}
    )
    rng = np.random.default_rng(seed)
    for number in range(episodes):
        seen, actions, rewards = [environment.reset(seed=seed + number)[0]], [], []
        terminated = truncated = False
        while not terminated and not truncated and len(actions) < steps:
            actions.append(act(seen[-1], rng))
            observation, reward, terminated, truncated, _ = environment.step(actions[-1])
            seen.append(observation)
            rewards.append(float(reward))
        last = np.arange(len(actions)) == len(actions) - 1
        buffer = EpisodeBuffer(
            observations=_stacked(seen),
            actions=_stacked(actions),
            rewards=rewards,
            terminations=list(last & terminated),
            truncations=list(last & (not terminated)),
        )
        storage.update_episodes([buffer])
    environment.close()
    return folder


def _stacked(values: Sequence[Any]) -> Any:
    if not isinstance(values[0], Mapping):
        return np.stack(values)
    return {key: _stacked([value[key] for value in values]) for key in values[0]}


def _box(width: int) -> Box:
    return Box(-np.inf, np.inf, (width,), np.float64)


gymnasium.register(ID, entry_point="goal_world:GoalWorld", max_episode_steps=60)
