"""What DDR-I is asked to begin from, and what it answers.

B batch · H horizon · S observation dim
"""

from __future__ import annotations

from dataclasses import dataclass

from tskd_ray.types import Float32Array, IntArray


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What DDR-I sees ahead. Row `anchor` is the current state's."""

    states: Float32Array  # (B, H, S) raw units
    rewards: Float32Array  # (B, H) raw units
    anchor: IntArray  # (B,) history length − 1 (D3)


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a plan begins from instead of noise: the previous one, as it looks from now."""

    states: Float32Array  # (B, H, S) raw units
    rewards: Float32Array  # (B, H) raw units
    steps: int  # of the sampler, that are left to do
