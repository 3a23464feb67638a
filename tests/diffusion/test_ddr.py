"""DDR-I and DDR-II: what is clamped, what carries loss, what is saved, what is learned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusion.small_teacher import teacher_config, world
from tskd_ray.config.schema import SamplerConfig, TeacherConfig
from tskd_ray.data.returns import return_labels
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.data.windows import Windows
from tskd_ray.diffusion.conditional import ConditionalDiffusion
from tskd_ray.diffusion.ddr import RewardDiffuser, TrajectoryDiffuser
from tskd_ray.models.arithmetic import Arithmetic

FAST = SamplerConfig(name="ddim", steps=4, guidance=1.5)


def rngs(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, row]) for row in range(count)]


@pytest.mark.parametrize("parameterization", ["absolute", "residual"])
@pytest.mark.parametrize("context", [1, 3])
def test_history_is_clamped_and_carries_no_loss_while_rewards_do(
    parameterization: str, context: int
) -> None:
    data = world()
    diffuser = TrajectoryDiffuser(teacher_config(parameterization, context=context, steps=1), 2)
    diffuser.fit(data, seed=0)
    windows = Windows(data, diffuser.settings.horizon + 1)
    steps = np.arange(data.n_steps)
    example = diffuser._example(
        windows, steps, np.ones(len(steps), np.float32), np.random.default_rng(0)
    )
    clamped, batch = np.asarray(example.clamped), windows.gather(steps)
    history = clamped[:, :, 0].sum(axis=1)
    assert history.min() == 1
    assert history.max() == context
    assert not clamped[..., -1].any(), "past rewards are never given"
    assert (example.weight[clamped] == 0).all()
    horizon = diffuser.settings.horizon
    for row in range(len(steps)):
        for j in range(horizon):
            rewarded = batch.reward_mask[row, j]
            assert (example.weight[row, j, -1] > 0) == rewarded
            free = batch.state_mask[row, j] and j >= history[row]
            assert (example.weight[row, j, :-1] > 0).all() == free


@pytest.mark.parametrize("parameterization", ["absolute", "residual"])
def test_a_plan_keeps_its_history_and_does_not_depend_on_its_neighbours(
    parameterization: str,
) -> None:
    data = world()
    diffuser = TrajectoryDiffuser(teacher_config(parameterization, context=3), 2)
    diffuser.fit(data, seed=0)
    history = np.stack([data.observations[i : i + 3] for i in (0, 4, 9)])
    length = np.array([3, 2, 1])
    plan = diffuser.plan(history, length, target_return=1.0, sampler=FAST, rngs=rngs(3))
    for row in range(3):
        np.testing.assert_allclose(
            plan.states[row, : length[row]], history[row, : length[row]], atol=2e-3
        )
        alone = diffuser.plan(
            history[[row]], length[[row]], target_return=1.0, sampler=FAST, rngs=[rngs(3)[row]]
        )
        np.testing.assert_allclose(alone.states[0], plan.states[row], atol=1e-4)
    assert np.isfinite(plan.states).all()
    assert plan.rewards.shape == (3, 6)


def test_a_saved_diffuser_plans_the_same(tmp_path: Path) -> None:
    data = world()
    diffuser = TrajectoryDiffuser(teacher_config(), 2)
    curve = diffuser.fit(data, seed=0)
    assert curve[-1][0] == 30
    diffuser.save(tmp_path)
    loaded = TrajectoryDiffuser.load(tmp_path)
    history, length = data.observations[:4][:, None], np.ones(4, dtype=np.int64)
    plans = [
        d.plan(history, length, target_return=0.7, sampler=FAST, rngs=rngs(4))
        for d in (diffuser, loaded)
    ]
    assert np.array_equal(plans[0].states, plans[1].states)
    assert loaded.return_scale_ == diffuser.return_scale_


@pytest.mark.parametrize("parameterization", ["absolute", "residual"])
def test_without_rewards_a_plan_is_of_states_alone(
    parameterization: str, tmp_path: Path
) -> None:
    data = world()
    config = teacher_config(parameterization, context=2, diffuse_rewards=False)
    diffuser = TrajectoryDiffuser(config, 2)
    assert diffuser.model.channels == data.observation_dim
    diffuser.fit(data, seed=0)
    windows = Windows(data, diffuser.settings.horizon + 1)
    example = diffuser._example(
        windows, np.arange(8), np.ones(8, np.float32), np.random.default_rng(0)
    )
    assert example.rows.shape == example.weight.shape == (8, diffuser.settings.horizon, 2)
    diffuser.save(tmp_path)
    history, length = data.observations[None, :2], np.array([2])
    plans = [
        one.plan(history, length, target_return=1.0, sampler=FAST, rngs=rngs(1))
        for one in (diffuser, TrajectoryDiffuser.load(tmp_path))
    ]
    assert plans[0].states.tobytes() == plans[1].states.tobytes()
    np.testing.assert_allclose(plans[0].states[:, :2], history, rtol=1e-6)
    assert not plans[0].rewards.any()


def test_given_conditions_take_the_place_of_return_labels(tmp_path: Path) -> None:
    data = world()
    labels = return_labels(data, TeacherConfig().discount)
    scaled = labels / labels.max()

    def weights(conditions: np.ndarray | None) -> bytes:
        diffuser = TrajectoryDiffuser(teacher_config(steps=5), 2)
        diffuser.fit(data, seed=0, conditions=conditions)
        return b"".join(p.detach().numpy().tobytes() for p in diffuser.model.parameters())

    assert weights(scaled) == weights(None)
    assert weights(scaled[::-1].copy()) != weights(None)


@pytest.mark.parametrize("label", ["return", "advantage"])
def test_a_checkpoint_names_a_label_that_is_not_the_default(label: str, tmp_path: Path) -> None:
    diffuser = TrajectoryDiffuser(teacher_config(label=label), 2)
    diffuser.fit_codec(world(), 0)
    diffuser.save(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())["teacher"]
    assert said.get("label", "return") == label
    assert ("label" in said) == (label == "advantage")
    assert TrajectoryDiffuser.load(tmp_path).config.label == label


def test_training_is_a_function_of_the_seed() -> None:
    data = world()
    plans = []
    for seed in (0, 0, 1):
        diffuser = TrajectoryDiffuser(teacher_config(steps=5), 2)
        diffuser.fit(data, seed=seed)
        plans.append(
            diffuser.plan(
                data.observations[:2][:, None],
                np.ones(2, dtype=np.int64),
                target_return=1.0,
                sampler=FAST,
                rngs=rngs(2),
            ).states
        )
    assert np.array_equal(plans[0], plans[1])
    assert not np.array_equal(plans[0], plans[2])


def test_bfloat16_trains_to_nearly_the_same_loss() -> None:
    data, curves = world(), []
    for precision in ("float32", "bfloat16"):
        diffuser = TrajectoryDiffuser(teacher_config(steps=40), 2)
        curve = diffuser.fit(data, seed=0, arithmetic=Arithmetic(precision=precision))
        curves.append(np.array([loss for _, loss in curve]))
        assert all(p.dtype == torch.float32 for p in diffuser.model.parameters())
    assert curves[0].tolist() != curves[1].tolist()
    np.testing.assert_allclose(curves[1][-20:].mean(), curves[0][-20:].mean(), rtol=0.05)
    np.testing.assert_allclose(curves[1][0], curves[0][0], rtol=0.01)


def test_ddr2_learns_the_reward_of_a_step_and_ignores_the_order_of_its_batch() -> None:
    data = world(episodes=60)
    config = teacher_config(steps=300)
    diffuser = RewardDiffuser(config, 2)
    diffuser.fit(data, seed=0)
    steps = np.arange(0, data.n_steps, 9)
    states = data.observations[data.step_state[steps]]
    after = data.observations[data.step_state[steps] + 1]
    sampler = config.reward_sampler
    rewards = diffuser.reward(states, after, sampler=sampler, seed=0)
    error = np.sqrt(np.mean((rewards - data.rewards[steps]) ** 2))
    assert error < 0.5 * data.rewards.std()
    backwards = diffuser.reward(states[::-1], after[::-1], sampler=sampler, seed=0)
    np.testing.assert_allclose(backwards[::-1], rewards, atol=1e-4)


def sparse_world() -> Trajectories:
    """A reward of 1 at one step of two hundred, else none."""
    data = world()
    rewards = np.zeros(data.n_steps)
    rewards[77] = 1.0
    return replace(data, rewards=rewards)


def answering(diffuser: TrajectoryDiffuser | RewardDiffuser, answer: float) -> None:
    """Make its network give that everywhere."""
    with torch.no_grad():
        parameters = list(diffuser.model.network.parameters())
        for parameter in parameters:
            parameter.zero_()
        parameters[-1].fill_(answer)  # the last layer's bias


def test_a_rare_reward_can_come_out(tmp_path: Path) -> None:
    data = sparse_world()
    planner = TrajectoryDiffuser(teacher_config(steps=1), 2)
    pricer = RewardDiffuser(teacher_config(steps=1), 2)
    for diffuser in (planner, pricer):
        diffuser.fit(data, seed=0)
        answering(diffuser, -1e4)  # of the velocity: x̂₀ is far out, and clipped
        diffuser.save(tmp_path / diffuser.kind)
    start, after = data.observations[:1], data.observations[1:2]
    for one in (planner, TrajectoryDiffuser.load(tmp_path / "ddr1")):
        plan = one.plan(
            start[:, None], np.ones(1, np.int64), target_return=1.0, sampler=FAST, rngs=rngs(1)
        )
        np.testing.assert_allclose(plan.rewards, 1.0, atol=1e-5)
        planned = one.codec.encode_states(plan.states, np.zeros(1, np.int64))[:, 1:]
        np.testing.assert_allclose(planned, 5.0, rtol=1e-4)
    for one in (pricer, RewardDiffuser.load(tmp_path / "ddr2")):
        reward = one.reward(start, after, sampler=FAST, seed=0)
        np.testing.assert_allclose(reward, 1.0, atol=1e-5)


def test_ddr2_is_asked_for_the_best_label_that_it_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = world()
    asked: list[np.ndarray] = []

    def sample(self: ConditionalDiffusion, **given: np.ndarray) -> np.ndarray:
        asked.append(given["condition"])
        return np.zeros_like(given["known"])

    monkeypatch.setattr(ConditionalDiffusion, "sample", sample)
    start, after = data.observations[:2], data.observations[1:3]
    for rewards, best in ((data.rewards, 1.0), (-1 - data.rewards**2, None)):
        one = RewardDiffuser(teacher_config(steps=1), 2)
        one.fit(replace(data, rewards=rewards), seed=0)
        if best is None:
            labels = return_labels(replace(data, rewards=rewards), one.config.discount)
            best = np.float32(labels.max() / -labels.min())
            assert -0.5 < best < 0
        one.save(tmp_path / str(best))
        for model in (one, RewardDiffuser.load(tmp_path / str(best))):
            model.reward(start, after, sampler=FAST, seed=0)
            assert asked.pop().tolist() == [best, best]
    assert "best_label" not in (tmp_path / "1.0" / "config.json").read_text()
