from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from tskd_ray.data.trajectories import EnvironmentSpec
from tskd_ray.errors import DataError
from tskd_ray.evaluation.simulate import evaluate, reset_seed
from tskd_ray.models.mlp import BatchedMLP
from tskd_ray.models.policy import Policy
from tskd_ray.models.standardizer import Standardizer
from tskd_ray.types import FloatArray

PENDULUM = EnvironmentSpec(id="Pendulum-v1", kwargs={"g": 9.0})
HOPPER = EnvironmentSpec(id="Hopper-v5")


class Linear:
    """Actions that are a fixed linear map of the observation."""

    def __init__(self, seed: int, observation_dim: int = 3, action_dim: int = 1) -> None:
        self.weight = np.random.default_rng(seed).normal(size=(observation_dim, action_dim))

    def act(self, observations: FloatArray) -> FloatArray:
        # Not a matrix product, whose last bits depend on the number of rows.
        products = observations[:, :, None] * self.weight
        return np.clip(products.sum(axis=1), -1.0, 1.0).astype(np.float32)


def slow_return(policy: Linear, environment: EnvironmentSpec, seed: int, episode: int) -> float:
    simulator = gym.make(environment.id, **environment.kwargs)
    observation, _ = simulator.reset(seed=reset_seed(seed, episode))
    total, done = 0.0, False
    while not done:
        observation, reward, terminated, truncated, _ = simulator.step(
            policy.act(observation[None])[0]
        )
        total += float(reward)
        done = terminated or truncated
    simulator.close()
    return total


def test_returns_are_those_of_one_rollout_after_the_other() -> None:
    policies = [Linear(0), Linear(1)]
    returns = evaluate(policies, PENDULUM, 3, 7)
    expected = [[slow_return(p, PENDULUM, 7, e) for e in range(3)] for p in policies]
    assert returns.tolist() == expected


def test_episodes_that_end_early_do_not_disturb_the_others() -> None:
    policy = Linear(2, 11, 3)
    returns = evaluate([policy], HOPPER, 4, 0)[0]
    expected = [slow_return(policy, HOPPER, 0, e) for e in range(4)]
    assert len(set(np.round(expected, 6))) == 4
    assert returns.tolist() == expected


def test_a_row_depends_on_its_policy_alone_so_policies_may_be_split() -> None:
    policies = [Linear(seed, 11, 3) for seed in range(3)]
    together = evaluate(policies, HOPPER, 3, 0)
    alone = np.concatenate([evaluate([policy], HOPPER, 3, 0) for policy in policies])
    assert together.tobytes() == alone.tobytes()
    assert not np.array_equal(together, evaluate(policies, HOPPER, 3, 1))


def test_a_return_depends_on_its_reset_alone_so_episodes_may_be_split() -> None:
    network = BatchedMLP(11, 3, (64, 64), seed=0, keys=[("p",)])
    scale = Standardizer(np.zeros(11), np.full(11, 0.3))
    policy = Policy(network, scale, -np.ones(3, np.float32), np.ones(3, np.float32))
    together = evaluate([policy], HOPPER, 5, 0)
    parts = [evaluate([policy], HOPPER, 1, 0, first=e) for e in range(5)]
    assert np.concatenate(parts, axis=1).tobytes() == together.tobytes()
    assert len(set(together[0])) == 5


def test_progress_counts_policies_and_nothing_is_a_result_too() -> None:
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int, **metrics: float) -> None:
        seen.append((done, total))

    evaluate([Linear(0)] * 2, PENDULUM, 1, 0, progress=progress)
    assert seen == [(1, 2), (2, 2)]
    assert evaluate([], PENDULUM, 5, 0).shape == (0, 5)
    assert evaluate([Linear(0)], PENDULUM, 0, 0).shape == (1, 0)


@pytest.mark.parametrize(
    "environment",
    [EnvironmentSpec(id="Nowhere-v0"), EnvironmentSpec(id="Hopper-v5", kwargs={"x": 1})],
)
def test_an_environment_that_cannot_be_made_is_the_users_error(
    environment: EnvironmentSpec,
) -> None:
    with pytest.raises(DataError, match="must be one that Gymnasium can make"):
        evaluate([Linear(0)], environment, 1, 0)


def test_a_policy_of_another_environment_is_the_users_error() -> None:
    with pytest.raises(DataError, match="fails on 11 dimensions"):
        evaluate([Linear(0)], HOPPER, 1, 0)
