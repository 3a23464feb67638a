"""The real Franka Kitchen, small: its recordings are read, learned from and scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from goal_world import record
from tskd_ray.data.environments import make_environment
from tskd_ray.data.load import load_trajectories
from tskd_ray.data.observations import flatten_observation
from tskd_ray.data.trajectories import EnvironmentSpec
from tskd_ray.errors import DataError
from tskd_ray.evaluation.fidelity import true_steps
from tskd_ray.evaluation.simulate import evaluate

pytest.importorskip("gymnasium_robotics", reason="see tests/requirements-robotics.lock")
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # other packages' own
]

TASKS = ["microwave", "kettle", "bottom burner", "light switch"]
# As Minari's D4RL/kitchen/mixed-v2 has it.
MINARI = {
    "remove_task_when_completed": False,
    "terminate_on_tasks_completed": False,
    "tasks_to_complete": TASKS,
}
SEED = 5
WIDTH = 59 + 2 * (1 + 7 + 2 + 2)


def act(observation: Any, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-0.9, 0.9, size=9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    environment = make_environment(EnvironmentSpec(id="FrankaKitchen-v1", kwargs=MINARI))
    place = tmp_path_factory.mktemp("kitchen") / "data"
    return record(environment, place, episodes=8, steps=40, seed=SEED, act=act)


def test_recorded_and_simulated_observations_coincide_element_by_element(folder: Path) -> None:
    recorded = load_trajectories(folder)
    assert recorded.environment is not None
    assert (recorded.environment.id, recorded.environment.kwargs) == (
        "FrankaKitchen-v1",
        MINARI,
    )
    assert recorded.observation_dim == recorded.environment.observation_dim == WIDTH
    simulator = make_environment(recorded.environment)
    # Observations are noisy, by a generator that lives as long as the simulator.
    for index in range(2):
        episode = recorded.episode(index)
        observation, _ = simulator.reset(seed=SEED + index)
        assert np.array_equal(episode["observations"][0], flatten_observation(observation))
        for step, action in enumerate(episode["actions"]):
            observation, *_ = simulator.step(action)
            row = episode["observations"][step + 1]
            assert np.array_equal(row, flatten_observation(observation))
            assert np.array_equal(row[-59:], observation["observation"])
            assert np.array_equal(row[2:9], observation["achieved_goal"]["kettle"])
    simulator.close()


class Rests:
    def act(self, observations: Any) -> Any:
        assert observations.shape[1] == WIDTH
        return np.zeros((len(observations), 9))


def test_a_policy_that_does_nothing_earns_nothing_where_tasks_pay_once() -> None:
    spec = EnvironmentSpec(id="FrankaKitchen-v1", kwargs={"tasks_to_complete": TASKS})
    assert evaluate([Rests()], spec, episodes=1, seed=0).tolist() == [[0.0]]


def test_its_state_cannot_be_set_and_one_line_says_so(folder: Path) -> None:
    recorded = load_trajectories(folder)
    assert recorded.environment is not None
    with pytest.raises(DataError, match="Checking predictions needs a MuJoCo") as caught:
        true_steps(recorded.observations[:1], recorded.actions[:1], recorded.environment)
    assert "\n" not in str(caught.value)
