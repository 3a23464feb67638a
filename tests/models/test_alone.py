"""Members trained as one network come out as if each had been trained alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from toy_world import toy_trajectories
from tskd_ray.config.schema import DistillConfig, FitConfig
from tskd_ray.models import transition, value
from tskd_ray.models.forward_dynamics import ForwardDynamics
from tskd_ray.models.mlp import BatchedMLP
from tskd_ray.training.distill import distill

FIT = FitConfig(steps=80, batch_size=32, learning_rate=3e-3, ema_decay=0.9)
TOLERANCE = 1e-6
"""Of weights of size 0.1: a member's own sums are the same, whatever stands beside them."""


def _dynamics(members: int) -> BatchedMLP:
    return ForwardDynamics.fit(
        toy_trajectories(8), FIT, 0, members=members, best=members
    ).network


def _of(module: Any, model: Any) -> Callable[[int], BatchedMLP]:
    def fitted(members: int) -> BatchedMLP:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "MEMBERS", members)
            return model.fit(toy_trajectories(8), FIT, 0).network

    return fitted


def _student(members: int) -> BatchedMLP:
    """Of the last seed: with as many others as asked for, numbered below it."""
    settings = DistillConfig(seeds=members, first_seed=5 - members, fit=FIT)
    return distill({"a": toy_trajectories(8)}, settings, 0)["a"].final[-1].network


@pytest.mark.parametrize(
    ("fitted", "members"),
    [
        pytest.param(_dynamics, 3, id="forward dynamics"),
        pytest.param(_of(transition, transition.Transition), 3, id="transition"),
        pytest.param(_of(value, value.TwinValue), 2, id="twin values"),
        pytest.param(_student, 4, id="students"),
    ],
)
def test_a_member_has_the_weights_that_it_has_alone(
    fitted: Callable[[int], BatchedMLP], members: int
) -> None:
    together, alone = fitted(members), fitted(1)
    for many, one in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(many[:1], one, rtol=0, atol=TOLERANCE)
    if together.n_members > 1:
        assert not torch.equal(together.weights[0][0], together.weights[0][1])
