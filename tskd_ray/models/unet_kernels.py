"""A temporal U-Net's forward pass as a list of instructions, carried out row by row.

All activations of a few rows lie in one flat workspace, each tensor as (row, position, channel)
with zeros before the first and after the last position, so that no tap needs a test of bounds.
Channels are padded to a multiple of `BLOCK` by zeros.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np

from tskd_ray.compiled import compiled, inlined
from tskd_ray.models.tiles import BLOCK, WIDTH, scaled_mish, tiles

ROWS = 16
"""Rows that go through the network together: their activations stay in a core's cache, and the
weights come from further away once for all of them."""
EPSILON = 1e-5  # of torch's group normalisation


class Kind(IntEnum):
    """What an instruction does."""

    CONVOLVE = 0
    NORMALIZE = 1


class Extra(IntEnum):
    """What a normalisation adds to its result."""

    NOTHING = 0
    EMBEDDING = 1
    TENSOR = 2


# Columns of an instruction; places and steps count elements of the workspace.
KIND, IN, IN_ROW, IN_STEP, OUT, OUT_ROW, OUT_STEP, SIZE, WEIGHTS = range(9)
TAP_STEP, TAPS, CHANNELS, BLOCKS, ADD = range(9, 14)  # CONVOLVE
PADDED, GROUP, EXTRA, EXTRA_AT, EXTRA_ROW, EXTRA_STEP = range(9, 15)  # NORMALIZE
COLUMNS = 15

_CONVOLVE, _EMBEDDING, _TENSOR = int(Kind.CONVOLVE), int(Extra.EMBEDDING), int(Extra.TENSOR)


@compiled
def forward(
    program: Any,
    weights: Any,
    table: Any,
    which: Any,
    x: Any,
    context: Any,
    first_row: int,
    out: Any,
    entry: Any,
    final: Any,
    work: Any,
) -> None:
    """Run the network on all rows.

    Args:
        program: (instructions, `COLUMNS`) int64.
        weights: All weights, flat float32.
        table: Embeddings of all blocks side by side, one row per kind of row, flat float32.
        which: Where each row's embedding begins in the table, (R,) int64.
        x: (B, H, C) float32; row r of R has those of row (first_row + r) mod B.
        context: (B, K) float32, beside x at every position.
        first_row: See x.
        out: (R, H, channels out) float32; written.
        entry: Where x goes: place, row step, position step, and positions, of which those
            beyond H are set to zero; (4,) int64.
        final: Where the result comes from, likewise.
        work: Workspace for `ROWS` rows, flat float32; zero between tensors.
    """
    sums = np.zeros((2, widest(program)), dtype=np.float32)
    for first in range(0, out.shape[0], ROWS):
        rows = min(ROWS, out.shape[0] - first)
        for r in range(rows):
            source = (first_row + first + r) % x.shape[0]
            enter(x[source], context[source], work, entry[0] + r * entry[1], entry)
        for line in range(program.shape[0]):
            if program[line, KIND] == _CONVOLVE:
                convolve(program[line], weights, work, rows)
            else:
                normalize(program[line], weights, table, which[first:], work, rows, sums)
        for r in range(rows):
            for h in range(out.shape[1]):
                for c in range(out.shape[2]):
                    out[first + r, h, c] = work[final[0] + r * final[1] + h * final[2] + c]


@inlined
def widest(program: Any) -> int:
    """Most channels that a normalisation meets."""
    width = 1
    for line in range(program.shape[0]):
        if program[line, KIND] != _CONVOLVE:
            width = max(width, program[line, PADDED])
    return width


@inlined
def enter(x: Any, context: Any, work: Any, place: int, entry: Any) -> None:
    """One window (H, C) and what stands beside its rows; zeros beyond H."""
    for h in range(entry[3]):
        if h < x.shape[0]:
            for c in range(x.shape[1]):
                work[place + c] = x[h, c]
            for c in range(context.shape[0]):
                work[place + x.shape[1] + c] = context[c]
        else:
            for c in range(x.shape[1] + context.shape[0]):
                work[place + c] = 0
        place += entry[2]


@inlined
def convolve(line: Any, weights: Any, work: Any, rows: int) -> None:
    """One convolution of all rows, `BLOCK` output channels after the other."""
    taps, channels, step, tap_step = line[TAPS], line[CHANNELS], line[IN_STEP], line[TAP_STEP]
    out_step, add, size = line[OUT_STEP], line[ADD], line[SIZE]
    length = taps * channels * BLOCK
    for block in range(line[BLOCKS]):
        kernel = line[WEIGHTS] + block * (length + BLOCK)
        for r in range(rows):
            at = line[IN] + r * line[IN_ROW]
            to = line[OUT] + r * line[OUT_ROW] + block * BLOCK
            tiles(
                work, at, step, tap_step, taps, channels, weights, kernel,
                work, to, out_step, add, size,
            )  # fmt: skip


@inlined
def normalize(
    line: Any, weights: Any, table: Any, which: Any, work: Any, rows: int, sums: Any
) -> None:
    """Group normalisation, Mish and what comes on top, of all rows."""
    padded = line[PADDED]
    scale, shift = sums[0], sums[1]
    for r in range(rows):
        at, to = line[IN] + r * line[IN_ROW], line[OUT] + r * line[OUT_ROW]
        moments(line, work, at, scale, shift)
        for c in range(padded):
            scale[c] *= weights[line[WEIGHTS] + c]
            shift[c] = weights[line[WEIGHTS] + padded + c] - shift[c] * scale[c]
        if line[EXTRA] == _TENSOR:
            extra, extra_step = line[EXTRA_AT] + r * line[EXTRA_ROW], line[EXTRA_STEP]
            finish(line, work, at, to, scale, shift, work, extra, extra_step)
        elif line[EXTRA] == _EMBEDDING:
            finish(line, work, at, to, scale, shift, table, which[r] + line[EXTRA_AT], 0)
        else:
            zeros = line[WEIGHTS] + 2 * padded
            finish(line, work, at, to, scale, shift, weights, zeros, 0)


@inlined
def moments(line: Any, work: Any, at: int, inverse: Any, mean: Any) -> None:
    """Of each channel's group: the mean, and one over the standard deviation.

    Mean first, then the mean square around it: one pass would cancel.
    """
    padded, size, step, group = line[PADDED], line[SIZE], line[IN_STEP], line[GROUP]
    count = np.float32(group * size)
    mean[:padded] = 0
    for h in range(size):
        for c in range(padded):
            mean[c] += work[at + h * step + c]
    share(mean, padded, group, count)
    inverse[:padded] = 0
    for h in range(size):
        for c in range(padded):
            gap = work[at + h * step + c] - mean[c]
            inverse[c] += gap * gap
    share(inverse, padded, group, count)
    for c in range(padded):
        inverse[c] = np.float32(1) / np.sqrt(inverse[c] + np.float32(EPSILON))


@inlined
def share(sums: Any, padded: int, group: int, count: Any) -> None:
    """Every channel gets its group's total over `count`."""
    for g in range(0, padded - group + 1, group):
        total = np.float32(0)
        for c in range(g, g + group):
            total += sums[c]
        for c in range(g, g + group):
            sums[c] = total / count


@inlined
def finish(
    line: Any,
    work: Any,
    at: int,
    to: int,
    scale: Any,
    shift: Any,
    extra: Any,
    extra_at: int,
    extra_step: int,
) -> None:
    """mish(x·scale + shift) + extra at every position of one row."""
    for h in range(line[SIZE]):
        here, there = at + h * line[IN_STEP], to + h * line[OUT_STEP]
        beside = extra_at + h * extra_step
        for c in range(0, line[PADDED], WIDTH):
            scaled_mish(work, here + c, scale, shift, c, extra, beside + c, work, there + c)
