from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from toy_world import toy_step, toy_trajectories
from tskd_ray.config.schema import FitConfig
from tskd_ray.models.transition import Transition

SHORT = FitConfig(steps=500, batch_size=64, learning_rate=1e-3, ema_decay=0.95)


@pytest.fixture(scope="module")
def model() -> Transition:
    return Transition.fit(toy_trajectories(), SHORT, 0)


def test_it_predicts_the_next_state_and_the_reward(model: Transition) -> None:
    rng = np.random.default_rng(3)
    s, a = rng.normal(scale=0.3, size=(200, 2)), rng.uniform(-2, 2, size=(200, 1))
    after, reward = toy_step(s, a)
    step = model.predict(s, a)
    assert np.abs(step.next_states - after).mean() < 0.02
    assert np.abs(step.rewards - reward).mean() < 0.02
    assert model.metrics_["held_out_step_error_median"] < 0.1
    assert abs(model.metrics_["held_out_reward_bias"]) < 0.02


def test_members_disagree_where_there_are_no_data(model: Transition) -> None:
    near = model.predict(np.zeros((50, 2)), np.zeros((50, 1))).disagreement
    far = model.predict(np.full((50, 2), 20.0), np.full((50, 1), 2.0)).disagreement
    assert near.shape == (50,)
    assert far.mean() > 10 * near.mean()


def test_disagreement_is_the_spread_of_the_members_in_sd_of_a_true_step(
    model: Transition,
) -> None:
    s, a = np.random.default_rng(1).normal(size=(4, 2)), np.zeros((4, 1))
    members = []
    for member in range(model.network.n_members):
        one = Transition(model.network.members([member]), model.inputs, model.outputs)
        members.append(one.predict(s, a).next_states)
    expected = (np.std(members, axis=0) / model.outputs.std_[:2]).mean(axis=1)
    np.testing.assert_allclose(model.predict(s, a).disagreement, expected, rtol=1e-4)


def test_a_checkpoint_predicts_the_same_bytes(model: Transition, tmp_path: Path) -> None:
    model.save(tmp_path)
    again = Transition.load(tmp_path)
    s, a = np.random.default_rng(0).normal(size=(30, 2)), np.zeros((30, 1))
    for ours, theirs in zip(model.predict(s, a), again.predict(s, a), strict=True):
        assert ours.tobytes() == theirs.tobytes()


def test_what_no_step_changes_stays_and_has_no_errors() -> None:
    data = toy_trajectories()
    goals = np.full((len(data.observations), 2), [0.3, -0.7], dtype=data.observations.dtype)
    with_goals = replace(data, observations=np.hstack([data.observations, goals]))
    trained = Transition.fit(with_goals, FitConfig(steps=30), 0)
    s = with_goals.observations[:50] + np.array(
        [0, 0, 1, 1], np.float32
    )  # also where no goal was
    step = trained.predict(s, np.zeros((50, 1)))
    assert np.array_equal(step.next_states[:, 2:], s[:, 2:])
    members = [
        Transition(trained.network.members([member]), trained.inputs, trained.outputs)
        for member in range(trained.network.n_members)
    ]
    moved = [one.predict(s, np.zeros((50, 1))).next_states[:, :2] for one in members]
    expected = (np.std(moved, axis=0) / trained.outputs.std_[:2]).mean(axis=1)
    np.testing.assert_allclose(step.disagreement, expected, rtol=1e-4)
    assert 0 < trained.metrics_["held_out_step_error_median"] < 10
