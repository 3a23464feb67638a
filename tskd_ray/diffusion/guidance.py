"""What wraps a denoiser: classifier-free guidance. Samplers know nothing of it.

B batch · H horizon · C channels
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Predict = Callable[[Tensor, int, tuple[bool, ...]], Tensor]
"""network(x (B, H, C), step i, keep) → predictions (len(keep)·B, H, C): of all rows with the
condition where the first of `keep` says so, then of all rows by the second."""


def guided(predict: Predict, x: Tensor, i: int, w: float) -> Tensor:
    """Prediction under classifier-free guidance (eq. 5) in Decision Diffuser's convention.

    w = 1 is plain conditional, w = 0 unconditional; Ho & Salimans (2022) write w − 1 for our w.
    Both halves go through one batched forward of 2B; when w is 0 or 1 one half suffices.
    It holds for noise and for velocity alike: at a given x the two are affine in each other.
    """
    if w in (0.0, 1.0):
        return predict(x, i, (w == 1.0,))
    conditional, unconditional = predict(x, i, (True, False)).chunk(2)
    return unconditional + w * (conditional - unconditional)
