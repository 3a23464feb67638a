from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tskd_ray.data.trajectories import EnvironmentSpec, Trajectories
from tskd_ray.errors import DataError
from tskd_ray.evaluation.fidelity import one_step_fidelity, replay_returns

HOPPER = EnvironmentSpec(id="Hopper-v5")


@pytest.fixture(scope="module")
def recorded() -> Trajectories:
    simulator = gym.make(HOPPER.id)
    rng = np.random.default_rng(0)
    episodes = []
    for seed in range(4):
        states, actions, rewards = [simulator.reset(seed=seed)[0]], [], []
        for _ in range(12):
            actions.append(rng.uniform(-1, 1, size=3).astype(np.float32))
            state, reward, *_ = simulator.step(actions[-1])
            states.append(state)
            rewards.append(float(reward))
        episodes.append(
            {
                "observations": states,
                "actions": actions,
                "rewards": rewards,
                "terminated": False,
            }
        )
    simulator.close()
    return Trajectories.from_episodes(episodes, environment=HOPPER)


def test_recorded_steps_are_true(recorded: Trajectories) -> None:
    fidelity = one_step_fidelity(recorded, HOPPER, 0)
    assert len(fidelity.steps) == recorded.n_steps
    summary = fidelity.summary()
    assert summary["step_error_p95"] < 1e-6
    assert summary["reward_error_rms"] < 1e-6


def test_only_the_steps_asked_for_are_looked_at(recorded: Trajectories) -> None:
    among = np.array([1, 5, 7, 20, 40])
    assert one_step_fidelity(recorded, HOPPER, 0, among=among).steps.tolist() == among.tolist()
    some = one_step_fidelity(recorded, HOPPER, 0, among=among, samples=3).steps
    assert len(some) == 3
    assert set(some) < set(among.tolist())


def test_errors_are_measured_in_sd_of_a_true_step(recorded: Trajectories) -> None:
    unit = np.linspace(1.0, 2.0, 11)
    shifted = recorded.observations.copy()
    shifted[recorded.final_states] += 0.5 * unit
    wrong = replace(recorded, observations=shifted, rewards=recorded.rewards + 0.25)
    fidelity = one_step_fidelity(wrong, HOPPER, 0, step_std=unit)
    last = np.isin(fidelity.steps, recorded.offsets[1:] - 1)
    np.testing.assert_allclose(fidelity.state_error[last], 0.5, atol=1e-6)
    assert fidelity.state_error[~last].max() < 1e-6
    assert fidelity.summary()["reward_error_bias"] == pytest.approx(0.25, abs=1e-6)


def test_the_default_unit_is_the_sd_of_the_true_steps(recorded: Trajectories) -> None:
    states = recorded.observations[recorded.step_state]
    unit = (recorded.observations[recorded.step_state + 1] - states).std(axis=0)
    noisy = replace(recorded, observations=recorded.observations + 1e-3)
    ours = one_step_fidelity(noisy, HOPPER, 0).state_error
    theirs = one_step_fidelity(noisy, HOPPER, 0, step_std=unit).state_error
    np.testing.assert_allclose(ours, theirs, rtol=0.05)


def test_samples_are_a_function_of_the_seed(recorded: Trajectories) -> None:
    one, same, other = (
        one_step_fidelity(recorded, HOPPER, seed, samples=5).steps.tolist()
        for seed in (0, 0, 1)
    )
    assert one == same != other
    assert len(set(one)) == 5


def test_replayed_actions_earn_what_was_recorded(recorded: Trajectories) -> None:
    earned = replay_returns(recorded, HOPPER, np.array([2, 0]))
    np.testing.assert_allclose(earned, recorded.returns[[2, 0]], rtol=1e-5)
    dreamt = replace(recorded, rewards=recorded.rewards + 5.0)
    np.testing.assert_allclose(replay_returns(dreamt, HOPPER, np.array([2, 0])), earned)


def test_a_replay_ends_where_the_task_does() -> None:
    simulator: Any = gym.make(HOPPER.id).unwrapped
    actions = np.random.default_rng(1).uniform(-1, 1, size=(120, 3)).astype(np.float32)
    state = simulator.reset(seed=0)[0]
    simulator.set_state(np.concatenate([[0.0], state[:5]]), state[5:])
    rewards, ended = list[float](), False
    while not ended:
        _, reward, ended, *_ = simulator.step(actions[len(rewards)])
        rewards.append(float(reward))
    simulator.close()
    assert len(rewards) < 100, "it falls"
    claimed = Trajectories.from_episodes(
        [
            {
                "observations": np.tile(state, (121, 1)),
                "actions": actions,
                "rewards": np.ones(120),
                "terminated": False,
            }
        ]
    )
    earned = replay_returns(claimed, HOPPER, np.array([0]))
    np.testing.assert_allclose(earned, [sum(rewards)], rtol=1e-6)


def test_an_environment_without_settable_state_is_refused(recorded: Trajectories) -> None:
    with pytest.raises(DataError, match="needs a MuJoCo environment"):
        one_step_fidelity(recorded, EnvironmentSpec(id="Pendulum-v1"), 0)
