"""Advantage-weighted regression, against its definition, step by step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.small_policy import ABOUT
from toy_world import SPACE, toy_trajectories
from tskd_ray.config.schema import AWRConfig, DistillConfig, FitConfig
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.export.onnx_graph import float_onnx
from tskd_ray.export.runtimes import onnx_policy
from tskd_ray.models import fit as fit_module
from tskd_ray.models.batches import BatchSampler, action_bounds
from tskd_ray.models.cross_fit_value import CrossFitValue
from tskd_ray.models.standardizer import Standardizer
from tskd_ray.training.cloning import Lessons
from tskd_ray.training.distill import Students, distill
from tskd_ray.training.weighted_cloning import WeightedCloning, advantage_weights, best_steps

STATES = np.random.default_rng(0).normal(scale=0.3, size=(50, 2))
VALUE = FitConfig(steps=6, batch_size=16, learning_rate=3e-3, schedule="cosine", ema_decay=0.0)


def settings(method: str = "awr", **options: Any) -> DistillConfig:
    fit = FitConfig(steps=30, batch_size=16, learning_rate=3e-3, ema_decay=0.0)
    small: dict[str, Any] = {"seeds": 2, "hidden": (16, 16), "fit": fit}
    awr = AWRConfig(**{"discount": 0.9, "steps": 4, "fit": VALUE} | options.pop("awr", {}))
    return DistillConfig(method=method, awr=awr, **small | options)


def lessons(trajectories: Trajectories) -> Lessons:
    observation = Standardizer.fit(trajectories.observations)
    return Lessons(trajectories, observation, *action_bounds(trajectories))


def same_bytes(students: Students, others: Students) -> bool:
    return all(
        one.act(STATES).tobytes() == other.act(STATES).tobytes()
        for ours, theirs in zip(students.policies, others.policies, strict=True)
        for one, other in zip(ours, theirs, strict=True)
    )


def plain_advantages(data: Trajectories, chosen: AWRConfig, seed: int) -> list[float]:
    """By the definition, one step after the other."""
    model = CrossFitValue.fit(data, chosen.fit, seed, discount=chosen.discount)
    values, advantages = model.of_recorded(data), list[float]()
    for number in range(data.n_episodes):
        rewards = data.episode(number)["rewards"]
        begin = data.offsets[number] + number  # each earlier episode has one state more
        for t in range(len(rewards)):
            end = min(t + chosen.steps, len(rewards))
            gained = sum(chosen.discount ** (k - t) * float(rewards[k]) for k in range(t, end))
            if end < len(rewards) or not data.terminated[number]:
                gained += chosen.discount ** (end - t) * float(values[begin + end])
            advantages.append(gained - float(values[begin + t]))
    return advantages


def plain_weights(data: Trajectories, chosen: AWRConfig, seed: int) -> list[float]:
    """Of the steps that are cloned; 0 for all others."""
    everyone = plain_advantages(data, chosen, seed)
    kept = round(chosen.share * len(everyone))
    least = sorted(everyone)[-kept]
    advantages = [a for a in everyone if a >= least]
    mean = sum(advantages) / len(advantages)
    std = math.sqrt(sum((a - mean) ** 2 for a in advantages) / len(advantages))
    raw = [math.exp(min(chosen.scale * a / std, 4.0)) for a in advantages]
    weights = iter([kept * one / sum(raw) for one in raw])
    return [next(weights) if a >= least else 0.0 for a in everyone]


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_the_loss_is_the_weighted_mean_squared_error(share: float) -> None:
    chosen = settings(awr={"scale": 4.0, "share": share})
    datasets = {"a": toy_trajectories(6, limit=12), "b": toy_trajectories(9, seed=1)}
    keys = [("student", name, number) for name in datasets for number in (0, 1)]
    learner = WeightedCloning([lessons(one) for one in datasets.values()], chosen, 5, keys)
    weights = {name: plain_weights(data, chosen.awr, 5) for name, data in datasets.items()}
    assert weights["b"].count(max(weights["b"])) > 1, "some steps are at the bound"
    assert share < 1 or max(weights["b"]) > 100 * min(weights["b"])
    for step in (0, 7):
        expected = 0.0
        for member, key in enumerate(keys):
            data, counts = datasets[key[1]], weights[key[1]]
            taught = [row for row, count in enumerate(counts) if count > 0]
            sampler = BatchSampler.shared(len(taught), 16, seed=5, keys=[key])
            rows = [taught[number] for number in sampler(step)[0].tolist()]
            policy = learner.policy(learner.weights(), member, {})
            actions = policy.act(data.observations[data.step_state[rows]])
            for row, action in zip(rows, actions, strict=True):  # which are within ±2
                errors = [
                    (x - y) ** 2 / 4 for x, y in zip(action, data.actions[row], strict=True)
                ]
                expected += counts[row] * sum(errors) / len(errors) / 16
        assert float(learner.loss(step).detach()) == pytest.approx(expected, rel=1e-4)


def test_without_weights_it_is_plain_cloning_to_the_last_bit() -> None:
    data = {"a": toy_trajectories(8), "b": toy_trajectories(5, gain=-1.0)}
    plain = distill(data, settings("bc"), 3, checkpoints=2)
    flat = distill(data, settings(awr={"scale": 0.0}), 3, checkpoints=2)
    weighted = distill(data, settings(), 3, checkpoints=2)
    for name in data:
        assert same_bytes(flat[name], plain[name])
        assert not same_bytes(weighted[name], plain[name])


def test_a_student_is_the_same_killed_or_not_and_in_any_company(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = toy_trajectories(10)
    whole = distill({"a": data}, settings(), 0, checkpoints=3)["a"]
    monkeypatch.setattr(fit_module, "SAVE_EVERY_SECONDS", 0.0)

    def killed(done: int, total: int, **metrics: float) -> None:
        if done >= 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill({"a": data}, settings(), 0, checkpoints=3, resume=tmp_path, progress=killed)
    torch.manual_seed(77)  # no global generator matters
    assert same_bytes(
        whole, distill({"a": data}, settings(), 0, checkpoints=3, resume=tmp_path)["a"]
    )
    company = {"b": toy_trajectories(4, seed=2), "a": data}
    beside = distill(company, settings(), 0)["a"].final
    for one, other in zip(whole.final, beside, strict=True):
        np.testing.assert_allclose(one.act(STATES), other.act(STATES), atol=1e-3)


def test_of_good_and_bad_actions_at_one_state_it_imitates_the_good() -> None:
    rng = np.random.default_rng(0)
    states = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])  # which do not tell what was done
    pushes = rng.choice([-1.0, 1.0], size=(60, 2, 1))
    data = Trajectories.from_episodes(
        (
            {
                "observations": states,
                "actions": push,
                "rewards": [0.0, 1.0 + push[0, 0]],  # for the first action, and late
                "terminated": True,
            }
            for push in pushes
        ),
        environment=SPACE,
    )
    fit = FitConfig(steps=80, batch_size=32, learning_rate=1e-2, ema_decay=0.0)
    value = VALUE.model_copy(update={"steps": 30})
    done = {
        method: policy.act(states[:1])[0, 0]
        for method in ("bc", "awr")
        for chosen in [settings(method, seeds=1, fit=fit, awr={"fit": value})]
        for policy in distill({"a": data}, chosen, 0)["a"].final
    }
    assert done["bc"] == pytest.approx(pushes[:, 0].mean(), abs=0.1)
    assert done["awr"] == pytest.approx(1.0, abs=0.15)


def test_the_best_share_of_the_steps_is_kept_in_order_and_one_at_least() -> None:
    advantages = np.array([0.0, 3.0, -1.0, 3.0, 2.0, 3.0])
    for share, expected in (
        (1.0, [0, 1, 2, 3, 4, 5]),
        (0.67, [1, 3, 4, 5]),
        (0.33, [1, 3]),  # of equal ones the earlier
        (0.01, [1]),
    ):
        assert best_steps(advantages, share).tolist() == expected


def test_weights_have_mean_1_however_far_off_the_values_are() -> None:
    advantages = np.random.default_rng(0).normal(size=500)
    for offset in (0.0, 1e6, -1e6):
        weights = advantage_weights(advantages + offset, 2.0)
        assert weights.mean() == pytest.approx(1.0, rel=1e-4)
    np.testing.assert_array_equal(advantage_weights(np.full(5, 3.0), 2.0), 1.0)


def test_a_student_is_exported_as_one_that_clones(tmp_path: Path) -> None:
    policy = distill({"a": toy_trajectories(5)}, settings(), 0)["a"].final[0]
    (tmp_path / "policy.onnx").write_bytes(float_onnx(policy, ABOUT))
    actions = onnx_policy(tmp_path / "policy.onnx")(STATES)
    np.testing.assert_allclose(actions, policy.act(STATES), atol=1e-5)
