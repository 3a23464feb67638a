"""Environments with goals and dictionaries of observations, from Minari's file to the score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from goal_world import GOALS, ID, record
from pipeline.tiny import tiny_config
from tskd_ray import generate
from tskd_ray.config.schema import Config
from tskd_ray.data.environments import make_environment
from tskd_ray.data.load import load_trajectories
from tskd_ray.data.observations import flatten_observation
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.evaluation.simulate import evaluate
from tskd_ray.pipeline.run import RunResult, load_teacher, run

EPISODES, STEPS, SEED = 8, 40, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    environment = gymnasium.make(ID, once=False)
    place = tmp_path_factory.mktemp("minari") / "data"
    return record(environment, place, episodes=EPISODES, steps=STEPS, seed=SEED)


@pytest.fixture(scope="module")
def recorded(folder: Path) -> Trajectories:
    return load_trajectories(folder)


def by_hand(observation: Any) -> np.ndarray:
    """Keys in alphabetical order at each level, written out."""
    return np.concatenate(
        [
            observation["achieved_goal"]["door"],
            observation["achieved_goal"]["kettle"],
            observation["desired_goal"]["door"],
            observation["desired_goal"]["kettle"],
            observation["observation"],
        ]
    )


def test_recorded_and_simulated_observations_coincide_element_by_element(
    recorded: Trajectories,
) -> None:
    assert recorded.environment is not None
    assert recorded.environment.kwargs == {"once": False}
    assert recorded.observation_dim == recorded.environment.observation_dim == 12
    simulator = make_environment(recorded.environment)
    for index in range(recorded.n_episodes):
        episode = recorded.episode(index)
        observation, _ = simulator.reset(seed=SEED + index)
        assert np.array_equal(flatten_observation(observation), by_hand(observation))
        assert np.array_equal(episode["observations"][0], by_hand(observation))
        for step, action in enumerate(episode["actions"]):
            observation, reward, *_ = simulator.step(action)
            assert np.array_equal(episode["observations"][step + 1], by_hand(observation))
            assert episode["rewards"][step] == reward
    simulator.close()


class Remembers:
    """Acts at random; keeps what it sees."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def act(self, observations: Any) -> Any:
        self.seen.append(observations.copy())
        return np.zeros((len(observations), 3))


def test_a_policy_is_evaluated_on_observations_as_the_data_have_them(
    recorded: Trajectories,
) -> None:
    assert recorded.environment is not None
    policy = Remembers()
    evaluate([policy], recorded.environment, episodes=2, seed=0)
    goals = np.concatenate([GOALS["door"], GOALS["kettle"]])
    for rows in (recorded.observations, *policy.seen):
        assert np.array_equal(rows[:, 3:6], np.tile(goals, (len(rows), 1)))
        # The kettle's and the door's places, once as achieved and once in the observation.
        assert np.array_equal(rows[:, [1, 2, 0]], rows[:, 6:9])


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    data = {"source": str(folder), "environment_kwargs": {"once": True}}
    storage = tmp_path_factory.mktemp("storage")
    evaluation = {"episodes": 2, "checkpoints": 2, "film": False}
    return run(tiny_config(storage, data=data, evaluate=evaluation))


@pytest.mark.parametrize("rollout", ["dynamics", "model"])
def test_goals_stay_in_generated_trajectories(finished: RunResult, rollout: str) -> None:
    told = json.loads((finished.folder / "run.json").read_text())
    config = Config.model_validate_json(json.dumps(told["config"]))
    settings = config.generate.model_copy(update={"rollout": rollout})
    made = generate(load_teacher(config), settings, ids=range(3), seed=1).trajectories
    assert made.n_steps > made.n_episodes, "not cut at once for leaving a box without width"
    goals = np.concatenate([GOALS["door"], GOALS["kettle"]]).astype(np.float32)
    assert np.array_equal(
        made.observations[:, 3:6], np.tile(goals, (len(made.observations), 1))
    )


def test_a_whole_run_leaves_data_that_can_be_read(finished: RunResult) -> None:
    augmented = load_trajectories(finished.folder / "dataset")
    assert augmented.observation_dim == 12
    assert np.isfinite(augmented.observations).all()
    plan = next(
        sign
        for sign in json.loads((finished.folder / "metrics.json").read_text())["vital_signs"]
        if sign["name"].startswith("Plan")
    )
    assert plan["value"] < 100, "goals have no unit to measure errors in"


def test_scores_are_of_the_environment_that_the_run_names(finished: RunResult) -> None:
    told = json.loads((finished.folder / "run.json").read_text())
    assert (told["environment"], told["environment_kwargs"]) == (ID, {"once": True})
    returns = [value for row in finished.table for value in row.final.per_seed if row.final]
    assert returns
    assert max(returns[1:]) <= len(GOALS), "a subtask pays once"


def test_what_needs_a_simulator_that_can_be_set_says_so_in_one_line(
    finished: RunResult,
) -> None:
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    names = [sign["name"] for sign in metrics["vital_signs"]]
    assert "Generated: replayed over claimed return" not in names
    assert "\n" not in "".join(metrics["warnings"])
