from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toy_world import toy_trajectories
from tskd_ray.config.schema import DistillConfig, FitConfig
from tskd_ray.errors import DataError
from tskd_ray.models import fit as fit_module
from tskd_ray.models.policy import Policy
from tskd_ray.training.distill import checkpoint_steps, distill

SETTINGS = DistillConfig(
    seeds=2,
    hidden=(32, 32),
    fit=FitConfig(steps=300, batch_size=64, learning_rate=3e-3, ema_decay=0.0),
)
STATES = np.random.default_rng(0).normal(scale=0.3, size=(50, 2))


def test_students_clone_the_behaviour_of_their_own_dataset() -> None:
    data = {"firm": toy_trajectories(gain=1.0), "against": toy_trajectories(gain=-1.0)}
    students = distill(data, SETTINGS, 0)
    for name, gain in (("firm", 1.0), ("against", -1.0)):
        for policy in students[name].final:
            error = policy.act(STATES)[:, 0] - gain * (0.5 - STATES[:, 0])
            assert np.sqrt(np.square(error).mean()) < 0.4  # the data's own noise is 1
    assert students["firm"].final[0].details == {"dataset": "firm", "seed": 0, "steps": 300}


def test_a_student_does_not_depend_on_who_trains_beside_it() -> None:
    data = {"a": toy_trajectories(5), "b": toy_trajectories(20, gain=3.0)}
    together, alone = distill(data, SETTINGS, 0), distill({"b": data["b"]}, SETTINGS, 0)
    for one, other in zip(together["b"].final, alone["b"].final, strict=True):
        np.testing.assert_allclose(one.act(STATES), other.act(STATES), atol=1e-2)
    first, second = together["b"].final
    assert np.abs(first.act(STATES) - second.act(STATES)).max() > 1e-2  # seeds differ


def test_a_student_has_the_bounds_of_its_own_dataset() -> None:
    toy = replace(toy_trajectories(5), environment=None)
    data = {"a": toy, "b": replace(toy, actions=3 * toy.actions)}
    short = SETTINGS.model_copy(update={"fit": SETTINGS.fit.model_copy(update={"steps": 5})})
    for name, students in distill(data, short, 0).items():
        policy = students.final[0]
        assert (policy.low, policy.high) == (data[name].actions.min(), data[name].actions.max())


def test_a_checkpoint_is_what_a_shorter_training_ends_with() -> None:
    data = {"a": toy_trajectories(10)}
    students = distill(data, SETTINGS, 0, checkpoints=3)
    assert students["a"].steps == (100, 200, 300)
    short = SETTINGS.model_copy(update={"fit": SETTINGS.fit.model_copy(update={"steps": 100})})
    expected = distill(data, short, 0, checkpoints=1)["a"].final
    for kept, ended in zip(students["a"].policies[0], expected, strict=True):
        assert kept.act(STATES).tobytes() == ended.act(STATES).tobytes()
    assert students["a"].policies[-1] == students["a"].final


@given(st.integers(1, 1000), st.integers(1, 10))
def test_checkpoints_are_evenly_spaced_and_end_with_the_last_step(steps: int, n: int) -> None:
    marks = checkpoint_steps(steps, n)
    assert marks[-1] == steps
    assert marks[0] >= 1
    assert len(marks) == min(n, steps) or steps < 2 * n
    assert np.ptp(np.diff([0, *marks])) <= 1


def test_a_killed_training_resumes_to_the_same_bytes_checkpoints_included(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"a": toy_trajectories(10)}
    whole = distill(data, SETTINGS, 0, checkpoints=3)["a"]
    monkeypatch.setattr(fit_module, "SAVE_EVERY_SECONDS", 0.0)

    def killed(done: int, total: int, **metrics: float) -> None:
        if done >= 250:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(data, SETTINGS, 0, checkpoints=3, resume=tmp_path, progress=killed)
    resumed = distill(data, SETTINGS, 0, checkpoints=3, resume=tmp_path)["a"]
    for ours, theirs in zip(whole.policies, resumed.policies, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.act(STATES).tobytes() == other.act(STATES).tobytes()


def test_a_student_is_an_ordinary_policy(tmp_path: Path) -> None:
    short = SETTINGS.model_copy(update={"fit": SETTINGS.fit.model_copy(update={"steps": 5})})
    policy = distill({"a": toy_trajectories(5)}, short, 0)["a"].final[1]
    policy.save(tmp_path)
    assert torch.equal(Policy.load(tmp_path).network.weights[0], policy.network.weights[0])


def test_datasets_must_fit_each_other() -> None:
    toy = toy_trajectories(3)
    wide = replace(toy, actions=np.repeat(toy.actions, 2, axis=1), environment=None)
    with pytest.raises(DataError, match=r"same widths. Got .* \[\(2, 1\), \(2, 2\)\]"):
        distill({"a": toy, "b": wide}, SETTINGS, 0)
    with pytest.raises(DataError, match="at least one dataset"):
        distill({}, SETTINGS, 0)
