from __future__ import annotations

import pytest
import torch

from tskd_ray.models.mlp import BatchedMLP

KEYS = [("net", number) for number in range(4)]


def test_a_batched_network_is_its_members_one_by_one() -> None:
    network = BatchedMLP(3, 2, (8, 5), seed=1, keys=KEYS)
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    together = network(x)
    for member in range(4):
        layers: list[torch.nn.Module] = []
        for weight, bias in zip(network.weights, network.biases, strict=True):
            linear = torch.nn.Linear(*weight.shape[1:])
            linear.weight.data, linear.bias.data = weight[member].T, bias[member, 0]
            layers += [linear, torch.nn.ReLU()]
        alone = torch.nn.Sequential(*layers[:-1])(x)
        torch.testing.assert_close(together[member], alone)


@pytest.mark.parametrize("widths", [(5, 16, 12, 3), (4, 7), (3, 9, 11)])
def test_gradients_by_hand_are_those_of_autograd(widths: tuple[int, ...]) -> None:
    network = BatchedMLP(widths[0], widths[-1], widths[1:-1], seed=1, keys=KEYS)
    rows = torch.randn(4, 10, widths[0] + 1, generator=torch.Generator().manual_seed(0))
    x = rows[..., 1:].requires_grad_()  # strided, as a slice of a table's rows is
    weight = torch.randn(4, 10, widths[-1], generator=torch.Generator().manual_seed(1))

    def plain() -> torch.Tensor:
        hidden = x
        for layer, (w, b) in enumerate(zip(network.weights, network.biases, strict=True)):
            hidden = torch.baddbmm(b, torch.relu(hidden) if layer else hidden, w)
        return hidden

    wanted = [x, *network.parameters()]
    ours, theirs = (
        torch.autograd.grad((outputs.sin() * weight).sum(), wanted)
        for outputs in (network(x), plain())
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(network(x), plain(), rtol=1e-5, atol=1e-6)


def test_each_member_may_see_its_own_batch() -> None:
    network = BatchedMLP(3, 2, (8,), seed=1, keys=KEYS)
    x = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0))
    for member in range(4):
        torch.testing.assert_close(network(x)[member], network(x[member])[member])


def test_first_weights_depend_on_the_members_own_key_alone() -> None:
    together = BatchedMLP(3, 2, (8,), seed=1, keys=KEYS)
    alone = BatchedMLP(3, 2, (8,), seed=1, keys=KEYS[2:3])
    for many, one in zip(together.parameters(), alone.parameters(), strict=True):
        assert torch.equal(many[2:3], one)
        assert not torch.equal(many[1:2], one)
        assert float(many.detach().abs().max()) <= 3**-0.5


def test_tensors_bring_the_network_back_and_members_are_copies() -> None:
    network = BatchedMLP(3, 2, (8, 8), seed=1, keys=KEYS)
    again = BatchedMLP.from_tensors(network.tensors("a."), "a.")
    assert again.widths == network.widths == (3, 8, 8, 2)
    picked = network.members([3, 1])
    x = torch.ones(1, 3)
    assert torch.equal(again(x), network(x))
    torch.testing.assert_close(picked(x), network(x)[[3, 1]])
    before = picked(x).detach().clone()
    with torch.no_grad():
        network.weights[0].zero_()
    assert torch.equal(picked(x), before)
