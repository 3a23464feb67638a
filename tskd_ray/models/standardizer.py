"""Zero mean and unit variance per dimension: the input scaling of every small network here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from tskd_ray.types import Float32Array, Float64Array, FloatArray


@dataclass(frozen=True, eq=False)
class Standardizer:
    """An affine map per dimension, in float64 so that far-off data lose no digits."""

    mean_: Float64Array  # (D,)
    std_: Float64Array  # (D,)

    @classmethod
    def fit(cls, x: FloatArray, *, constant: float = 1.0) -> Self:
        """Learn from rows x (N, D).

        Args:
            x: Rows.
            constant: Scale of dimensions that never vary. 1 keeps theirs, for what a network
                reads; with 0 what it predicts of them counts for nothing, and `unnormalize`
                gives their constant.
        """
        mean = x.mean(axis=0, dtype=np.float64)
        std = x.std(axis=0, dtype=np.float64)
        return cls(mean, np.where(std > 1e-6 * np.maximum(1.0, np.abs(mean)), std, constant))

    def normalize(self, x: FloatArray) -> Float32Array:
        """Rows (…, D) in units of sd, as float32: what a network reads."""
        return ((x - self.mean_) / np.where(self.std_ > 0, self.std_, 1.0)).astype(np.float32)

    def unnormalize(self, x: FloatArray) -> Float64Array:
        """Back to raw units."""
        return x.astype(np.float64) * self.std_ + self.mean_

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {
            f"{prefix}.mean": torch.from_numpy(self.mean_),
            f"{prefix}.std": torch.from_numpy(self.std_),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Any], prefix: str) -> Self:
        """Rebuild from `tensors()`.

        Raises:
            KeyError: If one lacks.
            ValueError: If they are no two vectors of one length.
        """
        mean, std = (tensors[f"{prefix}.{name}"].numpy() for name in ("mean", "std"))
        if mean.ndim != 1 or mean.shape != std.shape:
            raise ValueError(f"{prefix} has a mean {mean.shape} and an sd {std.shape}")
        return cls(mean.astype(np.float64), std.astype(np.float64))
