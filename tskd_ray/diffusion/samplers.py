"""Samplers as free functions of a denoiser (D12). They know of no network, guidance or data.

A denoiser maps (x_i, i) to the clean estimate x̂₀. `clamp` writes the known entries into x; it
is called on every x that a denoiser sees and on the result, so clamped entries come out
bit-identical. `noise` draws standard normal noise of x's shape. The temperature α scales the
noise, at the start and at every step (D1); callers pass the standard deviation it amounts to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from tskd_ray.diffusion.schedule import sampling_steps
from tskd_ray.types import Float64Array

Denoise = Callable[[Tensor, int], Tensor]
Clamp = Callable[[Tensor], Tensor]
Noise = Callable[[], Tensor]


@torch.no_grad()
def sample_ddpm(
    denoise: Denoise,
    alpha_bar: Float64Array,
    steps: int,
    *,
    noise: Noise,
    clamp: Clamp,
    std: float,
) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, Algorithm 2), strided when `steps` < I."""
    x = noise() * std
    for i, j in _transitions(len(alpha_bar), steps):
        x = clamp(x)
        x0 = denoise(x, i)
        if j is None:
            return clamp(x0)
        a_i, a_j = float(alpha_bar[i]), float(alpha_bar[j])
        alpha = a_i / a_j
        x = (
            x0 * (math.sqrt(a_j) * (1 - alpha) / (1 - a_i))
            + x * (math.sqrt(alpha) * (1 - a_j) / (1 - a_i))
            + noise() * (std * math.sqrt((1 - alpha) * (1 - a_j) / (1 - a_i)))
        )
    raise AssertionError("unreachable: the last transition returns")


@torch.no_grad()
def sample_ddim(
    denoise: Denoise,
    alpha_bar: Float64Array,
    steps: int,
    *,
    noise: Noise,
    clamp: Clamp,
    std: float,
) -> Tensor:
    """Deterministic sampling after the initial noise (Song et al. 2021, eq. 12 with σ = 0)."""
    x = noise() * std
    for i, j in _transitions(len(alpha_bar), steps):
        x = clamp(x)
        x0 = denoise(x, i)
        if j is None:
            return clamp(x0)
        a_i, a_j = float(alpha_bar[i]), float(alpha_bar[j])
        epsilon = (x - math.sqrt(a_i) * x0) / math.sqrt(1 - a_i)
        x = math.sqrt(a_j) * x0 + math.sqrt(1 - a_j) * epsilon
    raise AssertionError("unreachable: the last transition returns")


@torch.no_grad()
def sample_dpmpp_2m(
    denoise: Denoise,
    alpha_bar: Float64Array,
    steps: int,
    *,
    noise: Noise,
    clamp: Clamp,
    std: float,
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2), the last step of first order.

    λ = log(√ᾱ / √(1 − ᾱ)); the clean end has λ = ∞, where the update is x̂₀ itself.
    """
    x = noise() * std
    previous: Tensor | None = None
    h_previous = 0.0
    for i, j in _transitions(len(alpha_bar), steps):
        x = clamp(x)
        x0 = denoise(x, i)
        if j is None:
            return clamp(x0)
        a_i, a_j = float(alpha_bar[i]), float(alpha_bar[j])
        h = _log_snr(a_j) - _log_snr(a_i)
        direction = x0
        if previous is not None:
            r = h_previous / h
            direction = x0 + (x0 - previous) / (2 * r)
        x = math.sqrt((1 - a_j) / (1 - a_i)) * x - math.sqrt(a_j) * math.expm1(-h) * direction
        previous, h_previous = x0, h
    raise AssertionError("unreachable: the last transition returns")


SAMPLERS = {"ddpm": sample_ddpm, "ddim": sample_ddim, "dpmpp_2m": sample_dpmpp_2m}


def _transitions(total: int, steps: int) -> list[tuple[int, int | None]]:
    visited: list[int | None] = [*sampling_steps(total, steps), None]
    return [(i, j) for i, j in pairwise(visited) if i is not None]


def _log_snr(a: float) -> float:
    return 0.5 * math.log(a / (1 - a))
