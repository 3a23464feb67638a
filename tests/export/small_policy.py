"""A policy with odd bounds and scales, and its actions written out."""

from __future__ import annotations

import numpy as np

from tskd_ray.export.description import Description
from tskd_ray.export.layers import layers
from tskd_ray.models.mlp import BatchedMLP
from tskd_ray.models.policy import Policy
from tskd_ray.models.standardizer import Standardizer
from tskd_ray.types import Float64Array, FloatArray

LOW, HIGH = np.array([-1.0, 0.0], dtype=np.float32), np.array([1.0, 4.0], dtype=np.float32)
MEAN, STD = np.array([0.0, 400.0, 1e4 + 3e-4]), np.array([1.0, 50.0, 0.01])
ABOUT = Description(key="k", dataset="d", environment="E-v0", seed=3, student_seed="4")


def small_policy(hidden: tuple[int, ...] = (16, 24)) -> Policy:
    network = BatchedMLP(3, 2, hidden, seed=0, keys=[("p",)])
    return Policy(network, Standardizer(MEAN, STD), LOW, HIGH, {"seed": 4})


def rows(n: int) -> FloatArray:
    """Observations as sensors give them."""
    return (MEAN + STD * np.random.default_rng(1).normal(size=(n, 3))).astype(np.float32)


def written_out(policy: Policy, x: FloatArray) -> Float64Array:
    """Actions in double precision."""
    h = (x.astype(np.float64) - policy.observation.mean_) / policy.observation.std_
    parts = layers(policy)
    for number, (weight, bias) in enumerate(parts):
        h = h @ weight.astype(np.float64) + bias
        h = np.maximum(h, 0) if number < len(parts) - 1 else np.tanh(h)
    return np.clip(h * (HIGH - LOW) / 2 + (LOW + HIGH) / 2, LOW, HIGH)
