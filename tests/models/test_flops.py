"""Operation counts against counts by hand."""

from __future__ import annotations

import torch
from torch import nn

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
    assert forward_flops(network, (4, 7, 3)) == 4 * 2 * 7 * (3 * 5 + 5 * 2)


def test_the_unet_grows_with_its_batch_and_is_left_as_it_was() -> None:
    network = TemporalUNet(4, 4, UNetConfig(base_width=16, multipliers=(1, 2)))
    before = [p.detach().clone() for p in network.parameters()]
    shapes = [((n, 12, 4), (n,), (n,), (n,)) for n in (1, 8)]
    one, eight = (forward_flops(network, *shape) for shape in shapes)
    assert eight == 8 * one > 0
    assert 2.5 < training_flops(network, *shapes[0]) / one < 3.5
    for old, new in zip(before, network.parameters(), strict=True):
        assert torch.equal(old, new)
        assert new.grad is None
