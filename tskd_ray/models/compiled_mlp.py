"""Trained small networks on the CPU by our own kernels: a row's result depends on it alone."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from tskd_ray.models import mlp_kernels as kernels
from tskd_ray.models.mlp_kernels import ROWS
from tskd_ray.models.tiles import BLOCK
from tskd_ray.types import Float32Array


class CompiledMLP:
    """Forward passes of stacked weights (M, I, O) and biases (M, 1, O) per layer."""

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        self._members = len(weights[0])
        widths = [weights[0].shape[1], *(weight.shape[2] for weight in weights)]
        self._widths = np.array(widths, dtype=np.int64)
        layers = [
            _blocks(weight.detach().numpy(), bias.detach().numpy())
            for weight, bias in zip(weights, biases, strict=True)
        ]
        self._weights = np.concatenate(layers, axis=1).reshape(-1)

    def __call__(self, x: Float32Array) -> Float32Array:
        """Outputs (M, N, O) of rows (N, I), on as many threads as torch uses.

        Raises:
            ValueError: If rows are not as wide as the first layer: the kernel checks no bounds.
        """
        if x.ndim != 2 or x.shape[1] != self._widths[0]:
            raise ValueError(f"x must be (N, {self._widths[0]}). Got {x.shape}.")
        x = np.ascontiguousarray(x, dtype=np.float32)
        n = len(x)
        out = np.empty((self._members, n, self._widths[-1]), dtype=np.float32)
        threads = min(torch.get_num_threads(), -(-n // ROWS))
        if threads <= 1:
            self._run(x, out)
            return out
        share = -(-n // (threads * ROWS)) * ROWS
        parts = [slice(first, first + share) for first in range(0, n, share)]
        results = [
            np.empty((self._members, len(x[part]), out.shape[2]), np.float32) for part in parts
        ]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda part, result: self._run(x[part], result), parts, results))
        for part, result in zip(parts, results, strict=True):
            out[:, part] = result
        return out

    def _run(self, x: Float32Array, out: Float32Array) -> None:
        widest = -(-int(self._widths.max()) // BLOCK) * BLOCK
        work = np.empty((2, ROWS, widest), dtype=np.float32)
        kernels.forward(x, self._weights, self._widths, out, work)


def _blocks(weight: Float32Array, bias: Float32Array) -> Float32Array:
    """A layer's weights and biases in the order in which the kernel reads them, (M, ·)."""
    members, inputs, outputs = weight.shape
    blocks = -(-outputs // BLOCK)
    laid = np.zeros((members, inputs + 1, blocks * BLOCK), dtype=np.float32)
    laid[:, :-1, :outputs], laid[:, -1:, :outputs] = weight, bias
    laid = laid.reshape(members, inputs + 1, blocks, BLOCK).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(laid).reshape(members, -1)
