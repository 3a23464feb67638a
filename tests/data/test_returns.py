from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tskd_ray.data.returns import (
    return_labels,
    returns_to_go,
    shares_below,
    window_advantages,
)
from tskd_ray.data.trajectories import Trajectories


def literal(rewards: np.ndarray, offsets: np.ndarray, discount: float) -> np.ndarray:
    expected = np.zeros(len(rewards))
    for first, stop in pairwise(offsets):
        for t in range(first, stop):
            expected[t] = sum(discount ** (u - t) * rewards[u] for u in range(t, stop))
    return expected


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    discount=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    seed=st.integers(0, 1000),
)
def test_returns_to_go_is_the_discounted_sum_of_what_remains(
    lengths: list[int], discount: float, seed: int
) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rewards = np.random.default_rng(seed).normal(size=offsets[-1])
    np.testing.assert_allclose(
        returns_to_go(rewards, offsets, discount),
        literal(rewards, offsets, discount),
        rtol=1e-12,
        atol=1e-12,
    )


def test_float32_rewards_are_summed_in_float64() -> None:
    rewards = np.full(5000, 0.1, dtype=np.float32)
    total = returns_to_go(rewards, np.array([0, 5000]), 1.0)
    assert total.dtype == np.float64
    assert total[0] == pytest.approx(5000 * float(np.float32(0.1)), rel=1e-13)


def test_a_nan_stays_in_its_episode_and_before_its_step() -> None:
    rewards = np.ones(9)
    rewards[4] = np.nan
    total = returns_to_go(rewards, np.array([0, 3, 7, 9]), 0.9)
    assert np.isnan(total).tolist() == [False] * 3 + [True, True] + [False] * 4


def test_input_is_left_alone() -> None:
    rewards = np.arange(4.0)
    returns_to_go(rewards, np.array([0, 4]), 0.9)
    assert rewards.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_penalty_reaches_terminated_episodes_only() -> None:
    episode = {
        "observations": np.zeros((4, 1)),
        "actions": np.zeros((3, 1)),
        "rewards": np.ones(3),
    }
    trajectories = Trajectories.from_episodes(
        [episode | {"terminated": True}, episode | {"terminated": False}]
    )
    labels = return_labels(trajectories, 0.5, -100.0)
    np.testing.assert_allclose(labels, [1.75 - 25.0, 1.5 - 50.0, 1.0 - 100.0, 1.75, 1.5, 1.0])
    np.testing.assert_allclose(return_labels(trajectories, 0.5)[:3], [1.75, 1.5, 1.0])
    assert (trajectories.rewards == 1).all()


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    steps=st.integers(1, 15),
    discount=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    seed=st.integers(0, 1000),
)
def test_a_windows_advantage_is_its_rewards_and_last_value_beyond_the_first(
    lengths: list[int], steps: int, discount: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    data = Trajectories.from_episodes(
        [
            {
                "observations": np.zeros((n + 1, 1)),
                "actions": np.zeros((n, 1)),
                "rewards": rng.normal(size=n),
                "terminated": bool(rng.integers(2)),
            }
            for n in lengths
        ]
    )
    values = rng.normal(size=len(data.observations))
    expected = []
    for e, length in enumerate(lengths):
        rewards = data.episode(e)["rewards"]
        first_state = data.offsets[e] + e
        for t in range(length):
            stop = min(t + steps, length)
            total = sum(discount ** (u - t) * rewards[u] for u in range(t, stop))
            if not (stop == length and data.terminated[e]):
                total += discount ** (stop - t) * values[first_state + stop]
            expected.append(total - values[first_state + t])
    np.testing.assert_allclose(
        window_advantages(data, values, discount, steps), expected, rtol=1e-9, atol=1e-9
    )


def test_shares_below_are_ranks_within_zero_and_one() -> None:
    assert shares_below(np.array([3.0, -1.0, 2.0, 2.0])).tolist() == [
        0.875,
        0.125,
        0.375,
        0.625,
    ]
