"""Policies with memory: what they are told of their episodes."""

from __future__ import annotations

import numpy as np

from tskd_ray.data.trajectories import EnvironmentSpec
from tskd_ray.evaluation.simulate import deciding, evaluate
from tskd_ray.types import FloatArray, IntArray

PENDULUM = EnvironmentSpec(id="InvertedPendulum-v5")


class Notes:
    """Pushes the harder the more its own episode has earned, and writes down what it hears."""

    def __init__(self) -> None:
        self.began: list[int] = []

    def begin(self, episodes: int) -> Notes:
        self.began.append(episodes)
        self.earned = np.zeros(episodes)
        self.heard: list[tuple[list[int], list[float]]] = []
        return self

    def act(
        self, observations: FloatArray, rewards: FloatArray, episodes: IntArray
    ) -> FloatArray:
        self.earned[episodes] += rewards
        self.heard.append((episodes.tolist(), rewards.tolist()))
        return 0.1 * self.earned[episodes][:, None] - 5 * observations[:, 1:2]


class Forgets:
    """The same of the observation alone."""

    def act(self, observations: FloatArray) -> FloatArray:
        return -5 * observations[:, 1:2]


def test_a_policy_hears_the_rewards_of_its_own_episodes_until_they_end() -> None:
    policy = Notes()
    ((first, second, third),) = evaluate([policy], PENDULUM, 3, 0)
    assert policy.began == [3]
    assert policy.heard[0] == ([0, 1, 2], [0.0, 0.0, 0.0])
    returns = np.zeros(3)
    for episodes, rewards in policy.heard:
        returns[episodes] += rewards
    lengths = [sum(e in episodes for episodes, _ in policy.heard) for e in range(3)]
    earned = np.array([first, second, third])
    # The last step's reward comes when nothing more is asked; a fall earns none.
    assert (earned - returns <= 1).all()
    assert (earned >= returns).all()
    assert len(set(lengths)) > 1, "episodes that end are left out from then on"
    assert (np.abs(earned - lengths) <= 1).all()


def test_a_policy_without_memory_is_asked_as_ever() -> None:
    states = np.ones((2, 4))
    found = deciding(Forgets(), 2)(states, np.ones(2), np.arange(2))
    np.testing.assert_array_equal(found, Forgets().act(states))
