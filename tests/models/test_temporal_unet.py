"""The temporal U-Net: published size, any horizon, and how the condition is dropped."""

from __future__ import annotations

import pytest
import torch

from tskd_ray.config.schema import UNetConfig
from tskd_ray.models.temporal_unet import TemporalUNet

TINY = UNetConfig(base_width=8, multipliers=(1, 2, 4), embedding_width=8)


@pytest.mark.parametrize(("channels", "parameters"), [(11, 59_732_491), (17, 59_737_873)])
def test_paper_preset_has_the_published_number_of_parameters(
    channels: int, parameters: int
) -> None:
    with torch.device("meta"):
        network = TemporalUNet(channels, channels, UNetConfig())
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("horizon", [1, 2, 3, 57, 76, 100, 101, 120])
def test_every_horizon_works_and_keeps_its_length(horizon: int) -> None:
    network = TemporalUNet(5, 3, TINY)
    x = torch.randn(2, horizon, 5)
    out = network(x, torch.tensor([0, 9]), torch.ones(2), torch.ones(2))
    assert out.shape == (2, horizon, 3)
    assert torch.isfinite(out).all()


def test_dropping_the_condition_zeroes_its_embedding_not_its_value() -> None:
    torch.manual_seed(0)
    network = TemporalUNet(3, 3, TINY)
    x, step = torch.randn(2, 8, 3), torch.tensor([1, 2])

    def call(condition: float, keep: float) -> torch.Tensor:
        return network(x, step, torch.full((2,), condition), torch.full((2,), keep))

    assert torch.equal(call(0.3, 0.0), call(0.9, 0.0))
    assert not torch.allclose(call(0.3, 1.0), call(0.9, 1.0))
    assert not torch.allclose(call(0.0, 1.0), call(0.0, 0.0))
