from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

from tskd_ray.data.trajectories import EnvironmentSpec, Trajectories
from tskd_ray.errors import DataError
from tskd_ray.evaluation.reward_error import errors_on_fresh, errors_on_recorded
from tskd_ray.types import FloatArray

HOPPER = EnvironmentSpec(id="Hopper-v5")


def hopper_reward(s: FloatArray, a: FloatArray, s2: FloatArray) -> FloatArray:
    """By the book, but for the way gone, which observations do not show: about the velocity."""
    healthy = (
        (s2[:, 0] > 0.7) & (np.abs(s2[:, 1]) < 0.2) & (np.abs(s2[:, 2:]) < 100).all(axis=1)
    )
    return healthy + (s[:, 5] + s2[:, 5]) / 2 - 1e-3 * np.square(a).sum(axis=1)


@pytest.fixture(scope="module")
def claimed() -> Trajectories:
    """Episodes whose next states and rewards are dreams; states and actions are fine."""
    simulator = gym.make(HOPPER.id)
    rng = np.random.default_rng(0)
    episodes = []
    for seed in range(5):
        states, actions = [simulator.reset(seed=seed)[0]], []
        for _ in range(10):
            actions.append(rng.uniform(-1, 1, size=3).astype(np.float32))
            states.append(simulator.step(actions[-1])[0] + rng.normal(scale=0.02, size=11))
        episodes.append(
            {
                "observations": states,
                "actions": actions,
                "rewards": np.full(10, 100.0),
                "terminated": False,
            }
        )
    simulator.close()
    return Trajectories.from_episodes(episodes, environment=HOPPER)


def test_fresh_rewards_are_the_simulators_and_not_the_claimed_ones(
    claimed: Trajectories,
) -> None:
    models = {
        "true": hopper_reward,
        "shifted": lambda s, a, s2: hopper_reward(s, a, s2) + 0.5,
        "mean": lambda s, _a, _s2: np.full(len(s), 1.0),
    }
    found = errors_on_fresh(models, claimed, HOPPER, 0, samples=40)
    assert found.steps == 40
    true, shifted, mean = (found.models[name] for name in models)
    assert true.mse < 0.02 * found.reward_sd**2
    assert true.mse_of_variance == pytest.approx(true.mse / found.reward_sd**2)
    assert shifted.bias == pytest.approx(true.bias + 0.5)
    assert shifted.mse == pytest.approx(true.mse + true.bias + 0.25)
    assert mean.bias == pytest.approx(1.0 - found.reward_mean)
    assert mean.mse == pytest.approx(found.reward_sd**2 + mean.bias**2)


def test_models_are_shown_the_true_next_state_in_the_datas_precision(
    claimed: Trajectories,
) -> None:
    single = replace(claimed, observations=claimed.observations.astype(np.float32))
    shown: list[FloatArray] = []

    def model(s: FloatArray, a: FloatArray, s2: FloatArray) -> FloatArray:
        shown.extend([s, a, s2])
        return np.zeros(len(s))

    found = errors_on_fresh({"any": model}, single, HOPPER, 0)
    states = single.observations[single.step_state]
    np.testing.assert_array_equal(shown[0], states)
    np.testing.assert_array_equal(shown[1], single.actions)
    assert shown[2].dtype == np.float32
    dreamed = single.observations[single.step_state + 1]
    assert np.abs(shown[2] - dreamed).mean() > 0.005
    assert found.models["any"].bias == pytest.approx(-found.reward_mean)


def test_recorded_steps_are_taken_as_they_are(claimed: Trajectories) -> None:
    rewards = np.arange(claimed.n_steps, dtype=np.float64)
    recorded = replace(claimed, rewards=rewards)
    found = errors_on_recorded(
        {"zero": lambda s, _a, _s2: np.zeros(len(s))}, recorded, 0, samples=10**6
    )
    zero = found.models["zero"]
    assert found.steps == claimed.n_steps
    assert zero.mse == pytest.approx(np.square(rewards).mean())
    assert zero.bias == pytest.approx(-rewards.mean())
    squares = np.square(rewards)
    spread = np.square(squares - squares.mean()).sum() / (len(squares) - 1)
    assert zero.mse_error == pytest.approx(np.sqrt(spread / len(squares)))


def test_one_step_has_no_spread(claimed: Trajectories) -> None:
    models = {"zero": lambda s, _a, _s2: np.zeros(len(s))}
    assert errors_on_recorded(models, claimed, 0, samples=1).models["zero"].mse_error == 0


def test_environments_whose_state_cannot_be_set_are_refused(claimed: Trajectories) -> None:
    with pytest.raises(DataError, match="needs a MuJoCo environment"):
        errors_on_fresh({}, claimed, EnvironmentSpec(id="CartPole-v1"), 0)
