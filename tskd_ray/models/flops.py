"""Floating-point operations of a network's passes, from the shapes of its layers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tskd_ray.models.mlp import BatchedMLP


def forward_flops(module: nn.Module, *shapes: tuple[int, ...]) -> int:
    """Of one forward pass; a multiply-add counts as two, elementwise work not at all.

    Args:
        module: Of linear layers, convolutions and `BatchedMLP`; its weights stay as they are.
        shapes: Of its inputs, float tensors in the order of `forward`.
    """
    return sum(products for products, _ in _layers(module, shapes))


def training_flops(module: nn.Module, *shapes: tuple[int, ...]) -> int:
    """Of a forward and a backward pass to all weights, but not to the inputs."""
    # Each product has one for the weights' gradient, and one for what lies before them, if any.
    return sum((2 + before) * products for products, before in _layers(module, shapes))


def _layers(module: nn.Module, shapes: tuple[tuple[int, ...], ...]) -> list[tuple[int, bool]]:
    """Operations of each layer in a pass over zeros, and whether training goes on before it.

    `torch.utils.flop_counter` would load torch's compiler, for a second of each process.
    """
    found: list[tuple[int, bool]] = []

    def note(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        (x,) = inputs
        if isinstance(layer, BatchedMLP):
            rows = output.shape[:2].numel()
            for place, (before, after) in enumerate(pairwise(layer.widths)):
                found.append((2 * rows * before * after, x.requires_grad or place > 0))
        else:
            # a weight meets each position of what comes out, or, if transposed, of what goes in
            positions = x if isinstance(layer, nn.ConvTranspose1d) else output
            channels = -1 if isinstance(layer, nn.Linear) else 1
            each = positions.numel() // positions.shape[channels]
            found.append((2 * layer.weight.numel() * each, x.requires_grad))

    known = (nn.Linear, nn.Conv1d, nn.ConvTranspose1d, BatchedMLP)
    hooks = [
        layer.register_forward_hook(note)
        for layer in module.modules()
        if isinstance(layer, known)
    ]
    device = next(module.parameters()).device
    try:
        with torch.enable_grad():
            module(*(torch.zeros(shape, device=device) for shape in shapes))
    finally:
        for hook in hooks:
            hook.remove()
    return found
