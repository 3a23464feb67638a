"""Noise schedule and the diffusion steps that a sampler visits.

Diffusion steps count noise levels: i = 0 is almost clean, i = I − 1 almost pure noise.
"""

from __future__ import annotations

import math

import numpy as np

from tskd_ray.types import Float64Array


def cosine_alpha_bar(steps: int) -> Float64Array:
    """ᾱ_i of the cosine schedule (Nichol & Dhariwal 2021, eq. 17), β at most 0.999; (I,)."""
    u = np.arange(steps + 1) / steps
    f = np.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    beta = np.clip(1 - f[1:] / f[:-1], 0.0, 0.999)
    return np.asarray(np.cumprod(1 - beta), dtype=np.float64)


def sampling_steps(total: int, steps: int) -> list[int]:
    """The diffusion steps a sampler visits, noisiest first.

    All of them when `steps` is `total`. A few (steps² ≤ total) are spaced quadratically towards
    small noise, where the plan's detail is decided; more are spaced evenly.
    """
    power = 2 if steps * steps <= total else 1
    # Whole numbers throughout: a rounded share would visit one step twice and skip another.
    return [-(-total * k**power // steps**power) - 1 for k in range(steps, 0, -1)]
