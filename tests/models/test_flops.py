"""Operation counts against counts by hand and by torch, of each operation as it comes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tskd_ray.config.schema import UNetConfig
from tskd_ray.models.flops import forward_flops, training_flops
from tskd_ray.models.mlp import BatchedMLP
from tskd_ray.models.temporal_unet import TemporalUNet


def test_a_linear_network_counts_two_per_weight_and_row_and_thrice_that_in_training() -> None:
    network = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    forward = 2 * 7 * (3 * 5 + 5 * 2)
    assert forward_flops(network, (7, 3)) == forward
    # Nobody asks for the gradient of the inputs: one product fewer in the first layer.
    assert training_flops(network, (7, 3)) == 3 * forward - 2 * 7 * 3 * 5


def test_batched_members_count_each() -> None:
    network = BatchedMLP(3, 2, (5,), seed=0, keys=[("a", n) for n in range(4)])
    forward = 4 * 2 * 7 * (3 * 5 + 5 * 2)
    assert forward_flops(network, (4, 7, 3)) == forward
    assert training_flops(network, (4, 7, 3)) == 3 * forward - 4 * 2 * 7 * 3 * 5


@pytest.mark.parametrize("multipliers", [(1,), (1, 2), (1, 2, 4)])
def test_the_unet_counts_what_torch_counts_and_is_left_as_it_was(
    multipliers: tuple[int, ...],
) -> None:
    network = TemporalUNet(5, 4, UNetConfig(base_width=16, multipliers=multipliers))
    before = [p.detach().clone() for p in network.parameters()]
    shapes = [((n, 14, 5), (n,), (n,), (n,)) for n in (1, 3)]
    for shape in shapes:
        assert forward_flops(network, *shape) == counted(network, shape, backward=False)
        assert training_flops(network, *shape) == counted(network, shape, backward=True)
    one, three = (training_flops(network, *shape) for shape in shapes)
    assert three == 3 * one > 0
    for old, new in zip(before, network.parameters(), strict=True):
        assert torch.equal(old, new)
        assert new.grad is None


def counted(network: nn.Module, shapes: tuple[tuple[int, ...], ...], *, backward: bool) -> int:
    inputs = [torch.zeros(shape) for shape in shapes]
    with FlopCounterMode(display=False) as counter:
        output = network(*inputs)
        if backward:
            output.sum().backward()
    network.zero_grad()
    return counter.get_total_flops()
