from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from toy_world import toy_trajectories
from tskd_ray.config.schema import FitConfig
from tskd_ray.errors import DataError
from tskd_ray.models.inverse_dynamics import InverseDynamics

SHORT = FitConfig(steps=400, batch_size=64, learning_rate=1e-3, ema_decay=0.95)


@pytest.fixture(scope="module")
def model() -> InverseDynamics:
    return InverseDynamics.fit(toy_trajectories(), SHORT, 0)


def test_it_finds_the_action_between_two_states(model: InverseDynamics) -> None:
    fresh = toy_trajectories(20, seed=9)
    s = fresh.observations[fresh.step_state]
    s2 = fresh.observations[fresh.step_state + 1]
    actions = model.predict(s, s2)
    assert actions.shape == fresh.actions.shape
    assert actions.dtype == np.float32
    assert np.sqrt(np.square(actions - fresh.actions).mean()) < 0.1
    assert model.metrics_["held_out_rmse"] < 0.05  # in units of half the range, which is 2


def test_actions_stay_within_the_bounds(model: InverseDynamics) -> None:
    far = np.array([[0.0, 0.0]] * 2), np.array([[5.0, 5.0], [-5.0, -5.0]])
    np.testing.assert_array_equal(model.predict(*far), [[2.0], [-2.0]])


def test_bounds_need_not_be_centred_or_of_any_width() -> None:
    toy = toy_trajectories(10)
    assert toy.environment is not None
    space = replace(toy.environment, action_low=(-2.0, 3.0), action_high=(4.0, 3.0))
    actions = np.concatenate([toy.actions, np.full_like(toy.actions, 3.0)], axis=1)
    model = InverseDynamics.fit(replace(toy, actions=actions, environment=space), SHORT, 0)
    predicted = model.predict(
        toy.observations[toy.step_state], toy.observations[toy.step_state + 1]
    )
    assert np.abs(predicted[:, 0] - toy.actions[:, 0]).mean() < 0.2
    np.testing.assert_array_equal(predicted[:, 1], 3.0)


def test_a_checkpoint_predicts_the_same_bytes(model: InverseDynamics, tmp_path: Path) -> None:
    model.save(tmp_path)
    again = InverseDynamics.load(tmp_path)
    s, s2 = np.random.default_rng(0).normal(size=(2, 30, 2))
    assert again.predict(s, s2).tobytes() == model.predict(s, s2).tobytes()
    assert again.metrics_["held_out_rmse"] == model.metrics_["held_out_rmse"]


def test_another_kind_of_checkpoint_is_refused(model: InverseDynamics, tmp_path: Path) -> None:
    from tskd_ray.models.transition import Transition

    model.save(tmp_path)
    with pytest.raises(DataError, match="Expected a checkpoint of kind 'transition'"):
        Transition.load(tmp_path)
