"""What DDR-I and DDR-II share: codec, labels, fitting, saving.

B batch · H horizon · S observation dim
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from tskd_ray.config.schema import DIFFUSER_SETTINGS, DiffusionConfig, TeacherConfig
from tskd_ray.data.returns import return_labels, return_scale
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.data.windows import Windows
from tskd_ray.diffusion.codec import AbsoluteCodec, Codec, ResidualCodec
from tskd_ray.diffusion.conditional import ConditionalDiffusion, Example
from tskd_ray.models.arithmetic import Arithmetic
from tskd_ray.models.checkpoint import open_model, save_model
from tskd_ray.models.fit import fit
from tskd_ray.models.flops import training_flops
from tskd_ray.models.ranks import Ranks
from tskd_ray.progress import Progress, silent
from tskd_ray.seeding import numpy_rng, torch_rng
from tskd_ray.types import Float32Array, Float64Array, FloatArray, IntArray

MODEL_SETTINGS = {"ddr1": "trajectory", "ddr2": "reward"}


class Diffuser:
    """What DDR-I and DDR-II share: codec, labels, fitting, saving."""

    kind = ""

    def __init__(self, config: TeacherConfig, observation_dim: int) -> None:
        self.config, self.observation_dim = config, observation_dim
        self.settings = self._settings(config)
        self.codec: Codec = self._codec()
        self.model = self._model()
        self.return_scale_ = self.best_label_ = 1.0

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
        conditions: FloatArray | None = None,
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
            conditions: y of the window that starts at each step, (N,); default: its return
                label, scaled (D5).
            device: "cpu" or "cuda".
            arithmetic: Of the network's passes; default: float32, not compiled.
            resume: Folder of the training state, see `models.fit.fit`.
            ranks: Processes that share each batch; default: this one has it whole.
            progress: Told as training goes.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(numpy_rng(seed, self.kind, "init").integers(2**31)))
            self.model = self._model().to(device)
        self.fit_codec(trajectories, seed)
        if conditions is None:
            conditions = self._scaled_returns(trajectories)
        known = conditions.astype(np.float32)
        self.best_label_ = float(known.max())
        windows = Windows(trajectories, self.settings.horizon + 1)
        fit_settings = self.settings.fit
        network = (arithmetic or Arithmetic()).forward(self.model.network)
        part = slice(None) if ranks is None else ranks.part(fit_settings.batch_size)

        def loss(step: int) -> Tensor:
            rng = numpy_rng(seed, self.kind, "batch", step)
            steps = rng.integers(len(windows), size=fit_settings.batch_size)
            example = self._example(windows, steps, known[steps], rng)
            noise = torch_rng(seed, self.kind, "noise", step)
            return self.model.loss(example, self.config.condition_dropout, noise, network, part)

        self.model.train()
        curve = fit(
            self.model, loss, fit_settings, resume=resume, ranks=ranks, progress=progress
        )
        self.model.eval()
        return curve

    def _scaled_returns(self, trajectories: Trajectories) -> Float64Array:
        labels = return_labels(
            trajectories, self.config.discount, self.config.termination_penalty
        )
        self.return_scale_ = self.config.return_scale or return_scale(labels)
        return labels / self.return_scale_

    def fit_codec(self, trajectories: Trajectories, seed: int) -> None:
        """Learn how states and rewards become rows; a part of `fit`."""
        if isinstance(self.codec, ResidualCodec):
            self.codec.fit(trajectories, numpy_rng(seed, self.kind, "codec"))
        elif isinstance(self.codec, AbsoluteCodec):
            self.codec.fit(trajectories)
        self._clip_rewards()

    def _clip_rewards(self) -> None:
        """Tell the model how far rewards go, its last channel where it has one for them."""
        if self.kind == "ddr2" or self.config.diffuse_rewards:
            self.model.clip[-1] = self.codec.reward_clip

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
            "teacher": self.config.model_dump(mode="json", include=self._saved()),
        }
        if self.best_label_ != 1:  # checkpoints without it read as that
            config["best_label"] = self.best_label_
        save_model(folder, tensors, config)

    def _saved(self) -> set[str]:
        """Settings that a checkpoint names."""
        return {*DIFFUSER_SETTINGS, MODEL_SETTINGS[self.kind]}

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
            diffuser.best_label_ = config.get("best_label", 1.0)
            codec = {
                k.removeprefix("codec."): v.numpy() for k, v in tensors.items() if "codec." in k
            }
            assert isinstance(diffuser.codec, AbsoluteCodec | ResidualCodec)
            diffuser.codec.restore(codec)
            diffuser._clip_rewards()
            network = {
                k.removeprefix("network."): v
                for k, v in tensors.items()
                if k.startswith("network.")
            }
            diffuser.model.network.load_state_dict(network)
            diffuser.model.eval().to(device)
            diffuser.model.infer_with(arithmetic or Arithmetic())
            return diffuser
