from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toy_world import toy_step, toy_trajectories
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.errors import DataError
from tskd_ray.evaluation import offline
from tskd_ray.evaluation.offline import (
    RecordedNeighbours,
    estimate_returns,
    fixed_point,
)
from tskd_ray.types import Float32Array, FloatArray


@dataclass(frozen=True)
class Spring:
    """Pushes towards `goal`."""

    gain: float
    goal: float = 0.5

    def act(self, observations: FloatArray) -> Float32Array:
        push = self.gain * (self.goal - observations[:, :1])
        return np.clip(push, -2.0, 2.0).astype(np.float32)


@dataclass(frozen=True)
class Constant:
    action: float

    def act(self, observations: FloatArray) -> Float32Array:
        return np.full((len(observations), 1), self.action, dtype=np.float32)


def chain(length: int = 6, *, terminated: bool = True, copies: int = 1) -> Trajectories:
    """Every action in every state of a chain: +1 goes on for reward 1, -1 stays for 0.1."""
    episodes: list[dict[str, Any]] = []
    for place in range(length):
        for action in (1.0, -1.0):
            after = place + 1 if action > 0 else place
            end = after == length
            episodes += [
                {
                    "observations": np.array([[place], [after]], np.float32) * 10,
                    "actions": np.array([[action]], np.float32),
                    "rewards": np.array([1.0 if action > 0 else 0.1], np.float32),
                    "terminated": terminated and end,
                }
            ] * copies
    return Trajectories.from_episodes(episodes)


def test_a_world_seen_whole_is_evaluated_exactly() -> None:
    on = [sum(0.9**n for n in range(6 - place)) for place in range(6)]
    found = estimate_returns([Constant(1.0), Constant(-1.0)], chain(), discount=0.9)
    # Twice each place as an initial state.
    np.testing.assert_allclose(found.per_seed, [float(np.mean(on)), 0.1 / (1 - 0.9)], rtol=1e-3)
    assert found.value == pytest.approx(found.per_seed.mean())


def test_time_outs_bootstrap_and_terminals_do_not() -> None:
    ends = estimate_returns([Constant(1.0)], chain(), discount=0.9, replicates=0)
    goes_on = chain(terminated=False)
    # After the last place comes a state that only its nearest neighbour can tell of.
    times_out = estimate_returns([Constant(1.0)], goes_on, discount=0.9, replicates=0)
    last = 1.0 / (1 - 0.9)  # the last place's own action, for ever
    np.testing.assert_allclose(times_out.value, last, rtol=1e-2)
    assert ends.value < 5


def literal(
    data: Trajectories, policy: Any, counts: FloatArray, discount: float
) -> tuple[FloatArray, float]:
    """Q of the recorded steps by a dense solve, and the mean value of the initial states."""
    states = data.observations.astype(float)
    mean, std = states.mean(0), states.std(0)
    a_mean, a_std = data.actions.mean(0), data.actions.std(0)
    z = (states - mean) / std
    u = (data.actions - a_mean) / a_std
    k = min(16, data.n_steps)

    def row(state: Any) -> FloatArray:
        distance = np.square(z[data.step_state] - z[state]).sum(axis=1)
        near = np.argsort(distance, kind="stable")[:k]
        wish = (policy.act(data.observations[state][None])[0] - a_mean) / a_std
        far = distance[near] / (0.04 * states.shape[1])
        far = far + np.square(u[near] - wish).sum(axis=1) / (0.16 * len(wish))
        weight = np.exp(far.min() - far)
        weight[weight < 1e-3] = 0.0
        weight *= np.maximum(counts, 1e-6)[data.step_episode[near]] / weight.sum()
        full = np.zeros(data.n_steps)
        full[near] = weight / weight.sum()
        return full

    W = np.stack([row(state + 1) for state in data.step_state])
    W[data.offsets[1:][data.terminated] - 1] = 0.0
    q = np.linalg.solve(np.eye(len(W)) - discount * W, data.rewards.astype(float))
    first = np.stack([row(data.step_state[start]) for start in data.offsets[:-1]]) @ q
    return q, float((first * counts).sum() / counts.sum())


@pytest.mark.parametrize("seed", range(3))
def test_the_estimate_and_every_replicate_solve_the_equation(seed: int) -> None:
    data = toy_trajectories(12, seed=seed, limit=15)
    policy = Spring(1.0)
    counts = offline._draws(data.n_episodes, seed, 4)
    found = offline._values(RecordedNeighbours.build(data), policy, counts, 0.9)
    expected = [literal(data, policy, count, 0.9)[1] for count in counts.T]
    np.testing.assert_allclose(found, expected, rtol=3e-3)
    np.testing.assert_allclose(float(found[0]), float(expected[0]), rtol=3e-4)


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.5, 0.99]))
def test_the_solution_satisfies_its_equation_and_stays_in_range(
    seed: int, discount: float
) -> None:
    rng = np.random.default_rng(seed)
    n, k = 30, 4
    weights = rng.dirichlet(np.ones(k), size=n)
    neighbours = np.stack([rng.choice(n, k, replace=False) for _ in range(n)]).astype(np.int32)
    discounts = np.where(rng.random(n) < 0.1, 0.0, discount)
    rewards = rng.normal(size=n)
    q = fixed_point(weights, neighbours, rewards, discounts, np.zeros(n), tolerance=1e-9)
    after = (weights * q[neighbours]).sum(axis=1)
    np.testing.assert_allclose(q, rewards + discounts * after, atol=1e-5)
    assert np.abs(q).max() <= np.abs(rewards).max() / (1 - discount) + 1e-5


def test_better_policies_are_estimated_higher() -> None:
    data = toy_trajectories(150, seed=1)
    policies = [Spring(1.0, goal) for goal in (-3.0, -1.0, 0.0, 0.5)]
    starts = data.observations[data.step_state[data.offsets[:-1]]].astype(float)
    truth: list[float] = []
    for policy in policies:
        states, total = starts.copy(), np.zeros(len(starts))
        alive = np.ones(len(starts))
        for step in range(60):
            states, reward = toy_step(states, policy.act(states))
            total += alive * 0.95**step * reward
            alive *= np.abs(states[:, 0]) <= 1.0
        truth.append(float(total.mean()))
    found = estimate_returns(policies, data, discount=0.95, replicates=0).per_seed
    assert np.argsort(found).tolist() == np.argsort(truth).tolist()
    np.testing.assert_allclose(found[-1], truth[-1], rtol=0.15)


def test_an_estimate_does_not_depend_on_who_is_estimated_beside_it() -> None:
    data = toy_trajectories(20)
    both = estimate_returns([Spring(1.0), Spring(-1.0)], data)
    alone = estimate_returns([Spring(-1.0)], data)
    assert both.per_seed[1] == alone.per_seed[0] == alone.value
    assert both.per_seed_low[1] == alone.low
    assert both.per_seed_high[1] == alone.high


def test_the_interval_holds_the_estimate_and_narrows_with_more_episodes() -> None:
    few = estimate_returns([Spring(1.0)], toy_trajectories(10))
    many = estimate_returns([Spring(1.0)], toy_trajectories(160))
    for found in (few, many):
        assert found.low < found.value < found.high
    assert many.high - many.low < few.high - few.low
    again = estimate_returns([Spring(1.0)], toy_trajectories(10))
    other = estimate_returns([Spring(1.0)], toy_trajectories(10), seed=1)
    assert again.low == few.low != other.low
    assert again.value == few.value == other.value


def test_the_interval_has_the_spread_of_the_replicates_around_the_estimate() -> None:
    replicates = np.arange(19.0)[None]  # mean 9; second smallest 1, second largest 17
    low, high = offline._interval(
        np.concatenate([replicates, 2 * replicates]), np.array([30, 7])
    )
    assert low.tolist() == [22.0, -9.0]
    assert high.tolist() == [38.0, 23.0]


def test_a_replicate_counts_whole_episodes_as_often_as_it_drew_them() -> None:
    counts = offline._draws(7, 0, 50)
    assert counts.shape == (7, 51)
    assert (counts[:, 0] == 1).all()
    assert (counts.sum(axis=0) == 7).all()
    assert (counts == np.round(counts)).all()
    assert np.unique(counts[:, 1:], axis=1).shape[1] > 40


def test_a_large_dataset_is_cut_to_whole_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy_trajectories(40)
    monkeypatch.setattr(offline, "MAX_STEPS", data.n_steps // 3)
    some = RecordedNeighbours.build(data).trajectories
    assert 0.2 * data.n_steps < some.n_steps <= data.n_steps // 3
    own = {data.episode(n)["observations"].tobytes() for n in range(data.n_episodes)}
    assert all(some.episode(n)["observations"].tobytes() in own for n in range(some.n_episodes))
    assert RecordedNeighbours.build(data).trajectories.n_steps == some.n_steps
    # Recordings often are in the order of training: the first ones would be the worst.
    drawn = [RecordedNeighbours.build(data, seed).trajectories.episode_id for seed in range(5)]
    assert len({tuple(numbers) for numbers in drawn}) == 5
    assert max(int(numbers.max()) for numbers in drawn) > 30
    assert all((np.diff(numbers) > 0).all() for numbers in drawn)
    monkeypatch.setattr(offline, "MAX_STEPS", 1)
    assert RecordedNeighbours.build(data).trajectories.n_episodes == 1


def test_the_share_of_the_best_recorded_return_needs_a_positive_one() -> None:
    found = estimate_returns([Constant(1.0)], chain(), discount=0.9, replicates=0)
    assert found.best_recorded == pytest.approx(1.0)
    assert found.mean_recorded == pytest.approx(0.55)
    assert found.share_of_best == pytest.approx(found.value)
    losses = replace(chain(), rewards=-chain().rewards)
    assert estimate_returns([Constant(1.0)], losses, replicates=0).share_of_best is None


def test_what_cannot_be_estimated_is_refused() -> None:
    data = toy_trajectories(5)
    with pytest.raises(DataError, match=r"Got 0 policies and 0\.99"):
        estimate_returns([], data)
    with pytest.raises(DataError, match="Got 1 policies and 1"):
        estimate_returns([Spring(1.0)], data, discount=1.0)
    data.rewards[3] = np.nan
    with pytest.raises(DataError, match="needs finite observations, actions and rewards"):
        estimate_returns([Spring(1.0)], data)
