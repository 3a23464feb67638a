"""Both parameterisations undo themselves, and whiten what they say they whiten."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffusion.small_teacher import drifting, observations_of, world
from tskd_ray.data.windows import Windows
from tskd_ray.diffusion.codec import AbsoluteCodec, Codec, ResidualCodec

HORIZON, CONTEXT = 6, 3


def codecs() -> list[Codec]:
    data = world()
    return [
        AbsoluteCodec("cdf").fit(data),
        AbsoluteCodec("minmax").fit(data),
        ResidualCodec(HORIZON, CONTEXT, 2).fit(data, np.random.default_rng(0)),
    ]


@pytest.mark.parametrize("codec", codecs(), ids=["cdf", "minmax", "residual"])
def test_decoding_undoes_encoding(codec: Codec) -> None:
    batch = Windows(world(), HORIZON).gather(np.arange(0, 100, 7))
    anchor = np.arange(len(batch.states)) % CONTEXT
    anchor_states = batch.states[np.arange(len(anchor)), anchor]
    rows = codec.encode_states(batch.states, anchor)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(
        codec.decode_states(rows, anchor, anchor_states), batch.states, atol=2e-3
    )
    np.testing.assert_allclose(
        codec.decode_rewards(codec.encode_rewards(batch.rewards)), batch.rewards, atol=2e-3
    )


def test_residual_rows_are_whitened_per_offset_and_zero_at_the_anchor() -> None:
    data = world(episodes=200)
    codec = ResidualCodec(HORIZON, 1, 2).fit(data, np.random.default_rng(0))
    batch = Windows(data, HORIZON).gather(np.arange(data.n_steps))
    rows = codec.encode_states(batch.states, np.zeros(data.n_steps, dtype=np.int64))
    assert np.array_equal(rows[:, 0], np.zeros_like(rows[:, 0]))
    for offset in range(1, HORIZON):
        valid = rows[batch.state_mask[:, offset], offset]
        np.testing.assert_allclose(valid.std(axis=0), 1.0, atol=0.1)
        np.testing.assert_allclose(valid.mean(axis=0), 0.0, atol=0.1)


def test_residual_history_is_whitened_too() -> None:
    data = drifting()  # where ahead and back are told apart
    codec = ResidualCodec(HORIZON, CONTEXT, 2).fit(data, np.random.default_rng(0))
    windows = [s[t : t + 3] for s in observations_of(data) for t in range(len(s) - 2)]
    rows = codec.encode_states(np.stack(windows), np.full(len(windows), 2))
    np.testing.assert_allclose(rows[:, :2].mean(axis=0), 0.0, atol=0.1)
    np.testing.assert_allclose(rows[:, :2].std(axis=0), 1.0, atol=0.1)


def test_beyond_the_longest_episode_the_farthest_known_move_is_the_best_guess() -> None:
    data = drifting()
    longest = int(data.lengths.max())
    codec = ResidualCodec(longest + 5, CONTEXT, 2).fit(data, np.random.default_rng(0))
    known = longest + CONTEXT - 1
    assert np.abs(codec.mean_[known]).min() > longest / 2, "they drift"
    for table in (codec.mean_, codec.std_):
        assert (table[known] != table[known - 1]).all()
        np.testing.assert_array_equal(table[known:], np.tile(table[known], (5, 1)))


def test_what_is_acted_on_first_weighs_most() -> None:
    weights = ResidualCodec(HORIZON, CONTEXT, 2).row_weights(9, np.array([0, 2]))
    np.testing.assert_allclose(weights[0, [0, 4, 8]], [5, 1 + 4 / np.e, 1 + 4 / np.e**2])
    np.testing.assert_allclose(weights[1, [0, 1, 2, 6]], [5, 5, 5, 1 + 4 / np.e], rtol=1e-6)


@pytest.mark.parametrize("codec", codecs(), ids=["cdf", "minmax", "residual"])
def test_a_saved_codec_is_the_same_codec(codec: Codec) -> None:
    fresh: Codec
    if isinstance(codec, AbsoluteCodec):
        fresh = AbsoluteCodec(codec.normalizer).restore(codec.state())
    else:
        fresh = ResidualCodec(HORIZON, CONTEXT, 2).restore(codec.state())
    states = world().observations[:HORIZON][None]
    anchor = np.array([1])
    assert np.array_equal(
        fresh.encode_states(states, anchor), codec.encode_states(states, anchor)
    )
    assert np.array_equal(fresh.context(states[:, 0]), codec.context(states[:, 0]))


def test_residual_rows_leave_what_never_moves_where_the_anchor_has_it() -> None:
    data = world()
    goals = np.full((len(data.observations), 1), 0.3, dtype=data.observations.dtype)
    data = replace(data, observations=np.hstack([data.observations, goals]))
    codec = ResidualCodec(HORIZON, CONTEXT, 3).fit(data, np.random.default_rng(0))
    batch = Windows(data, HORIZON).gather(np.arange(0, 50, 7))
    anchor = np.arange(len(batch.states)) % CONTEXT
    anchor_states = batch.states[np.arange(len(anchor)), anchor]
    rows = codec.encode_states(batch.states, anchor)
    assert not rows[:, :, 2].any()
    planned = np.arange(HORIZON)[None] > anchor[:, None]
    rows[..., 2][planned] = np.random.default_rng(1).normal(size=int(planned.sum()))
    decoded = codec.decode_states(rows, anchor, anchor_states)
    assert (decoded[:, :, 2] == np.float32(0.3)).all()
    np.testing.assert_allclose(decoded, batch.states, atol=2e-3)


def test_rewards_are_clipped_where_the_data_end_and_states_at_five() -> None:
    data = world(episodes=35)
    dense = ResidualCodec(HORIZON, CONTEXT, 2)
    dense.fit(replace(data, rewards=np.tanh(data.rewards)), np.random.default_rng(0))
    assert dense.reward_clip == dense.clip == 5
    assert "reward_clip" not in dense.state()
    rewards = np.zeros(data.n_steps)
    rewards[123] = 1.0
    sparse = ResidualCodec(HORIZON, CONTEXT, 2)
    sparse.fit(replace(data, rewards=rewards), np.random.default_rng(0))
    n = data.n_steps  # one of n: a mean of 1/n and an sd of √(n − 1)/n
    assert sparse.reward_clip == pytest.approx(np.sqrt(n - 1))
    assert sparse.clip == 5
    again = ResidualCodec(HORIZON, CONTEXT, 2).restore(sparse.state())
    assert again.reward_clip == sparse.reward_clip
    old = {name: value for name, value in sparse.state().items() if name != "reward_clip"}
    assert again.restore(old).reward_clip == 5
