"""What wraps a denoiser: classifier-free guidance. Samplers know nothing of it.

B batch · H horizon · C channels
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Predict = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""network(x (B, H, C), step (B,), condition (B,), keep (B,)) → prediction (B, H, C)."""


def guided(predict: Predict, x: Tensor, i: int, condition: Tensor, w: float) -> Tensor:
    """Prediction under classifier-free guidance (eq. 5) in Decision Diffuser's convention.

    w = 1 is plain conditional, w = 0 unconditional; Ho & Salimans (2022) write w − 1 for our w.
    Both halves go through one batched forward of 2B; when w is 0 or 1 one half suffices.
    It holds for noise and for velocity alike: at a given x the two are affine in each other.
    """
    batch = len(x)
    step = torch.full((batch,), i, device=x.device)
    ones = torch.ones(batch, device=x.device)
    if w in (0.0, 1.0):
        return predict(x, step, condition, ones * w)
    both = predict(
        torch.cat([x, x]),
        torch.cat([step, step]),
        torch.cat([condition, condition]),
        torch.cat([ones, ones * 0]),
    )
    conditional, unconditional = both.chunk(2)
    return unconditional + w * (conditional - unconditional)
