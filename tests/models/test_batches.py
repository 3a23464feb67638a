from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from toy_world import toy_trajectories
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.models.batches import (
    STEPS_PER_BLOCK,
    BatchSampler,
    action_bounds,
    gather,
    hold_out_episodes,
    steps_of,
)

KEYS = [("a", 0), ("a", 1), ("b", 0)]


@given(st.lists(st.integers(0, 4 * STEPS_PER_BLOCK), min_size=1, max_size=8))
def test_a_batch_is_a_function_of_its_step(steps: list[int]) -> None:
    sampler = BatchSampler.shared(1000, 3, seed=5, keys=KEYS)
    for step in steps:  # in any order, forwards or back
        fresh = BatchSampler.shared(1000, 3, seed=5, keys=KEYS)
        assert torch.equal(sampler(step), fresh(step))


def test_a_members_batches_do_not_depend_on_its_company() -> None:
    together = BatchSampler.shared(1000, 16, seed=5, keys=KEYS)
    alone = BatchSampler.shared(1000, 16, seed=5, keys=KEYS[2:])
    assert torch.equal(together(300)[2], alone(300)[0])
    assert not torch.equal(together(300)[1], alone(300)[0])
    assert not torch.equal(together(300)[2], together(301)[2])
    assert not torch.equal(together(0), together(STEPS_PER_BLOCK))


def test_members_draw_from_their_own_rows_and_from_all_of_them() -> None:
    sampler = BatchSampler([0, 10, 13], [10, 3, 1], 50, seed=0, keys=KEYS)
    rows = torch.cat([sampler(step) for step in range(20)], dim=1)
    drawn = [set(member.tolist()) for member in rows]
    assert drawn == [set(range(10)), {10, 11, 12}, {13}]


def test_gather_is_indexing() -> None:
    table = torch.arange(12.0).view(6, 2)
    rows = torch.tensor([[0, 5], [3, 3]])
    assert torch.equal(gather(table, rows), table[rows])


@given(st.integers(2, 40), st.floats(0.01, 0.6))
def test_held_out_episodes_are_whole_disjoint_and_all(n: int, share: float) -> None:
    trajectories = Trajectories.from_episodes(
        [
            {
                "observations": np.zeros((3, 1)),
                "actions": np.zeros((2, 1)),
                "rewards": [0.0, 0.0],
                "terminated": False,
            }
        ]
        * n
    )
    train, held = hold_out_episodes(trajectories, share, seed=0, key="x")
    assert sorted([*train, *held]) == list(range(n))
    assert len(train) >= 1
    assert len(held) >= 1
    assert steps_of(trajectories, held).tolist() == [
        s for e in held for s in (2 * e, 2 * e + 1)
    ]


def test_one_episode_serves_as_both() -> None:
    train, held = hold_out_episodes(toy_trajectories(1), 0.05, seed=0, key="x")
    assert train.tolist() == held.tolist() == [0]


def test_action_bounds_come_from_the_environment_or_else_from_the_data() -> None:
    from dataclasses import replace

    toy = toy_trajectories(5)
    assert [bound.tolist() for bound in action_bounds(toy)] == [[-2.0], [2.0]]
    low, high = action_bounds(replace(toy, environment=None))
    assert (low[0], high[0]) == (toy.actions.min(), toy.actions.max())
    assert toy.environment is not None
    open_ended = replace(toy.environment, action_high=(float("inf"),))
    low, high = action_bounds(replace(toy, environment=open_ended))
    assert (low[0], high[0]) == (-2.0, toy.actions.max())
    largest = float(np.finfo(np.float32).max)
    vast = replace(toy.environment, action_low=(-largest,), action_high=(largest,))
    low, high = action_bounds(replace(toy, environment=vast))
    assert (low[0], high[0]) == (toy.actions.min(), toy.actions.max())
