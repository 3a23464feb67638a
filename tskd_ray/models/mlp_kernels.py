"""Many small networks' forward passes, a few rows at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from tskd_ray.compiled import compiled, inlined
from tskd_ray.models.tiles import BLOCK, POSITIONS, tile_1, tile_2, tile_4, tile_8

ROWS = 64
"""Rows whose activations stay in a core's cache while a network's weights go by."""
_LARGEST = POSITIONS[0]


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
                    if layer == 0:
                        products(
                            given, first * inputs, inputs, rows, inputs, weights, place,
                            flat, to + block, step,
                        )  # fmt: skip
                    else:
                        products(
                            flat, at, step, rows, inputs, weights, place,
                            flat, to + block, step,
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


@inlined
def products(
    given: Any,
    at: int,
    step: int,
    rows: int,
    inputs: int,
    weights: Any,
    place: int,
    out: Any,
    to: int,
    out_step: int,
) -> None:
    """`BLOCK` outputs of a layer: a convolution with one tap, whose positions are rows."""
    bias = place + inputs * BLOCK
    p = 0
    if _LARGEST == 8:
        while p + 8 <= rows:
            tile_8(
                given, at + p * step, step, 0, 1, inputs,
                weights, place, bias, out, to + p * out_step, out_step, 0,
            )  # fmt: skip
            p += 8
    while p + 4 <= rows:
        tile_4(
            given, at + p * step, step, 0, 1, inputs,
            weights, place, bias, out, to + p * out_step, out_step, 0,
        )  # fmt: skip
        p += 4
    if p + 2 <= rows:
        tile_2(
            given, at + p * step, step, 0, 1, inputs,
            weights, place, bias, out, to + p * out_step, out_step, 0,
        )  # fmt: skip
        p += 2
    if p < rows:
        tile_1(
            given, at + p * step, step, 0, 1, inputs,
            weights, place, bias, out, to + p * out_step, out_step, 0,
        )  # fmt: skip
