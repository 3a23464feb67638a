"""The training loop: exact resume after an interruption, averaging, schedules."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tskd_ray.config.schema import FitConfig
from tskd_ray.models import fit as fit_module
from tskd_ray.models.fit import fit, learning_rate
from tskd_ray.seeding import torch_rng

SETTINGS = FitConfig(
    steps=230, batch_size=4, learning_rate=1e-2, ema_decay=0.9, schedule="cosine"
)


class Killed(Exception):
    """Stands for kill -9 between two steps."""


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


def loss_of(network: nn.Module, die_at: int | None = None):
    def loss(step: int) -> Tensor:
        if step == die_at:
            raise Killed
        x = torch.randn(4, 3, generator=torch_rng(0, "fit-test", step))
        return (network(x) - x.sum(dim=1, keepdim=True)).square().mean()

    return loss


def weights(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.parametrize("die_at", [1, 57, 100, 229])
def test_a_killed_training_ends_with_the_same_bytes(
    die_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_module, "SAVE_EVERY_SECONDS", 0.0)
    undisturbed = module()
    curve = fit(undisturbed, loss_of(undisturbed), SETTINGS)
    killed = module()
    with pytest.raises(Killed):
        fit(killed, loss_of(killed, die_at), SETTINGS, resume=tmp_path)
    again = module()
    resumed = fit(again, loss_of(again), SETTINGS, resume=tmp_path)
    assert torch.equal(weights(again), weights(undisturbed))
    assert resumed == curve


def test_a_state_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, sync = set[int](), os.fsync
    replacing = Path.replace

    def note(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def replace(path: Path, target: Path) -> Path:
        assert path.stat().st_ino in synced
        return replacing(path, target)

    monkeypatch.setattr(fit_module, "SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Path, "replace", replace)
    network = module()
    fit(network, loss_of(network), SETTINGS, resume=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "another model's"])
def test_a_damaged_state_counts_as_none(
    damage: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(fit_module, "SAVE_EVERY_SECONDS", 0.0)
    undisturbed = module()
    curve = fit(undisturbed, loss_of(undisturbed), SETTINGS, resume=tmp_path)
    path = tmp_path / "state.safetensors"
    whole = path.read_bytes()
    if damage == "another model's":
        other = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 1))
        fit(other, loss_of(other), SETTINGS, resume=tmp_path / "other")
        (tmp_path / "other" / path.name).replace(path)
    else:
        path.write_bytes({"empty": b"", "cut": whole[:-9], "noise": b"\x07" * 99}[damage])
    again = module()
    assert fit(again, loss_of(again), SETTINGS, resume=tmp_path) == curve
    assert torch.equal(weights(again), weights(undisturbed))
    assert "training begins anew" in caplog.text


def test_the_average_is_left_in_the_module() -> None:
    network = module()
    kept: list[Tensor] = []
    settings = FitConfig(steps=12, learning_rate=0.05, ema_decay=0.7)
    inner = loss_of(network)

    def loss(step: int) -> Tensor:
        kept.append(weights(network))
        return inner(step)

    fit(network, loss, settings)
    # Replay the weights with a plain Adam and average them by hand.
    plain = module()
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.05)
    average = weights(plain)
    for step in range(12):
        optimizer.zero_grad()
        loss_of(plain)(step).backward()
        optimizer.step()
        average = 0.7 * average + 0.3 * weights(plain)
    torch.testing.assert_close(weights(network), average)
    torch.testing.assert_close(kept[0], weights(module()))


def test_cosine_falls_from_the_full_rate_towards_zero() -> None:
    settings = FitConfig(steps=100, learning_rate=2.0, schedule="cosine")
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[0] == 2.0
    assert rates[50] == pytest.approx(1.0)
    assert 0 < rates[99] < 0.01
    assert learning_rate(FitConfig(learning_rate=2.0), 77) == 2.0


@pytest.mark.parametrize("die_at", [None, 7])
def test_what_a_step_s_loss_does_not_touch_stays_as_it_is(
    die_at: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_module, "SAVE_EVERY_SECONDS", 0.0)
    settings = FitConfig(steps=10, learning_rate=0.05, ema_decay=0.0)

    def loss_at(network: Any, step: int) -> Tensor:
        always, seldom = network[0].weight.square().sum(), network[2].weight.square().sum()
        return always + seldom if step % 2 else always

    def trained(die: int | None) -> nn.Module:
        network = module()

        def loss(step: int) -> Tensor:
            if step == die:
                raise Killed
            return loss_at(network, step)

        fit(network, loss, settings, resume=tmp_path)
        return network

    if die_at is not None:
        with pytest.raises(Killed):
            trained(die_at)
    found, plain = trained(None), module()
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.05)
    for step in range(10):
        optimizer.zero_grad()  # to None, which Adam passes over
        loss_at(plain, step).backward()
        optimizer.step()
    torch.testing.assert_close(weights(found), weights(plain))
