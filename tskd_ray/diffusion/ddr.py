"""DDR-I, which plans trajectories, and DDR-II, which gives the reward of a step.

B batch · H horizon · S observation dim · C context (states of history)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from tskd_ray.config.schema import (
    DIFFUSER_SETTINGS,
    DiffusionConfig,
    SamplerConfig,
    TeacherConfig,
)
from tskd_ray.data.returns import return_labels, return_scale
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.data.windows import Windows
from tskd_ray.diffusion.codec import AbsoluteCodec, Codec, ResidualCodec
from tskd_ray.diffusion.conditional import ConditionalDiffusion, Example, Guess
from tskd_ray.diffusion.plan import Plan, Start
from tskd_ray.models.arithmetic import Arithmetic
from tskd_ray.models.checkpoint import open_model, save_model
from tskd_ray.models.fit import fit
from tskd_ray.models.flops import forward_flops, training_flops
from tskd_ray.models.ranks import Ranks
from tskd_ray.progress import Progress, silent
from tskd_ray.seeding import numpy_rng, torch_rng
from tskd_ray.types import Float32Array, FloatArray, IntArray

MODEL_SETTINGS = {"ddr1": "trajectory", "ddr2": "reward"}
REWARD_BATCH = 4096  # pairs per call of DDR-II; fixed, since batch shape changes last bits


class _Diffuser:
    """What DDR-I and DDR-II share: codec, labels, fitting, saving."""

    kind = ""

    def __init__(self, config: TeacherConfig, observation_dim: int) -> None:
        self.config, self.observation_dim = config, observation_dim
        self.settings = self._settings(config)
        self.codec: Codec = self._codec()
        self.model = self._model()
        self.return_scale_ = 1.0

    def _model(self) -> ConditionalDiffusion:
        return ConditionalDiffusion(
            channels=self._channels(),
            context_channels=self.codec.context_channels,
            unet=self.settings.unet,
            diffusion_steps=self.settings.diffusion_steps,
            prediction=self.codec.prediction,
            clip=self.codec.clip,
        )

    def _settings(self, config: TeacherConfig) -> DiffusionConfig:
        raise NotImplementedError

    def _channels(self) -> int:
        raise NotImplementedError

    def _codec(self) -> AbsoluteCodec | ResidualCodec:
        if self.config.parameterization == "absolute":
            return AbsoluteCodec(self.config.normalizer)
        context = self.config.context if self.kind == "ddr1" else 1
        # One row more: DDR-II's last row also holds the state after it.
        return ResidualCodec(self.settings.horizon + 1, context, self.observation_dim)

    def fit(
        self,
        trajectories: Trajectories,
        seed: int,
        *,
        device: str = "cpu",
        arithmetic: Arithmetic | None = None,
        resume: Path | None = None,
        ranks: Ranks | None = None,
        progress: Progress = silent,
    ) -> list[tuple[int, float]]:
        """Train on recorded trajectories; returns the learning curve.

        Args:
            trajectories: Recorded data.
            seed: Run seed.
            device: "cpu" or "cuda".
            arithmetic: Of the network's passes; default: float32, not compiled.
            resume: Folder of the training state, see `models.fit.fit`.
            ranks: Processes that share each batch; default: this one has it whole.
            progress: Told as training goes.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(numpy_rng(seed, self.kind, "init").integers(2**31)))
            self.model = self._model().to(device)
        if isinstance(self.codec, ResidualCodec):
            self.codec.fit(trajectories, numpy_rng(seed, self.kind, "codec"))
        elif isinstance(self.codec, AbsoluteCodec):
            self.codec.fit(trajectories)
        labels = return_labels(
            trajectories, self.config.discount, self.config.termination_penalty
        )
        self.return_scale_ = self.config.return_scale or return_scale(labels)
        scaled = (labels / self.return_scale_).astype(np.float32)
        windows = Windows(trajectories, self.settings.horizon + 1)
        fit_settings = self.settings.fit
        network = (arithmetic or Arithmetic()).forward(self.model.network)
        part = slice(None) if ranks is None else ranks.part(fit_settings.batch_size)

        def loss(step: int) -> Tensor:
            rng = numpy_rng(seed, self.kind, "batch", step)
            steps = rng.integers(len(windows), size=fit_settings.batch_size)
            example = self._example(windows, steps, scaled[steps], rng)
            noise = torch_rng(seed, self.kind, "noise", step)
            return self.model.loss(example, self.config.condition_dropout, noise, network, part)

        self.model.train()
        curve = fit(
            self.model, loss, fit_settings, resume=resume, ranks=ranks, progress=progress
        )
        self.model.eval()
        return curve

    def training_flops(self) -> int:
        """Floating-point operations of the network in one training step."""
        batch, model = self.settings.fit.batch_size, self.model
        channels = model.channels + self.codec.context_channels
        rows = (batch, self.settings.horizon, channels)
        return training_flops(model.network, rows, (batch,), (batch,), (batch,))

    def _example(
        self,
        windows: Windows,
        steps: IntArray,
        condition: Float32Array,
        rng: np.random.Generator,
    ) -> Example:
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write weights, what the codec learned and the configuration."""
        tensors: dict[str, Tensor | np.ndarray] = {
            f"network.{k}": v for k, v in self.model.network.state_dict().items()
        }
        tensors |= {
            f"codec.{k}": np.ascontiguousarray(v) for k, v in self.codec.state().items()
        }
        config = {
            "kind": self.kind,
            "observation_dim": self.observation_dim,
            "return_scale": self.return_scale_,
            "teacher": self.config.model_dump(
                mode="json", include={*DIFFUSER_SETTINGS, MODEL_SETTINGS[self.kind]}
            ),
        }
        save_model(folder, tensors, config)

    @classmethod
    def load(
        cls, folder: Path, device: str = "cpu", arithmetic: Arithmetic | None = None
    ) -> Self:
        """Read what `save` wrote.

        Args:
            folder: Of the checkpoint.
            device: "cpu" or "cuda".
            arithmetic: Of the network's passes on a GPU; on a CPU they are always our own.
        """
        with open_model(folder, cls.kind) as (tensors, config):
            teacher = TeacherConfig.model_validate_json(json.dumps(config["teacher"]))
            diffuser = cls(teacher, config["observation_dim"])
            diffuser.return_scale_ = config["return_scale"]
            codec = {
                k.removeprefix("codec."): v.numpy() for k, v in tensors.items() if "codec." in k
            }
            assert isinstance(diffuser.codec, AbsoluteCodec | ResidualCodec)
            diffuser.codec.restore(codec)
            network = {
                k.removeprefix("network."): v
                for k, v in tensors.items()
                if k.startswith("network.")
            }
            diffuser.model.network.load_state_dict(network)
            diffuser.model.eval().to(device)
            diffuser.model.infer_with(arithmetic or Arithmetic())
            return diffuser


class TrajectoryDiffuser(_Diffuser):
    """DDR-I: rows (s_t, r_t); the last C states of history are clamped, never their rewards."""

    kind = "ddr1"

    def _settings(self, config: TeacherConfig) -> DiffusionConfig:
        return config.trajectory

    def _channels(self) -> int:
        return self.observation_dim + 1

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
        return Example(
            rows=rows,
            clamped=clamped,
            weight=weight.astype(np.float32),
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
        """
        batch, context, width = history.shape
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
            guess = Guess(rows=np.concatenate([encoded, guessed], axis=-1), steps=start.steps)
        rows = self.model.sample(
            guess=guess,
            known=np.where(clamped, known, np.float32(0)),
            clamped=clamped,
            context=self.codec.context(anchor_states),
            condition=np.full(batch, target_return, dtype=np.float32),
            rngs=rngs,
            sampler=sampler,
        )
        return Plan(
            states=self.codec.decode_states(rows[..., :-1], anchor, anchor_states),
            rewards=self.codec.decode_rewards(rows[..., -1]),
            anchor=anchor,
        )

    def plan_flops(self, sampler: SamplerConfig) -> int:
        """Floating-point operations of the network for one plan from noise."""
        rows = self._channels() + self.codec.context_channels
        inputs = ((1, self.settings.horizon, rows), (1,), (1,), (1,))
        passes = 1 if sampler.guidance in (0.0, 1.0) else 2
        return sampler.steps * passes * forward_flops(self.model.network, *inputs)


class RewardDiffuser(_Diffuser):
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
            sampler: How to denoise. Guidance towards the highest return (the condition is 1)
                flatters rewards where (s, s') does not decide them.
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
            condition=np.ones(batch, dtype=np.float32),
            rngs=[
                numpy_rng(seed, self.kind, pair.tobytes().hex())
                for pair in np.concatenate([states, next_states], axis=1)
            ],
            sampler=sampler,
        )
        return self.codec.decode_rewards(rows[:, 0, -1])
