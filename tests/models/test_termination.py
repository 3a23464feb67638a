from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from toy_world import WALL, toy_trajectories
from tskd_ray.config.schema import FitConfig
from tskd_ray.models.mlp import BatchedMLP
from tskd_ray.models.termination import Termination

SHORT = FitConfig(steps=600, batch_size=128, learning_rate=2e-3, ema_decay=0.95)


@pytest.fixture(scope="module")
def model() -> Termination:
    return Termination.fit(toy_trajectories(200), SHORT, 0)


def test_it_ends_what_the_world_ends(model: Termination) -> None:
    fresh = toy_trajectories(200, seed=9)
    s = fresh.observations[fresh.step_state]
    s2 = fresh.observations[fresh.step_state + 1]
    ended = np.abs(s2[:, 0]) > WALL
    predicted = model.predict(s, s2) >= model.threshold
    assert 0.7 < predicted.sum() / ended.sum() < 1.4
    clear = np.abs(np.abs(s2[:, 0]) - WALL) > 0.1
    assert (predicted == ended)[clear].mean() > 0.999


def test_metrics_are_counted_on_held_out_episodes(model: Termination) -> None:
    metrics = model.metrics_
    assert metrics["precision"] > 0.8
    assert metrics["recall"] > 0.8
    assert metrics["false_positive_rate"] < 0.02
    assert metrics["early_false_positive_rate"] <= metrics["false_positive_rate"]
    assert 0 < metrics["held_out_terminations"] < metrics["terminations"]


def test_the_threshold_predicts_as_many_terminations_as_there_were(model: Termination) -> None:
    metrics = model.metrics_
    hits = metrics["recall"] * metrics["held_out_terminations"]
    predicted = hits + metrics["held_out_false_positives"]
    assert predicted == pytest.approx(metrics["held_out_terminations"])


def test_the_logit_is_corrected_for_the_balanced_batches(model: Termination) -> None:
    # A network that knows nothing answers with the share of terminations in a batch, a quarter;
    # the probability must then be their share in the data.
    assert model.network is not None
    layers = [torch.zeros_like(weight) for weight in model.network.weights]
    biases = [torch.zeros_like(bias) for bias in model.network.biases]
    biases[-1] += float(np.log(0.25 / 0.75))
    ignorant = replace(model, network=BatchedMLP.from_layers(layers, biases))
    toy = toy_trajectories(200)
    rate = toy.terminated.sum() / toy.n_steps
    assert rate < 0.2
    np.testing.assert_allclose(ignorant.predict(np.zeros((3, 2)), np.zeros((3, 2))), rate)


def test_without_terminations_nothing_ever_ends(tmp_path: Path) -> None:
    model = Termination.fit(toy_trajectories(10, wall=np.inf), SHORT, 0)
    model.save(tmp_path)
    for one in (model, Termination.load(tmp_path)):
        assert not one.exists
        assert (one.predict(np.zeros((3, 2)), np.full((3, 2), 50.0)) < one.threshold).all()


@pytest.mark.parametrize("n", [1, 2])
def test_a_single_or_a_couple_of_terminations_suffice(n: int) -> None:
    toy = toy_trajectories(60)
    ended, ongoing = np.flatnonzero(toy.terminated)[:n], np.flatnonzero(~toy.terminated)[:5]
    model = Termination.fit(toy.take(np.concatenate([ended, ongoing])), SHORT, 0)
    assert model.exists
    assert 0.0 < model.threshold < 1.0


def test_a_checkpoint_predicts_the_same_bytes(model: Termination, tmp_path: Path) -> None:
    model.save(tmp_path)
    again = Termination.load(tmp_path)
    s, s2 = np.random.default_rng(0).normal(size=(2, 30, 2))
    assert again.predict(s, s2).tobytes() == model.predict(s, s2).tobytes()
    assert again.threshold == model.threshold
