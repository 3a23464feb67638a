"""Number formats and compilation of networks against the same in plain float32."""

from __future__ import annotations

import pytest
import torch

from tskd_ray.config.schema import ComputeConfig, UNetConfig
from tskd_ray.models.arithmetic import Arithmetic
from tskd_ray.models.temporal_unet import TemporalUNet

BFLOAT16_TOLERANCE = 0.02
"""Root mean square error, in standard deviations of the output: eight bits of mantissa, through
some thirty layers."""


def error(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return ((ours - exact).square().mean().sqrt() / exact.std()).item()


def network_and_inputs() -> tuple[TemporalUNet, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    network = TemporalUNet(4, 4, UNetConfig(base_width=16, multipliers=(1, 2)))
    # The last layer starts near zero, where any two formats agree.
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    x, i, y, keep = torch.randn(8, 12, 4), torch.arange(8), torch.rand(8), torch.ones(8)
    return network, (x, i, y, keep)


def test_float32_is_the_network_as_it_is() -> None:
    network, inputs = network_and_inputs()
    assert Arithmetic.of(ComputeConfig()) == Arithmetic()
    assert torch.equal(Arithmetic().forward(network)(*inputs), network(*inputs))


def test_bfloat16_is_near_float32_and_learns_float32_weights() -> None:
    network, inputs = network_and_inputs()
    exact = network(*inputs)
    arithmetic = Arithmetic.of(ComputeConfig(precision="bfloat16"))
    rounded = arithmetic.forward(network)(*inputs)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert error(rounded, exact) < BFLOAT16_TOLERANCE
    rounded.square().mean().backward()
    assert {p.grad.dtype for p in network.parameters() if p.grad is not None} == {torch.float32}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_network_computes_the_same() -> None:
    network, inputs = network_and_inputs()
    compiled = Arithmetic.of(ComputeConfig(compile=True)).forward(network)
    torch.testing.assert_close(compiled(*inputs), network(*inputs), rtol=1e-4, atol=1e-5)
    both = Arithmetic(precision="bfloat16", compile=True).forward(network)
    assert error(both(*inputs), network(*inputs)) < BFLOAT16_TOLERANCE
