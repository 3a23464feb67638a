"""Decision Transformers, with TorchRL and Transformers only.

pip install --no-deps -r tests/requirements-students.lock
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toy_world import toy_trajectories
from tskd_ray.config.schema import DistillConfig, FitConfig, TransformerConfig
from tskd_ray.errors import DataError
from tskd_ray.models import fit as fit_module
from tskd_ray.models.batches import action_bounds
from tskd_ray.models.policy import Policy
from tskd_ray.models.sequence_policy import SequencePolicy
from tskd_ray.models.standardizer import Standardizer
from tskd_ray.models.students import load_student
from tskd_ray.training.cloning import Lessons
from tskd_ray.training.distill import distill
from tskd_ray.training.sequences import SequenceLearner, Windows

pytestmark = [
    pytest.mark.skipif(
        find_spec("torchrl") is None or find_spec("transformers") is None,
        reason="without torchrl or transformers",
    ),
    # TorchRL names the start method of processes, too late where a cluster has been started.
    pytest.mark.filterwarnings("ignore:failed to set start method to spawn:UserWarning"),
]
SMALL = TransformerConfig(context=4, width=16, layers=1, dropout=0.1)


def settings(**options: Any) -> DistillConfig:
    fit = FitConfig(steps=12, batch_size=8, learning_rate=3e-3, ema_decay=0.0)
    small: dict[str, Any] = {"method": "dt", "dt": SMALL, "seeds": 2, "fit": fit}
    return DistillConfig(**small | options)


def lessons() -> Lessons:
    toy = toy_trajectories(6, limit=9)
    return Lessons(toy, Standardizer.fit(toy.observations), *action_bounds(toy))


def actions_of(policy: SequencePolicy) -> Any:
    memory = policy.begin(2)
    states = np.random.default_rng(0).normal(size=(7, 2, 2))
    return [memory.act(s, np.full(2, 0.5), np.arange(2)).tolist() for s in states]


def test_windows_end_with_their_step_and_are_nothing_before_the_episode() -> None:
    lesson = lessons()
    windows = Windows(lesson, 4)
    toy = lesson.trajectories
    for step in range(toy.n_steps):
        columns, real = windows(np.array([step]))
        episode = toy.episode(int(toy.step_episode[step]))
        at = step - int(toy.offsets[toy.step_episode[step]])
        for back in range(4):
            then = at - 3 + back
            assert bool(real[0, back]) == (then >= 0)
            found = {name: column[0, back].numpy() for name, column in columns.items()}
            if then < 0:
                assert not any(value.any() for value in found.values())
                continue
            state = lesson.observation.normalize(episode["observations"][then : then + 1])[0]
            np.testing.assert_array_equal(found["observation"], state)
            np.testing.assert_allclose(found["action"], episode["actions"][then] / 2)
            to_go = episode["rewards"][then:].sum() / windows.scale
            np.testing.assert_allclose(found["return_to_go"], to_go, rtol=1e-5)


def test_the_loss_is_the_squared_error_of_real_steps_and_the_future_is_not_seen() -> None:
    calm = settings(dt=SMALL.model_copy(update={"dropout": 0.0}), seeds=1)
    learner = SequenceLearner([lessons()], calm, 0, [("student", "a", 0)])
    (network,), (windows,) = learner.networks, learner._windows
    columns, real = windows(learner._rows(0).numpy()[0])
    planned = network(*columns.values())
    errors = (planned - columns["action"])[real].square()
    torch.testing.assert_close(learner.loss(0), errors.mean())
    assert not real.all()
    later = {name: column.clone() for name, column in columns.items()}
    later["action"][:, 2:] += 1  # the third action and what follows it
    later["observation"][:, 3:] += 1
    torch.testing.assert_close(network(*later.values())[:, :3], planned[:, :3])
    assert (network(*later.values())[:, 3] - planned[:, 3]).abs().max() > 1e-3


def test_a_student_remembers_what_training_would_have_shown_it() -> None:
    policy = distill({"a": toy_trajectories(6)}, settings(), 0)["a"].final[1]
    assert policy.target == toy_trajectories(6).returns.max()
    states = np.random.default_rng(1).normal(size=(6, 2))
    memory, taken = policy.begin(3), np.zeros((6, 1), np.float32)
    for step, state in enumerate(states):
        reward = np.full(1, 0.25 if step else 0.0)
        found = memory.act(state[None], reward, np.array([1]))[0]
        window = slice(max(0, step - 3), step + 1)
        missing = 4 - len(states[window])
        asked = (policy.target - 0.25 * np.arange(6)[window])[:, None] / policy.scale
        rows = [
            np.pad(part, ((missing, 0), (0, 0))).astype(np.float32)
            for part in (policy.observation.normalize(states[window]), taken[window], asked)
        ]
        with torch.no_grad():
            expected = policy.network(*(torch.from_numpy(row[None]) for row in rows))[0, -1]
        taken[step] = expected.numpy()
        np.testing.assert_allclose(found, 2 * expected.numpy(), atol=1e-5)


def test_a_student_is_kept_and_is_no_mlp(tmp_path: Path) -> None:
    chosen = settings(dt=SMALL.model_copy(update={"target_return": 77.0}))
    policy = distill({"a": toy_trajectories(6)}, chosen, 0)["a"].final[0]
    assert policy.target == 77.0
    policy.save(tmp_path)
    again = load_student(tmp_path)
    assert isinstance(again, SequencePolicy)
    assert actions_of(again) == actions_of(policy)
    with pytest.raises(DataError, match="holds kind 'sequence-policy'"):
        Policy.load(tmp_path)


def test_a_student_is_the_same_killed_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"a": toy_trajectories(6)}
    whole = distill(data, settings(), 0, checkpoints=2)["a"]
    monkeypatch.setattr(fit_module, "SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(fit_module, "REPORT_EVERY_STEPS", 1)

    def killed(done: int, total: int, **metrics: float) -> None:
        if done >= 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(data, settings(), 0, checkpoints=2, resume=tmp_path, progress=killed)
    torch.manual_seed(7)
    resumed = distill(data, settings(), 0, checkpoints=2, resume=tmp_path)["a"]
    for ours, theirs in zip(whole.policies, resumed.policies, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert actions_of(one) == actions_of(other)
    assert actions_of(whole.final[0]) != actions_of(whole.final[1])
