"""Floating-point operations of a network's passes, counted without computing anything."""

from __future__ import annotations

import copy

import torch
from torch import nn


def forward_flops(module: nn.Module, *shapes: tuple[int, ...]) -> int:
    """Of one forward pass; a multiply-add counts as two, elementwise work not at all.

    Args:
        module: Any module; its weights stay as they are.
        shapes: Of its inputs, float tensors in the order of `forward`.
    """
    return _count(module, shapes, backward=False)


def training_flops(module: nn.Module, *shapes: tuple[int, ...]) -> int:
    """Of a forward and a backward pass to all weights, but not to the inputs."""
    return _count(module, shapes, backward=True)


def _count(module: nn.Module, shapes: tuple[tuple[int, ...], ...], *, backward: bool) -> int:
    # Here, since it loads torch's compiler, a second that only those who count shall pay.
    from torch.utils.flop_counter import FlopCounterMode

    # On the meta device tensors have shapes and no numbers.
    shadow = copy.deepcopy(module).to("meta")
    inputs = [torch.empty(shape, device="meta") for shape in shapes]
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        output = shadow(*inputs)
        if backward:
            output.sum().backward()
    return counter.get_total_flops()
