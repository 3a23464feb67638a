"""Many small networks of one shape, trained and run as one batched network.

M members · B batch · I input width · O output width
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tskd_ray.models.compiled_mlp import CompiledMLP
from tskd_ray.seeding import torch_rng
from tskd_ray.types import Float32Array, FloatArray

MemberKey = tuple[str | int, ...]


class BatchedMLP(nn.Module):
    """M independent ReLU networks as stacked weights: one matrix product per layer, not M.

    A member's first weights depend on its own key alone, so it comes out as it would have if it
    had been trained by itself (up to rounding).
    """

    def __init__(
        self,
        in_width: int,
        out_width: int,
        hidden: Sequence[int],
        *,
        seed: int,
        keys: Sequence[MemberKey],
    ) -> None:
        """Draw uniform weights within 1/√fan_in, torch's default for a linear layer.

        Args:
            in_width: I.
            out_width: O.
            hidden: Widths between; empty for a linear map.
            seed: The run's seed.
            keys: One random stream per member; their number is M.
        """
        super().__init__()
        self.widths = (in_width, *hidden, out_width)
        streams = [torch_rng(seed, *key, "weights") for key in keys]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in pairwise(self.widths):
            bound = fan_in**-0.5
            draws = [
                (
                    torch.empty(fan_in, fan_out).uniform_(-bound, bound, generator=stream),
                    torch.empty(1, fan_out).uniform_(-bound, bound, generator=stream),
                )
                for stream in streams
            ]
            self.weights.append(nn.Parameter(torch.stack([weight for weight, _ in draws])))
            self.biases.append(nn.Parameter(torch.stack([bias for _, bias in draws])))

    @property
    def n_members(self) -> int:
        return len(self.weights[0])

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (M, B, O) of inputs (M, B, I), or of (B, I), which every member sees."""
        return batched_forward(list(self.weights), list(self.biases), x)

    def compiled(self) -> CompiledMLP:
        """The network for predictions, as its weights are now."""
        # torch counts the changes of each tensor.
        version = tuple(parameter._version for parameter in self.parameters())
        known: tuple[tuple[int, ...], CompiledMLP] | None = self.__dict__.get("_compiled")
        if known is None or known[0] != version:
            known = version, CompiledMLP(list(self.weights), list(self.biases))
            self.__dict__["_compiled"] = known
        return known[1]

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """The weights by name, for a checkpoint."""
        return {prefix + name: value.detach() for name, value in self.state_dict().items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], prefix: str = "") -> Self:
        """Rebuild from `tensors()`; shapes tell the architecture.

        Raises:
            KeyError: If a layer is incomplete.
            ValueError: If there is none, or shapes do not fit together.
        """
        depth = sum(name.startswith(f"{prefix}weights.") for name in tensors)
        weights = [tensors[f"{prefix}weights.{layer}"] for layer in range(depth)]
        biases = [tensors[f"{prefix}biases.{layer}"] for layer in range(depth)]
        if not depth or not all(
            weight.ndim == 3 and weight.is_floating_point() for weight in weights
        ):
            raise ValueError(f"{prefix}weights must be layers of (members, inputs, outputs)")
        widths = [weight.shape[1] for weight in weights] + [weights[-1].shape[2]]
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            members = weights[0].shape[0]
            expected = (
                (members, widths[layer], widths[layer + 1]),
                (members, 1, widths[layer + 1]),
            )
            if (
                tuple(weight.shape),
                tuple(bias.shape),
            ) != expected or bias.dtype != weight.dtype:
                raise ValueError(
                    f"layer {layer} of {prefix} must have weights and biases of shapes "
                    f"{expected[0]} and {expected[1]}"
                )
        return cls.from_layers(weights, biases)

    @classmethod
    def from_layers(cls, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Self:
        """A network of copies of these weights (M, I, O) and biases (M, 1, O) per layer."""
        self = cls.__new__(cls)
        nn.Module.__init__(self)
        self.widths = (weights[0].shape[1], *(weight.shape[2] for weight in weights))
        self.weights = nn.ParameterList(nn.Parameter(w.detach().clone()) for w in weights)
        self.biases = nn.ParameterList(nn.Parameter(b.detach().clone()) for b in biases)
        return self

    def members(self, indices: Sequence[int]) -> Self:
        """A copy that holds only these members, in this order."""
        rows = torch.as_tensor(indices, dtype=torch.long)
        return type(self).from_layers(
            [weight[rows] for weight in self.weights], [bias[rows] for bias in self.biases]
        )


def batched_forward(weights: Sequence[Tensor], biases: Sequence[Tensor], x: Tensor) -> Tensor:
    """ReLU layers of stacked weights (M, I, O), biases (M, 1, O) on x (M, B, I) or (B, I)."""
    if x.ndim == 2:
        x = x.expand(len(weights[0]), *x.shape)
    if torch.is_grad_enabled() and x.device.type == "cpu":
        output: Tensor = _Chain.apply(x, *weights, *biases)  # pyright: ignore
        return output
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = torch.baddbmm(bias, x, weight)
        if layer < len(weights) - 1:
            x = torch.relu(x)
    return x


class _Chain(torch.autograd.Function):
    """The same with gradients by hand, one member after the other, for a CPU in training.

    A member's weights and activations stay in its core's cache from layer to layer, biases and
    ReLU are no passes of their own, and autograd is left with one node instead of a dozen.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *layers: Tensor) -> Tensor:
        depth = len(layers) // 2
        outputs = [x.new_empty(*x.shape[:2], weight.shape[2]) for weight in layers[:depth]]
        for h, *parts in zip(x, *outputs, *layers, strict=True):
            for layer, (out, weight, bias) in enumerate(
                zip(parts[:depth], parts[depth : 2 * depth], parts[2 * depth :], strict=True)
            ):
                torch.addmm(bias[0], h, _quick(weight), out=out)
                h = torch.relu_(out) if layer < depth - 1 else out
        ctx.save_for_backward(x, *outputs[:-1], *layers[:depth])
        return outputs[-1]

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor | None, ...]:
        depth = len(ctx.saved_tensors) // 2
        inputs, weights = ctx.saved_tensors[:depth], ctx.saved_tensors[depth:]
        of_weights = [torch.empty_like(weight) for weight in weights]
        of_biases = [weight.new_empty(len(weight), 1, weight.shape[2]) for weight in weights]
        of_x = torch.empty_like(inputs[0]) if ctx.needs_input_grad[0] else None
        for member, g in enumerate(grad_outputs[0]):
            for layer in reversed(range(depth)):
                h, weight = inputs[layer][member], weights[layer][member]
                _outer(h, g, of_weights[layer][member])
                torch.sum(g, 0, out=of_biases[layer][member, 0])
                if layer:
                    g = torch.ops.aten.threshold_backward(torch.mm(g, weight.t()), h, 0.0)
                elif of_x is not None:
                    torch.mm(g, weight.t(), out=of_x[member])
        return (of_x, *of_weights, *of_biases)


_NARROW = 8
"""Columns below which MKL is several times faster on the transpose."""


def _quick(weight: Tensor) -> Tensor:
    """`weight`, laid out as the matrix product likes it."""
    return weight.t().contiguous().t() if weight.shape[1] < _NARROW else weight


def _outer(h: Tensor, g: Tensor, out: Tensor) -> None:
    """hᵀ g into `out`."""
    if g.shape[1] < _NARROW:
        out.copy_(torch.mm(g.t(), h).t())
    else:
        torch.mm(h.t(), g, out=out)


def predict(network: BatchedMLP, x: FloatArray) -> Float32Array:
    """Outputs (M, N, O) of rows x (N, I); each row's depend on that row alone, to the bit."""
    return network.compiled()(np.ascontiguousarray(x, dtype=np.float32))
