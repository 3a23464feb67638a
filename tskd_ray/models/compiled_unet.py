"""A trained temporal U-Net on the CPU, compiled to a list of instructions (`unet_kernels`).

Two to three times as fast as torch's, and a row's result depends on that row alone, to the last
bit: so trajectories may be generated in any company. B rows · H horizon · C channels
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tskd_ray.models import unet_kernels as kernels
from tskd_ray.models.temporal_unet import GROUPS, ResidualBlock, TemporalUNet
from tskd_ray.models.tiles import BLOCK
from tskd_ray.models.unet_kernels import ROWS, Extra, Kind
from tskd_ray.types import Float32Array, IntArray


class CompiledUNet:
    """Predictions of a `TemporalUNet` whose weights no longer change."""

    def __init__(self, network: TemporalUNet) -> None:
        self._network = network
        self._programs: dict[int, Program] = {}
        self._embeddings: dict[tuple[int, float, bool], Float32Array] = {}

    def embedding(self, step: int, condition: float, keep: bool) -> Float32Array:
        """What the blocks add for diffusion step i, return y and whether to use it; (E,)."""
        key = (step, condition, keep)
        if key not in self._embeddings:
            with torch.no_grad():
                told = self._network.embed(
                    torch.tensor([step]), torch.tensor([condition]), torch.tensor([float(keep)])
                )
                parts = [block.embed(told)[0] for block in _blocks(self._network)]
            self._embeddings[key] = np.concatenate([_padded(part.numpy()) for part in parts])
        return self._embeddings[key]

    def __call__(
        self,
        x: Float32Array,
        context: Float32Array,
        embeddings: Sequence[Float32Array],
        which: IntArray,
    ) -> Float32Array:
        """Predict, on as many threads as torch uses.

        Args:
            x: Rows of windows, (B, H, C).
            context: What stands beside each of a window's rows, (B, K).
            embeddings: From `embedding`.
            which: Which of them each prediction gets, (R,). R may be a multiple of B: then all
                windows are predicted once, then all again.

        Returns:
            (R, H, channels out).

        Raises:
            ValueError: If shapes do not fit the network or one another, or a prediction asks
                for an embedding that is not there: the kernels check no bounds.
        """
        if x.ndim != 3:
            raise ValueError(f"x must be (B, H, C). Got {x.shape}.")
        horizon = x.shape[1]
        if horizon not in self._programs:
            self._programs[horizon] = _Compiler(self._network).compile(horizon)
        return self._programs[horizon].run(x, context, np.stack(embeddings), which)


@dataclass(frozen=True, eq=False)
class Program:
    """A network compiled for one horizon."""

    instructions: IntArray
    weights: Float32Array
    entry: IntArray
    final: IntArray
    work: int  # elements of workspace
    horizon: int
    channels_in: int  # those of x and the context together
    embedded: int  # elements of an embedding
    channels: int  # of the output

    def run(
        self, x: Float32Array, context: Float32Array, table: Float32Array, which: IntArray
    ) -> Float32Array:
        """See `CompiledUNet.__call__`."""
        self._check(x, context, table, which)
        x, context, table = (
            np.ascontiguousarray(given, dtype=np.float32) for given in (x, context, table)
        )
        which = np.asarray(which, dtype=np.int64)
        out = np.empty((len(which), x.shape[1], self.channels), dtype=np.float32)
        threads = min(torch.get_num_threads(), -(-len(out) // ROWS))
        share = -(-len(out) // (max(threads, 1) * ROWS)) * ROWS

        def part(first: int) -> None:
            rows = slice(first, first + share)
            kernels.forward(
                self.instructions,
                self.weights,
                table.reshape(-1),
                which[rows] * table.shape[1],
                x,
                context,
                first,
                out[rows],
                self.entry,
                self.final,
                np.zeros(self.work, dtype=np.float32),
            )

        if threads <= 1:
            part(0)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(part, range(0, len(out), share)))
        return out

    def _check(
        self, x: Float32Array, context: Float32Array, table: Float32Array, which: IntArray
    ) -> None:
        shapes = f"Got x {x.shape}, context {context.shape}."
        if x.ndim != 3 or x.shape[1] != self.horizon or context.ndim != 2:
            raise ValueError(f"x must be (B, {self.horizon}, C), context (B, K). {shapes}")
        if len(x) != len(context):
            raise ValueError(f"x and context must have the same rows. {shapes}")
        if x.shape[2] + context.shape[1] != self.channels_in:
            raise ValueError(
                f"Channels of x and context must be {self.channels_in} together. {shapes}"
            )
        if table.ndim != 2 or table.shape[1] != self.embedded:
            raise ValueError(
                f"Embeddings must have {self.embedded} elements. Got {table.shape}."
            )
        if len(which) % len(x) if len(x) else len(which):
            raise ValueError(
                f"Predictions must be a multiple of the rows. Got {len(which)} of {len(x)}."
            )
        if len(which) and not 0 <= np.min(which) <= np.max(which) < len(table):
            raise ValueError(
                f"which must number embeddings from 0 to {len(table) - 1}. Got "
                f"{np.min(which)} to {np.max(which)}."
            )


@dataclass(frozen=True, eq=False)
class _Tensor:
    """Where activations lie: element at + r·row + h·step + layout[c] of the workspace."""

    at: int
    row: int
    step: int
    positions: int
    layout: IntArray  # (C,) place of each channel

    @property
    def channels(self) -> int:
        return len(self.layout)

    @property
    def padded(self) -> int:
        """Channels with the zeros between and after them."""
        return -(-(int(self.layout[-1]) + 1) // BLOCK) * BLOCK

    def part(self, number: int) -> _Tensor:
        """One of two tensors side by side."""
        half = self.channels // 2
        start = int(self.layout[number * half])
        return replace(self, at=self.at + start, layout=self.layout[:half])


class _Compiler:
    """Walks through a network as its `forward` does and writes down what is to be done."""

    def __init__(self, network: TemporalUNet) -> None:
        self.network = network
        self.lines: list[list[int]] = []
        self.weights: list[Float32Array] = []
        self.n_weights = self.n_work = self.n_embedded = 0
        # Zeros around a tensor: what the widest kernel reaches beyond its ends.
        self.margin = max(1, *(conv.kernel_size[0] // 2 for conv in _convolutions(network)))
        self.free: dict[tuple[int, int], list[int]] = {}

    def compile(self, horizon: int) -> Program:
        network = self.network
        x = entry = self.tensor(
            -(-horizon // network.stride) * network.stride,
            _convolutions(network)[0].in_channels,
        )
        joints: list[_Tensor] = []
        for first, second, shrink in network.downs:  # pyright: ignore[reportGeneralTypeIssues]
            hidden = self.block(first, x)
            self.release(x)
            if x is entry:
                x = self.block(second, hidden)
            else:
                # Its way up reads it beside what comes from below: the two share a tensor.
                joints.append(self.tensor(hidden.positions, hidden.channels, parts=2))
                x = self.block(second, hidden, joints[-1].part(1))
            self.release(hidden)
            if isinstance(shrink, nn.Conv1d):
                x = self.shrink(shrink, x)
        hidden = self.block(network.middle[0], x)
        x, target = self.next(joints, hidden.positions, hidden.channels)
        self.block(network.middle[1], hidden, target)
        self.release(hidden)
        for first, second, grow in network.ups:  # pyright: ignore[reportGeneralTypeIssues]
            hidden = self.block(first, x)
            small = self.block(second, hidden)
            self.release(x, hidden)
            x, target = self.next(joints, 2 * small.positions, small.channels)
            self.grow(grow, small, target)
            self.release(small)
        hidden = self.conv_block(network.final[0], x)
        final = self.tensor(x.positions, _convolutions(network)[-1].out_channels)
        self.convolve(network.final[1], hidden, final)
        return Program(
            np.array(self.lines, dtype=np.int64),
            np.concatenate(self.weights),
            np.array([entry.at, entry.row, entry.step, entry.positions]),
            np.array([final.at, final.row, final.step, final.positions]),
            self.n_work,
            horizon,
            entry.channels,
            self.n_embedded,
            final.channels,
        )

    def next(
        self, joints: list[_Tensor], positions: int, channels: int
    ) -> tuple[_Tensor, _Tensor]:
        """What the way up reads next, and the part of it that comes from below."""
        if joints:
            return joints[-1], joints.pop().part(0)
        x = self.tensor(positions, channels)
        return x, x

    # -- blocks ----------------------------------------------------------------------------

    def block(self, block: Any, x: _Tensor, out: _Tensor | None = None) -> _Tensor:
        """A `ResidualBlock`."""
        told = self.n_embedded
        self.n_embedded += -(-block.first[0].out_channels // BLOCK) * BLOCK
        hidden = self.conv_block(block.first, x, extra=[Extra.EMBEDDING, told, 0, 0])
        whole = int(x.layout[-1]) + 1 == x.channels
        if isinstance(block.shortcut, nn.Identity) and whole:
            extra = [Extra.TENSOR, x.at, x.row, x.step]
            out = self.conv_block(block.second, hidden, out, extra)
        elif isinstance(block.shortcut, nn.Identity):
            # Two parts with zeros between them become one.
            out = self.conv_block(block.second, hidden, out)
            alike, nothing = np.eye(x.channels, dtype=np.float32), np.zeros(x.channels)
            self.emit(
                alike[None], nothing.astype(np.float32), x, out, positions=x.positions, add=True
            )
        else:
            out = self.conv_block(block.second, hidden, out)
            self.convolve(block.shortcut, x, out, add=True)
        self.release(hidden)
        return out

    def conv_block(
        self,
        block: Any,
        x: _Tensor,
        out: _Tensor | None = None,
        extra: Sequence[int] = (Extra.NOTHING, 0, 0, 0),
    ) -> _Tensor:
        """A `ConvBlock`, and what its result is added to."""
        convolution, norm, _ = block
        raw = self.tensor(x.positions, convolution.out_channels)
        self.convolve(convolution, x, raw)
        out = out or self.tensor(raw.positions, raw.channels)
        padded = raw.padded
        scales = np.zeros((3, padded), dtype=np.float32)  # the last row serves as zeros
        scales[0, : raw.channels] = _numbers(norm.weight)
        scales[1, : raw.channels] = _numbers(norm.bias)
        self.lines.append([
            Kind.NORMALIZE, raw.at, raw.row, raw.step, out.at, out.row, out.step, x.positions,
            self.keep(scales), padded, raw.channels // GROUPS, *extra,
        ])  # fmt: skip
        self.release(raw)
        return out

    def shrink(self, convolution: nn.Conv1d, x: _Tensor) -> _Tensor:
        """A convolution of stride 2."""
        small = self.tensor(x.positions // 2, convolution.out_channels)
        self.convolve(convolution, x, small, stride=2)
        return small

    def grow(self, convolution: nn.ConvTranspose1d, x: _Tensor, out: _Tensor) -> None:
        """A transposed convolution of kernel 4 and stride 2: two of two taps, interleaved.

        Output o gets x_i by tap o + 1 − 2i: output 2j from x_{j−1} and x_j by taps 3 and 1,
        output 2j + 1 from x_j and x_{j+1} by taps 2 and 0.
        """
        weight = _numbers(convolution.weight).transpose(2, 0, 1)  # (tap, in, out)
        bias = _numbers(convolution.bias)
        for odd, taps in ((0, (3, 1)), (1, (2, 0))):
            self.emit(
                weight[list(taps)],
                bias,
                replace(x, at=x.at - (1 - odd) * x.step),
                replace(out, at=out.at + odd * out.step, step=2 * out.step),
                positions=x.positions,
            )

    def convolve(
        self, convolution: Any, x: _Tensor, out: _Tensor, *, stride: int = 1, add: bool = False
    ) -> None:
        """A convolution whose padding is half its kernel."""
        weight = _numbers(convolution.weight).transpose(2, 1, 0)  # (tap, in, out)
        reach = convolution.kernel_size[0] // 2
        self.emit(
            weight,
            _numbers(convolution.bias),
            replace(x, at=x.at - reach * x.step),
            out,
            positions=out.positions,
            stride=stride,
            add=add,
        )

    # -- instructions, weights, tensors ------------------------------------------------------

    def emit(
        self,
        weight: Float32Array,  # (taps, in, out)
        bias: Float32Array,
        x: _Tensor,
        out: _Tensor,
        *,
        positions: int,
        stride: int = 1,
        add: bool = False,
    ) -> None:
        taps, _, width = weight.shape
        channels, blocks = int(x.layout[-1]) + 1, out.padded // BLOCK
        laid = np.zeros((taps, channels, blocks * BLOCK), dtype=np.float32)
        laid[:, x.layout, :width] = weight
        # Block by block: kernel (taps, channels, BLOCK), then biases.
        parts = np.zeros((blocks, taps * channels + 1, BLOCK), dtype=np.float32)
        parts[:, :-1] = laid.reshape(taps * channels, blocks, BLOCK).transpose(1, 0, 2)
        parts[:, -1] = _padded(bias).reshape(blocks, BLOCK)
        self.lines.append([
            Kind.CONVOLVE, x.at, x.row, stride * x.step, out.at, out.row, out.step, positions,
            self.keep(parts), x.step, taps, channels, blocks, int(add), 0,
        ])  # fmt: skip

    def keep(self, numbers: Float32Array) -> int:
        """Where the weights lie from now on."""
        place = self.n_weights
        self.weights.append(numbers.reshape(-1))
        self.n_weights += numbers.size
        return place

    def tensor(self, positions: int, channels: int, *, parts: int = 1) -> _Tensor:
        """Room for `parts` x `channels` channels, or that of a tensor no longer read."""
        part = -(-channels // BLOCK) * BLOCK
        step = parts * part
        row = (positions + 2 * self.margin) * step
        vacant = self.free.get((positions, step))
        if vacant:
            at = vacant.pop()
        else:
            at = self.n_work + self.margin * step
            self.n_work += ROWS * row
        layout = np.arange(parts)[:, None] * part + np.arange(channels)
        return _Tensor(at, row, step, positions, layout.reshape(-1))

    def release(self, *tensors: _Tensor) -> None:
        """What is no longer read. The zeros around it stay: only its like takes its place."""
        for tensor in tensors:
            self.free.setdefault((tensor.positions, tensor.step), []).append(tensor.at)


def _blocks(network: TemporalUNet) -> list[ResidualBlock]:
    """In the order in which `forward` gets to them."""
    return [module for module in network.modules() if isinstance(module, ResidualBlock)]


def _convolutions(network: TemporalUNet) -> list[nn.Conv1d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv1d)]


def _padded(numbers: Float32Array) -> Float32Array:
    return np.pad(numbers, (0, -len(numbers) % BLOCK))


def _numbers(tensor: Tensor | None) -> Float32Array:
    assert tensor is not None
    return tensor.detach().numpy()
