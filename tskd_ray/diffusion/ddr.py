"""DDR-I, which plans trajectories, and DDR-II, which gives the reward of a step.

B batch · H horizon · S observation dim · C context (states of history)
"""

from __future__ import annotations

import numpy as np

from tskd_ray.config.schema import DiffusionConfig, SamplerConfig, TeacherConfig
from tskd_ray.data.windows import Windows
from tskd_ray.diffusion.conditional import Example, Guess
from tskd_ray.diffusion.diffuser import Diffuser
from tskd_ray.diffusion.plan import Plan, Start
from tskd_ray.models.flops import forward_flops
from tskd_ray.seeding import numpy_rng
from tskd_ray.types import Float32Array, FloatArray, IntArray

REWARD_BATCH = 4096  # pairs per call of DDR-II; fixed, since batch shape changes last bits


class TrajectoryDiffuser(Diffuser):
    """DDR-I: rows (s_t, r_t); the last C states of history are clamped, never their rewards.

    Without `diffuse_rewards` rows are s_t alone: the Decision Diffuser (Ajay et al. 2023).
    """

    kind = "ddr1"

    def _settings(self, config: TeacherConfig) -> DiffusionConfig:
        return config.trajectory

    def _channels(self) -> int:
        return self.observation_dim + self.config.diffuse_rewards

    def _saved(self) -> set[str]:
        # Only where they differ from the default: other checkpoints keep their bytes.
        changed = self.config.model_dump(exclude_defaults=True)
        return super()._saved() | ({"diffuse_rewards", "label"} & changed.keys())

    def _example(
        self,
        windows: Windows,
        steps: IntArray,
        condition: Float32Array,
        rng: np.random.Generator,
    ) -> Example:
        horizon = self.settings.horizon
        batch = windows.gather(steps)
        states, state_mask = batch.states[:, :horizon], batch.state_mask[:, :horizon]
        # Short histories must be in distribution (D3), but none that the episode cannot have.
        longest = np.minimum(self.config.context, state_mask.sum(axis=1))
        anchor = rng.integers(longest)
        rows = np.concatenate(
            [
                self.codec.encode_states(states, anchor),
                self.codec.encode_rewards(batch.rewards[:, :horizon])[..., None],
            ],
            axis=-1,
        )
        clamped = np.zeros(rows.shape, dtype=bool)
        clamped[..., :-1] = (np.arange(horizon)[None] <= anchor[:, None])[..., None]
        weight = self.codec.row_weights(horizon, anchor)[..., None] * ~clamped
        weight[..., :-1] *= state_mask[..., None]
        weight[..., -1] *= batch.reward_mask[:, :horizon]
        anchor_states = states[np.arange(len(states)), anchor]
        channels = self._channels()
        return Example(
            rows=rows[..., :channels],
            clamped=clamped[..., :channels],
            weight=weight[..., :channels].astype(np.float32),
            context=self.codec.context(anchor_states),
            condition=condition,
        )

    def plan(
        self,
        history: FloatArray,
        length: IntArray,
        *,
        target_return: float,
        sampler: SamplerConfig,
        rngs: list[np.random.Generator],
        start: Start | None = None,
    ) -> Plan:
        """Denoise one plan per history.

        Args:
            history: States in the first `length` rows, oldest first; (B, C, S).
            length: How many of them there are, 1 … C; (B,).
            target_return: Condition, in units of the return scale (D5).
            sampler: How to denoise.
            rngs: One generator per row.
            start: Previous plans, to begin from.

        Returns:
            Plans; without `diffuse_rewards` their rewards are 0.
        """
        batch, context, width = history.shape
        channels = self._channels()
        horizon, anchor = self.settings.horizon, length - 1
        padded = np.zeros((batch, horizon, width), dtype=np.float32)
        padded[:, :context] = history
        clamped = np.zeros((batch, horizon, width + 1), dtype=bool)
        clamped[..., :-1] = (np.arange(horizon)[None] <= anchor[:, None])[..., None]
        known = np.zeros((batch, horizon, width + 1), dtype=np.float32)
        known[..., :-1] = self.codec.encode_states(padded, anchor)
        anchor_states = padded[np.arange(batch), anchor]
        guess = None
        if start is not None:
            states = start.states.copy()
            states[np.arange(batch), anchor] = anchor_states
            encoded = self.codec.encode_states(states, anchor)
            guessed = self.codec.encode_rewards(start.rewards)[..., None]
            both = np.concatenate([encoded, guessed], axis=-1)
            guess = Guess(rows=both[..., :channels], steps=start.steps)
        rows = self.model.sample(
            guess=guess,
            known=np.where(clamped, known, np.float32(0))[..., :channels],
            clamped=clamped[..., :channels],
            context=self.codec.context(anchor_states),
            condition=np.full(batch, target_return, dtype=np.float32),
            rngs=rngs,
            sampler=sampler,
        )
        rewarded = self.config.diffuse_rewards
        return Plan(
            states=self.codec.decode_states(rows[..., :width], anchor, anchor_states),
            rewards=self.codec.decode_rewards(rows[..., -1])
            if rewarded
            else np.zeros(rows.shape[:2], dtype=np.float32),
            anchor=anchor,
        )

    def plan_flops(self, sampler: SamplerConfig) -> int:
        """Floating-point operations of the network for one plan from noise."""
        rows = self._channels() + self.codec.context_channels
        inputs = ((1, self.settings.horizon, rows), (1,), (1,), (1,))
        passes = 1 if sampler.guidance in (0.0, 1.0) else 2
        return sampler.steps * passes * forward_flops(self.model.network, *inputs)


class RewardDiffuser(Diffuser):
    """DDR-II: rows (s_t, s_{t+1}, r_t); the first row's states are clamped, its reward read."""

    kind = "ddr2"

    def _settings(self, config: TeacherConfig) -> DiffusionConfig:
        return config.reward

    def _channels(self) -> int:
        return 2 * self.observation_dim + 1

    def _pairs(self, states: FloatArray) -> Float32Array:
        anchor = np.zeros(len(states), dtype=np.int64)
        encoded = self.codec.encode_states(states, anchor)
        return np.concatenate([encoded[:, :-1], encoded[:, 1:]], axis=-1)

    def _example(
        self,
        windows: Windows,
        steps: IntArray,
        condition: Float32Array,
        rng: np.random.Generator,
    ) -> Example:
        batch = windows.gather(steps)
        horizon = self.settings.horizon
        rows = np.concatenate(
            [
                self._pairs(batch.states),
                self.codec.encode_rewards(batch.rewards[:, :horizon])[..., None],
            ],
            axis=-1,
        )
        clamped = np.zeros(rows.shape, dtype=bool)
        clamped[:, 0, :-1] = True
        anchor = np.zeros(len(rows), dtype=np.int64)
        weight = self.codec.row_weights(horizon, anchor)[..., None] * ~clamped
        weight *= batch.reward_mask[:, :horizon, None]
        return Example(
            rows=rows,
            clamped=clamped,
            weight=weight.astype(np.float32),
            context=self.codec.context(batch.states[:, 0]),
            condition=condition,
        )

    def reward(
        self, states: FloatArray, next_states: FloatArray, *, sampler: SamplerConfig, seed: int
    ) -> Float32Array:
        """Reward of each step (s, s'), (N,).

        A pair's noise is named by the run seed and by the pair itself, so its reward is the
        same in any order and in any epoch.

        Args:
            states: (N, S).
            next_states: (N, S).
            sampler: How to denoise. Guidance towards the highest return (the condition is the
                best label of the data) flatters rewards where (s, s') does not decide them.
            seed: Run seed.
        """
        rewards = np.empty(len(states), dtype=np.float32)
        for start in range(0, len(states), REWARD_BATCH):
            part = slice(start, start + REWARD_BATCH)
            rewards[part] = self._reward(states[part], next_states[part], sampler, seed)
        return rewards

    def _reward(
        self, states: FloatArray, next_states: FloatArray, sampler: SamplerConfig, seed: int
    ) -> Float32Array:
        batch, width = states.shape
        horizon = self.settings.horizon
        window = np.repeat(next_states[:, None], horizon + 1, axis=1)
        window[:, 0] = states
        known = np.zeros((batch, horizon, 2 * width + 1), dtype=np.float32)
        known[:, 0, :-1] = self._pairs(window)[:, 0]
        clamped = np.zeros(known.shape, dtype=bool)
        clamped[:, 0, :-1] = True
        rows = self.model.sample(
            known=known,
            clamped=clamped,
            context=self.codec.context(states),
            condition=np.full(batch, self.best_label_, dtype=np.float32),
            rngs=[
                numpy_rng(seed, self.kind, pair.tobytes().hex())
                for pair in np.concatenate([states, next_states], axis=1)
            ],
            sampler=sampler,
        )
        return self.codec.decode_rewards(rows[:, 0, -1])
