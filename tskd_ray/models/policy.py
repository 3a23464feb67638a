"""The student: a small policy that carries its own normalisation (docs/algorithm.md).

N rows · S observation dim · A action dim
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from tskd_ray.models.checkpoint import open_model, save_model
from tskd_ray.models.mlp import BatchedMLP, predict
from tskd_ray.models.standardizer import Standardizer
from tskd_ray.types import Float32Array, FloatArray

KIND = "policy"


@dataclass(frozen=True, eq=False)
class Policy:
    """An MLP from standardised observations through tanh to the action bounds."""

    network: BatchedMLP  # of one member
    observation: Standardizer
    low: Float32Array  # (A,)
    high: Float32Array  # (A,)
    details: dict[str, Any] = field(default_factory=dict[str, Any])
    """What made it, such as its dataset, seed and step; JSON."""

    def act(self, observations: FloatArray) -> Float32Array:
        """Actions (N, A) within the bounds for observations (N, S) in raw units.

        A row's action depends on that row alone, to the last bit.
        """
        scaled = np.tanh(predict(self.network, self.observation.normalize(observations))[0])
        return unscale_actions(scaled, self.low, self.high)

    @property
    def n_parameters(self) -> int:
        """Weights and biases."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `config.json`."""
        tensors = {
            **self.network.tensors("network."),
            **self.observation.tensors("observation"),
            "low": self.low,
            "high": self.high,
        }
        save_model(folder, tensors, {"kind": KIND, "details": self.details})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a checkpoint folder.

        Raises:
            DataError: If it holds no policy.
        """
        with open_model(folder, KIND) as (tensors, config):
            network = BatchedMLP.from_tensors(tensors, "network.")
            observation = Standardizer.from_tensors(tensors, "observation")
            low, high = (tensors[name].numpy() for name in ("low", "high"))
            if not (
                network.n_members == 1
                and network.widths[0] == len(observation.mean_)
                and (network.widths[-1],) == low.shape == high.shape
            ):
                raise ValueError("network, normalisation and bounds have other widths")
            return cls(network, observation, low, high, config["details"])


def students_forward(network: BatchedMLP, observations: Tensor) -> Tensor:
    """Actions in [−1, 1], (M, B, A), of M students on standardised observations (M, B, S)."""
    return torch.tanh(network(observations))


def unscale_actions(scaled: FloatArray, low: FloatArray, high: FloatArray) -> Float32Array:
    """From [−1, 1] to the bounds, which rounding may not leave."""
    actions = scaled * ((high - low) / 2) + (low + high) / 2
    return np.clip(actions, low, high).astype(np.float32)
