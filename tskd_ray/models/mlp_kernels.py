"""Many small networks' forward passes, a few rows at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from tskd_ray.compiled import compiled, inlined
from tskd_ray.models.tiles import BLOCK, tiles

ROWS = 64
"""Rows whose activations stay in a core's cache while a network's weights go by."""


@compiled
def forward(x: Any, weights: Any, widths: Any, out: Any, work: Any) -> None:
    """ReLU layers of M networks on all rows.

    A row's result does not depend on the others, to the last bit.

    Args:
        x: (N, I) float32.
        weights: Flat float32; by member, then layer, then `BLOCK` outputs: weights
            (inputs, BLOCK) and biases (BLOCK,).
        widths: I, hidden widths, O.
        out: (M, N, O) float32; written.
        work: (2, `ROWS`, widest layer, padded to a multiple of BLOCK) float32.
    """
    flat, given = work.reshape(-1), x.reshape(-1)
    half, step = work.shape[1] * work.shape[2], work.shape[2]
    for first in range(0, x.shape[0], ROWS):
        rows = min(ROWS, x.shape[0] - first)
        place, to = 0, 0
        for member in range(out.shape[0]):
            for layer in range(len(widths) - 1):
                to, at = (layer % 2) * half, ((layer + 1) % 2) * half
                inputs, outputs = widths[layer], widths[layer + 1]
                for block in range(0, outputs, BLOCK):
                    # A convolution with one tap, whose positions are rows.
                    if layer == 0:
                        tiles(
                            given, first * inputs, inputs, 0, 1, inputs, weights, place,
                            flat, to + block, step, 0, rows,
                        )  # fmt: skip
                    else:
                        tiles(
                            flat, at, step, 0, 1, inputs, weights, place,
                            flat, to + block, step, 0, rows,
                        )  # fmt: skip
                    place += (inputs + 1) * BLOCK
                if layer < len(widths) - 2:
                    rectify(flat, to, step, rows, outputs)
            for r in range(rows):
                for c in range(widths[-1]):
                    out[member, first + r, c] = flat[to + r * step + c]


@inlined
def rectify(flat: Any, to: int, step: int, rows: int, outputs: int) -> None:
    """ReLU; NaN stays NaN, as in torch."""
    for r in range(rows):
        for c in range(outputs):
            value = flat[to + r * step + c]
            flat[to + r * step + c] = np.float32(0) if value < 0 else value
