"""Samplers as free functions of a denoiser (D12). They know of no network, guidance or data.

They go from x at the noisiest of the `visited` diffusion steps down to the clean sample. A
denoiser maps (x_i, i) to the clean estimate x̂₀. `clamp` writes the known entries into x; it
is called on every x that a denoiser sees and on the result, so clamped entries come out
bit-identical. `noise` draws standard normal noise of x's shape. The temperature α scales the
noise, here at every step and with the caller at the start (D1); `std` is what it amounts to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from tskd_ray.types import Float64Array

Denoise = Callable[[Tensor, int], Tensor]
Clamp = Callable[[Tensor], Tensor]
Noise = Callable[[], Tensor]


class Update(Protocol):
    """One step of a sampler, from noise level ᾱ_i down to ᾱ_j."""

    def __call__(self, x: Tensor, x0: Tensor, a_i: float, a_j: float) -> Tensor:
        """x_j, given x_i and the clean estimate x̂₀ made from it."""
        raise NotImplementedError


def sample_ddpm(
    x: Tensor,
    denoise: Denoise,
    alpha_bar: Float64Array,
    visited: Sequence[int],
    *,
    noise: Noise,
    clamp: Clamp,
    std: float,
) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, Algorithm 2), strided when `steps` < I."""

    def update(x: Tensor, x0: Tensor, a_i: float, a_j: float) -> Tensor:
        alpha = a_i / a_j
        return (
            x0 * (math.sqrt(a_j) * (1 - alpha) / (1 - a_i))
            + x * (math.sqrt(alpha) * (1 - a_j) / (1 - a_i))
            + noise() * (std * math.sqrt((1 - alpha) * (1 - a_j) / (1 - a_i)))
        )

    return _descend(update, x, denoise, alpha_bar, visited, clamp)


def sample_ddim(
    x: Tensor,
    denoise: Denoise,
    alpha_bar: Float64Array,
    visited: Sequence[int],
    *,
    noise: Noise,
    clamp: Clamp,
    std: float,
) -> Tensor:
    """Deterministic sampling after the initial noise (Song et al. 2021, eq. 12 with σ = 0)."""

    def update(x: Tensor, x0: Tensor, a_i: float, a_j: float) -> Tensor:
        epsilon = (x - math.sqrt(a_i) * x0) / math.sqrt(1 - a_i)
        return math.sqrt(a_j) * x0 + math.sqrt(1 - a_j) * epsilon

    return _descend(update, x, denoise, alpha_bar, visited, clamp)


def sample_dpmpp_2m(
    x: Tensor,
    denoise: Denoise,
    alpha_bar: Float64Array,
    visited: Sequence[int],
    *,
    noise: Noise,
    clamp: Clamp,
    std: float,
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2), the last step of first order.

    λ = log(√ᾱ / √(1 − ᾱ)); the clean end has λ = ∞, where the update is x̂₀ itself.
    """
    before: tuple[Tensor, float] | None = None

    def update(x: Tensor, x0: Tensor, a_i: float, a_j: float) -> Tensor:
        nonlocal before
        h = _log_snr(a_j) - _log_snr(a_i)
        direction = x0
        if before is not None:
            previous, h_previous = before
            direction = x0 + (x0 - previous) / (2 * (h_previous / h))
        before = (x0, h)
        return (
            math.sqrt((1 - a_j) / (1 - a_i)) * x - math.sqrt(a_j) * math.expm1(-h) * direction
        )

    return _descend(update, x, denoise, alpha_bar, visited, clamp)


SAMPLERS = {"ddpm": sample_ddpm, "ddim": sample_ddim, "dpmpp_2m": sample_dpmpp_2m}


@torch.no_grad()
def _descend(
    update: Update,
    x: Tensor,
    denoise: Denoise,
    alpha_bar: Float64Array,
    visited: Sequence[int],
    clamp: Clamp,
) -> Tensor:
    """Go down the visited noise levels; below the last one the clean estimate is the sample."""
    for i, j in pairwise(visited):
        x = clamp(x)
        x = update(x, denoise(x, i), float(alpha_bar[i]), float(alpha_bar[j]))
    return clamp(denoise(clamp(x), visited[-1]))


def _log_snr(a: float) -> float:
    return 0.5 * math.log(a / (1 - a))
