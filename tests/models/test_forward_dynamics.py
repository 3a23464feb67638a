from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from toy_world import toy_trajectories
from tskd_ray.config.schema import FitConfig
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.models.batches import hold_out_episodes, steps_of
from tskd_ray.models.forward_dynamics import (
    HELD_OUT,
    HIDDEN,
    LOG_STD_RANGE,
    ForwardDynamics,
    Gaussian,
    gaussian_log_density,
)
from tskd_ray.models.mlp import BatchedMLP

SHORT = FitConfig(steps=250, batch_size=64, learning_rate=1e-3, ema_decay=0.95)


@pytest.fixture(scope="module")
def model() -> ForwardDynamics:
    return ForwardDynamics.fit(toy_trajectories(), SHORT, 0, members=4, best=2)


def test_log_density_is_the_textbook_formula() -> None:
    rng = np.random.default_rng(0)
    mean, log_std, x = (
        rng.normal(size=(2, 5, 3)),
        rng.normal(size=(2, 5, 3)),
        rng.normal(size=(5, 3)),
    )
    density = gaussian_log_density(Gaussian(mean, log_std), x)
    for m in range(2):
        for n in range(5):
            product = 1.0
            for d in range(3):
                sd = np.exp(log_std[m, n, d])
                z = (x[n, d] - mean[m, n, d]) / sd
                product *= np.exp(-0.5 * z * z) / (sd * np.sqrt(2 * np.pi))
            assert density[m, n] == pytest.approx(np.log(product))


def test_it_learns_the_mean_and_the_spread_of_the_next_state(model: ForwardDynamics) -> None:
    fresh = toy_trajectories(200, seed=9)
    s = fresh.observations[fresh.step_state].astype(np.float64)
    s2 = fresh.observations[fresh.step_state + 1]
    gaussian = model.gaussian(s)
    assert gaussian.mean.dtype == gaussian.log_std.dtype == np.float64
    # The push is 0.5 − position plus unit noise, cut at ±2, and moves the speed by a tenth.
    expected = 0.9 * s[:, 1] + 0.1 * (0.5 - s[:, 0])
    assert np.abs(gaussian.mean[:, :, 1] - expected).mean() < 0.02
    assert np.exp(gaussian.log_std[:, :, 1]).mean() == pytest.approx(0.1, rel=0.2)
    assert model.log_density(s, s2).shape == (2, len(s))
    assert model.log_density(s, s2).mean() > model.log_density(s, s2 + 0.3).mean() + 1.0


def test_the_best_members_by_held_out_likelihood_are_kept(model: ForwardDynamics) -> None:
    nll = model.metrics_["held_out_nll"]
    assert len(nll) == 4
    assert set(model.metrics_["members_kept"]) == set(np.argsort(nll)[:2].tolist())
    assert model.network.n_members == 2


def test_density_is_in_raw_units() -> None:
    toy = toy_trajectories(30)
    large = replace(toy, observations=toy.observations * 1000.0)
    one, other = (
        ForwardDynamics.fit(data, SHORT, 0, members=1, best=1) for data in (toy, large)
    )
    s, s2 = toy.observations[toy.step_state], toy.observations[toy.step_state + 1]
    np.testing.assert_allclose(
        other.log_density(s * 1000.0, s2 * 1000.0),
        one.log_density(s, s2) - 2 * np.log(1000.0),
        atol=0.3,  # rounding differs, and training amplifies it; a forgotten log 1000 is 7
    )


def test_log_sd_is_bounded_however_predictable_a_dimension_is(model: ForwardDynamics) -> None:
    log_std = model.gaussian(np.full((3, 2), 1e3)).log_std - np.log(model.step.std_)
    assert (log_std >= LOG_STD_RANGE[0]).all()
    assert (log_std <= LOG_STD_RANGE[1] + 0.01).all()  # the lower bound lifts by e^-6.5


def test_a_checkpoint_predicts_the_same_bytes(model: ForwardDynamics, tmp_path: Path) -> None:
    model.save(tmp_path)
    again = ForwardDynamics.load(tmp_path)
    s, s2 = np.random.default_rng(0).normal(size=(2, 30, 2))
    assert again.log_density(s, s2).tobytes() == model.log_density(s, s2).tobytes()
    assert again.metrics_["members_kept"] == model.metrics_["members_kept"]


def with_goals() -> Trajectories:
    data = toy_trajectories()
    goals = np.full((len(data.observations), 2), [0.3, -0.7], dtype=data.observations.dtype)
    return replace(data, observations=np.hstack([data.observations, goals]))


def test_what_no_step_changes_takes_no_part_in_the_comparison_of_members() -> None:
    data = with_goals()
    model = ForwardDynamics.fit(data, FitConfig(steps=20), 0, members=3, best=3)
    s, s2 = data.observations[:50], data.observations[1:51]
    gaussian = model.gaussian(s)
    moving = Gaussian(gaussian.mean[..., :2], gaussian.log_std[..., :2])
    rest = model.log_density(s, s2) - gaussian_log_density(moving, s2[:, :2])
    np.testing.assert_allclose(rest, rest[0, 0], rtol=1e-12)  # one number, for all members
    elsewhere = s2 + np.array(
        [0, 0, 0.1, 0], np.float32
    )  # another goal is no plausible next state
    assert (model.log_density(s, elsewhere) < model.log_density(s, s2) - 50).all()


def test_members_are_trained_and_kept_by_what_moves_alone() -> None:
    data = with_goals()
    model = ForwardDynamics.fit(data, FitConfig(steps=20), 0, members=3, best=3)
    keys = [("forward_dynamics", member) for member in range(3)]
    untrained = BatchedMLP(4, 8, HIDDEN, seed=0, keys=keys)
    for trained, first in zip(
        (model.network.weights[-1], model.network.biases[-1]),
        (untrained.weights[-1], untrained.biases[-1]),
        strict=True,
    ):
        learned = (trained - first).abs().amax(dim=(0, 1)) > 1e-5
        # means of position, speed and goals, then their spreads
        assert learned.tolist() == [True, True, False, False] * 2
    _, held = hold_out_episodes(data, HELD_OUT, seed=0, key="forward_dynamics")
    rows = data.step_state[steps_of(data, held)]
    mean, log_std = model.gaussian(data.observations[rows])
    z = (data.observations[rows + 1] - mean) / np.exp(log_std)
    nats = 0.5 * z**2 + log_std - np.log(model.step.std_.clip(1e-9)) + 0.5 * np.log(2 * np.pi)
    by_hand = nats[..., :2].sum(axis=-1).mean(axis=1)
    np.testing.assert_allclose(model.metrics_["held_out_nll"], by_hand, rtol=1e-4)
