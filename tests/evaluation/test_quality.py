"""What generated trajectories are worth: each figure against a slow, obvious one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tskd_ray.data.load import load_trajectories
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.evaluation.quality import coverage, quality
from tskd_ray.types import BoolArray


@pytest.fixture(scope="module")
def recorded() -> Trajectories:
    return load_trajectories("builtin:hopper-medium-replay").take(np.arange(0, 120, 6))


def test_recorded_steps_are_true_and_lie_in_the_data(recorded: Trajectories) -> None:
    found = quality(recorded, np.zeros(recorded.n_episodes), recorded, seed=0)
    assert found.judged_by == "simulator"
    assert found.step_error < 1e-3
    assert found.reward_error is not None
    assert found.reward_error < 1e-3
    assert found.distance == 0
    assert found.returns == tuple(recorded.returns)
    assert found.mean_length == recorded.lengths.mean()
    assert found.return_error == pytest.approx(
        recorded.returns.std(ddof=1) / recorded.n_episodes**0.5
    )


def test_flattering_rewards_are_a_bias(recorded: Trajectories) -> None:
    flattered = replace(recorded, rewards=recorded.rewards + 0.25)
    found = quality(flattered, np.zeros(recorded.n_episodes), recorded, seed=0)
    assert found.reward_bias == pytest.approx(0.25, abs=1e-3)
    assert found.reward_error == pytest.approx(0.25, abs=1e-3)


def test_the_distance_is_that_to_the_nearest_recorded_state(recorded: Trajectories) -> None:
    away = replace(recorded, observations=recorded.observations + np.float32(0.3))
    found = quality(away, np.zeros(recorded.n_episodes), recorded, seed=0)
    sd = recorded.observations.std(axis=0, dtype=np.float64)
    known = recorded.observations / sd
    nearest = [
        np.sqrt(((known - state / sd) ** 2).sum(axis=1).min()) for state in away.observations
    ]
    low, high = np.quantile(nearest, [0.42, 0.58])  # it looks at a sample
    assert low < found.distance < high


def test_coverage_is_the_share_of_recorded_states_that_have_one_near(
    recorded: Trajectories,
) -> None:
    states = recorded.observations
    assert coverage(states, recorded, seed=0) == 1.0
    assert coverage(states + 100 * states.std(axis=0), recorded, seed=0) == 0.0
    # Far copies of one half leave the other: each state has itself, or its neighbours.
    first = np.arange(len(states)) < len(states) // 2
    half = coverage(states[first], recorded, seed=0)
    sd = states.std(axis=0, dtype=np.float64)
    scaled = states / sd

    def nearest(row: int, others: BoolArray) -> float:
        return float(np.sqrt(((scaled[others] - scaled[row]) ** 2).sum(axis=1).min()))

    rows = np.arange(len(states))
    near = np.quantile([nearest(i, rows != i) for i in range(len(states))], 0.9)
    share = np.mean([nearest(i, first) <= near for i in range(len(states))])
    assert half == pytest.approx(share, abs=0.05)  # it looks at a sample
    assert 0.4 < half < 0.95


def test_without_a_simulator_the_ensemble_judges(recorded: Trajectories) -> None:
    spread = np.linspace(0, 1, recorded.n_episodes)
    found = quality(recorded, spread, replace(recorded, environment=None), seed=0)
    assert (found.judged_by, found.reward_error, found.reward_bias) == ("ensemble", None, None)
    assert found.step_error == pytest.approx(0.5)
