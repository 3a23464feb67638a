"""Models of hops beside DDR-II and the inverse dynamics: MBTS's rewards and actions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toy_world import toy_trajectories
from tskd_ray.config.schema import FitConfig
from tskd_ray.errors import DataError
from tskd_ray.models import fit as fitting
from tskd_ray.models.action_vae import ActionVAE
from tskd_ray.models.hop_inputs import StepNoise, pair_noise
from tskd_ray.models.mlp import BatchedMLP
from tskd_ray.models.reward_mlp import RewardMLP
from tskd_ray.models.reward_wgan import RewardWGAN, _slope
from tskd_ray.types import FloatArray

SHORT = FitConfig(steps=300, batch_size=64, learning_rate=3e-3, ema_decay=0.95)
GAN = SHORT.model_copy(update={"steps": 1200})
FITS: tuple[tuple[Any, FitConfig], ...] = (
    (RewardMLP, SHORT),
    (RewardWGAN, GAN),
    (ActionVAE, SHORT),
)


@pytest.fixture(scope="module")
def models() -> dict[Any, Any]:
    return {kind: kind.fit(toy_trajectories(), settings, 0) for kind, settings in FITS}


def fresh_steps(seed: int = 9) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """States, actions, next states and rewards that no model saw."""
    fresh = toy_trajectories(20, seed=seed)
    source = fresh.step_state
    s, s2 = fresh.observations[source], fresh.observations[source + 1]
    return s, fresh.actions, s2, fresh.rewards


def ask(model: Any, s: FloatArray, a: FloatArray, s2: FloatArray) -> FloatArray:
    return model.predict(s, s2) if isinstance(model, ActionVAE) else model.predict(s, a, s2)


@pytest.mark.parametrize(("kind", "share"), [(RewardMLP, 0.1), (RewardWGAN, 0.5)])
def test_rewards_of_fresh_steps_are_found(
    models: dict[Any, Any], kind: Any, share: float
) -> None:
    s, a, s2, rewards = fresh_steps()
    found = models[kind].predict(s, a, s2)
    assert found.shape == rewards.shape
    error = found - rewards
    assert np.sqrt(np.square(error).mean()) < share * rewards.std()
    assert abs(error.mean()) < 0.5 * share * rewards.std()
    held_out = models[kind].metrics_
    assert held_out["held_out_rmse_of_sd"] < share
    assert held_out["held_out_rmse"] < share * rewards.std() * 1.3
    assert abs(held_out["held_out_bias"]) < 0.5 * share * rewards.std()


def test_drawn_actions_lean_towards_the_true_one_and_stay_within_the_bounds(
    models: dict[Any, Any],
) -> None:
    s, a, s2, _ = fresh_steps()
    drawn = models[ActionVAE].predict(s, s2)
    assert drawn.shape == a.shape
    assert drawn.dtype == np.float32
    assert np.abs(drawn).max() <= 2.0
    assert np.corrcoef(drawn[:, 0], a[:, 0])[0, 1] > 0.9
    assert models[ActionVAE].metrics_["held_out_rmse"] < 0.25  # of half the range, which is 2


@pytest.mark.parametrize("kind", [RewardWGAN, ActionVAE])
def test_what_is_drawn_for_a_pair_depends_on_that_pair_alone(
    models: dict[Any, Any], kind: Any
) -> None:
    s, a, s2, _ = fresh_steps()
    whole = ask(models[kind], s, a, s2)
    order = np.random.default_rng(0).permutation(len(s))[:50]
    np.testing.assert_array_equal(
        ask(models[kind], s[order], a[order], s2[order]), whole[order]
    )


def test_pairs_draw_different_numbers_and_all_of_them_are_standard_normal() -> None:
    s, _, s2, _ = fresh_steps()
    noise = pair_noise(0, "kind", 2, s, s2)
    assert len(np.unique(noise)) == noise.size
    assert abs(noise.mean()) < 0.1
    assert abs(noise.std() - 1) < 0.1
    for other in (pair_noise(1, "kind", 2, s, s2), pair_noise(0, "other", 2, s, s2)):
        assert not np.isin(noise, other).any()


def test_noise_of_a_step_is_a_function_of_the_step() -> None:
    forward = StepNoise(8, 2, seed=0, key=("a",))
    first = [forward(step).copy() for step in (0, 1, 255, 256)]
    backward = StepNoise(8, 2, seed=0, key=("a",))
    again = [backward(step).copy() for step in (256, 255, 1, 0)][::-1]
    np.testing.assert_array_equal(first, again)
    assert len(np.unique(first)) == 4 * 8 * 2


def test_the_slope_by_the_reward_is_the_derivative_and_trains_the_critic() -> None:
    critic = BatchedMLP(5, 1, (8, 8), seed=0, keys=[("critic",)])
    x = torch.randn(1, 30, 5, generator=torch.Generator().manual_seed(0))

    def by_backward() -> torch.Tensor:
        given = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(critic(given).sum(), given)
        return gradient[..., -1:]

    torch.testing.assert_close(_slope(critic, x).detach(), by_backward())
    assert (by_backward().abs() - 1).abs().mean() > 0.5
    for _ in range(200):
        loss = (_slope(critic, x).abs() - 1).square().mean()
        gradients = torch.autograd.grad(loss, list(critic.weights))
        with torch.no_grad():
            for weight, gradient in zip(critic.weights, gradients, strict=True):
                weight -= 0.1 * gradient
    assert (by_backward().abs() - 1).abs().mean() < 0.2


@pytest.mark.parametrize("kind", [RewardMLP, RewardWGAN, ActionVAE])
def test_a_checkpoint_answers_with_the_same_bytes(
    models: dict[Any, Any], kind: Any, tmp_path: Path
) -> None:
    models[kind].save(tmp_path)
    again = kind.load(tmp_path)
    s, a, s2, _ = fresh_steps()
    assert ask(again, s, a, s2).tobytes() == ask(models[kind], s, a, s2).tobytes()
    assert again.metrics_["held_out_rmse"] == models[kind].metrics_["held_out_rmse"]
    with pytest.raises(DataError, match="Expected a checkpoint of kind"):
        (RewardMLP if kind is not RewardMLP else ActionVAE).load(tmp_path)


@pytest.mark.parametrize("kind", [RewardWGAN, ActionVAE])
def test_a_killed_training_resumes_to_the_same_bytes(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "SAVE_EVERY_SECONDS", 0.0)
    toy, settings = toy_trajectories(8), FitConfig(steps=100, batch_size=16, ema_decay=0.9)
    whole = kind.fit(toy, settings, 0)

    def kill(done: int, total: int, **_: float) -> None:
        if done >= total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kind.fit(toy, settings, 0, resume=tmp_path, progress=kill)
    steps: list[int] = []
    count: Callable[..., None] = lambda done, total, **_: steps.append(done)  # noqa: E731
    resumed = kind.fit(toy, settings, 0, resume=tmp_path, progress=count)
    assert steps[0] > settings.steps // 2
    s, a, s2, _ = fresh_steps()
    assert ask(resumed, s, a, s2).tobytes() == ask(whole, s, a, s2).tobytes()
