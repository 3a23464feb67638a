"""How states and rewards become the rows that are diffused (D6, D6b), and back.

B batch · H horizon · S observation dim. The *anchor* is the row of the last clamped state.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from tskd_ray.data.normalizers import make_normalizer
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.data.windows import Windows
from tskd_ray.types import Float32Array, FloatArray, IntArray

Arrays = dict[str, np.ndarray[Any, Any]]

RESIDUAL_CLIP = 5.0  # standard deviations; recorded residuals seldom leave it, rewards may
_LEAST = 1e-6  # standard deviation of what varies
EARLY_WEIGHT, EARLY_ROWS = 4.0, 4.0  # of the loss, decaying after the anchor: what is acted on


class Codec(Protocol):
    """A parameterisation of DDR's rows; states and rewards in raw units on the other side."""

    context_channels: int
    clip: float  # of |x̂₀|, states
    reward_clip: float  # and rewards
    prediction: str  # "noise" or "velocity"

    def encode_states(self, states: FloatArray, anchor: IntArray) -> Float32Array:
        """(B, H, S) raw states to rows; `anchor` (B,)."""
        raise NotImplementedError

    def decode_states(
        self, rows: Float32Array, anchor: IntArray, anchor_states: FloatArray
    ) -> Float32Array:
        """Rows (B, H, S) to raw states; `anchor_states` (B, S)."""
        raise NotImplementedError

    def encode_rewards(self, rewards: FloatArray) -> Float32Array:
        """Raw rewards to the reward channel, any shape."""
        raise NotImplementedError

    def decode_rewards(self, rows: Float32Array) -> Float32Array:
        """The reward channel to raw rewards, any shape."""
        raise NotImplementedError

    def context(self, anchor_states: FloatArray) -> Float32Array:
        """What every row is told of the anchor, (B, context_channels)."""
        raise NotImplementedError

    def row_weights(self, horizon: int, anchor: IntArray) -> Float32Array:
        """Loss weight of each row, (B, H)."""
        raise NotImplementedError

    def state(self) -> Arrays:
        """What was fitted, to be saved."""
        raise NotImplementedError


class AbsoluteCodec:
    """The paper's: normalised states, noise prediction, x̂₀ clipped to [−1, 1] (D6)."""

    context_channels = 0
    clip = reward_clip = 1.0
    prediction = "noise"

    def __init__(self, normalizer: str) -> None:
        self.normalizer = normalizer

    def fit(self, trajectories: Trajectories) -> AbsoluteCodec:
        """Learn the normalisers of states and rewards from real steps only."""
        self.states_ = make_normalizer(self.normalizer).fit(trajectories.observations)
        self.rewards_ = make_normalizer(self.normalizer).fit(trajectories.rewards[:, None])
        return self

    def encode_states(self, states: FloatArray, anchor: IntArray) -> Float32Array:
        return self.states_.normalize(states)

    def decode_states(
        self, rows: Float32Array, anchor: IntArray, anchor_states: FloatArray
    ) -> Float32Array:
        return self.states_.unnormalize(rows)

    def encode_rewards(self, rewards: FloatArray) -> Float32Array:
        return self.rewards_.normalize(rewards[..., None])[..., 0]

    def decode_rewards(self, rows: Float32Array) -> Float32Array:
        return self.rewards_.unnormalize(rows[..., None])[..., 0]

    def context(self, anchor_states: FloatArray) -> Float32Array:
        return np.zeros((len(anchor_states), 0), dtype=np.float32)

    def row_weights(self, horizon: int, anchor: IntArray) -> Float32Array:
        return np.ones((len(anchor), horizon), dtype=np.float32)

    def state(self) -> Arrays:
        return {
            **{f"states.{k}": v for k, v in self.states_.state().items()},
            **{f"rewards.{k}": v for k, v in self.rewards_.state().items()},
        }

    def restore(self, state: Arrays) -> AbsoluteCodec:
        """Take what `state` gave."""
        self.states_ = make_normalizer(self.normalizer).from_state(_part(state, "states."))
        self.rewards_ = make_normalizer(self.normalizer).from_state(_part(state, "rewards."))
        return self


class ResidualCodec:
    """States as whitened differences to the anchor, which is given as context (D6b).

    Whitening is per offset from the anchor: one step away a state has moved by a fraction of
    what it moves in twenty, and both should weigh the same.
    """

    clip = RESIDUAL_CLIP
    prediction = "velocity"

    def __init__(self, horizon: int, context: int, observation_dim: int) -> None:
        self.horizon, self.history = horizon, context
        self.context_channels = observation_dim
        self.reward_clip = RESIDUAL_CLIP

    def fit(self, trajectories: Trajectories, rng: np.random.Generator) -> ResidualCodec:
        """Learn mean and spread per offset from windows drawn at random."""
        windows = Windows(trajectories, self.horizon + self.history - 1)
        steps = rng.integers(len(windows), size=min(len(windows), 20_000))
        batch = windows.gather(steps)
        width = trajectories.observation_dim
        self.mean_ = np.zeros((self.horizon + self.history - 1, width), dtype=np.float32)
        self.std_ = np.ones_like(self.mean_)
        # Row of the table: offset + history − 1. Offsets backwards mirror those forwards.
        for offset in range(1, self.horizon):
            valid = batch.state_mask[:, offset]
            if not valid.any():
                # No recorded episode is that long: what moved until here is the best guess.
                row = offset + self.history - 2
                self._set(offset, self.mean_[row], self.std_[row])
                continue
            moved = (batch.states[valid, offset] - batch.states[valid, 0]).astype(np.float64)
            self._set(offset, moved.mean(axis=0), moved.std(axis=0))
        self.state_mean_ = trajectories.observations.mean(axis=0, dtype=np.float64).astype(
            np.float32
        )
        self.state_std_ = _positive(trajectories.observations.std(axis=0, dtype=np.float64))
        self.reward_mean_ = np.float32(trajectories.rewards.mean(dtype=np.float64))
        self.reward_std_ = _positive(np.asarray(trajectories.rewards.std(dtype=np.float64)))
        # One step in a thousand may be all that pays: what was recorded must be in reach.
        farthest = np.abs(self.encode_rewards(trajectories.rewards)).max()
        self.reward_clip = max(RESIDUAL_CLIP, float(farthest))
        return self

    def _set(self, offset: int, mean: FloatArray, std: FloatArray) -> None:
        self.mean_[offset + self.history - 1] = mean
        # A dimension that never moves has no unit: it is encoded as it is, decoded as it was.
        std = np.where(std > _LEAST, std, 0.0)
        self.std_[offset + self.history - 1] = std
        if offset < self.history:
            self.mean_[self.history - 1 - offset] = -mean
            self.std_[self.history - 1 - offset] = std

    def _table(self, rows: int, anchor: IntArray) -> IntArray:
        return np.arange(rows)[None, :] - anchor[:, None] + self.history - 1

    def encode_states(self, states: FloatArray, anchor: IntArray) -> Float32Array:
        at = self._table(states.shape[1], anchor)
        difference = states - states[np.arange(len(states)), anchor][:, None]
        std = self.std_[at]
        return ((difference - self.mean_[at]) / np.where(std > 0, std, 1.0)).astype(np.float32)

    def decode_states(
        self, rows: Float32Array, anchor: IntArray, anchor_states: FloatArray
    ) -> Float32Array:
        at = self._table(rows.shape[1], anchor)
        return (rows * self.std_[at] + self.mean_[at] + anchor_states[:, None]).astype(
            np.float32
        )

    def encode_rewards(self, rewards: FloatArray) -> Float32Array:
        return ((rewards - self.reward_mean_) / self.reward_std_).astype(np.float32)

    def decode_rewards(self, rows: Float32Array) -> Float32Array:
        return (rows * self.reward_std_ + self.reward_mean_).astype(np.float32)

    def context(self, anchor_states: FloatArray) -> Float32Array:
        return ((anchor_states - self.state_mean_) / self.state_std_).astype(np.float32)

    def row_weights(self, horizon: int, anchor: IntArray) -> Float32Array:
        offset = np.maximum(np.arange(horizon)[None, :] - anchor[:, None], 0)
        return (1 + EARLY_WEIGHT * np.exp(-offset / EARLY_ROWS)).astype(np.float32)

    def state(self) -> Arrays:
        names = ("mean", "std", "state_mean", "state_std", "reward_mean", "reward_std")
        state = {name: np.asarray(getattr(self, f"{name}_")) for name in names}
        if self.reward_clip != RESIDUAL_CLIP:  # checkpoints without it read as that
            state["reward_clip"] = np.float32(self.reward_clip).reshape(1)
        return state

    def restore(self, state: Arrays) -> ResidualCodec:
        """Take what `state` gave."""
        state = dict(state)
        clip = state.pop("reward_clip", None)
        self.reward_clip = RESIDUAL_CLIP if clip is None else float(clip[0])
        for name, value in state.items():
            setattr(self, f"{name}_", value)
        return self


def _positive(std: FloatArray) -> Float32Array:
    # A constant dimension passes unscaled instead of exploding.
    return np.where(std > _LEAST, std, 1.0).astype(np.float32)


def _part(state: Arrays, prefix: str) -> Arrays:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
