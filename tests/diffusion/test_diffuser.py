"""What DDR-I and DDR-II are trained on and asked for, entry by entry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from diffusion.small_teacher import drifting, observations_of, teacher_config, world
from tskd_ray.config.schema import SamplerConfig
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.data.windows import Windows
from tskd_ray.diffusion.conditional import ConditionalDiffusion
from tskd_ray.diffusion.ddr import RewardDiffuser, TrajectoryDiffuser
from tskd_ray.diffusion.plan import Start

FAST = SamplerConfig(name="ddim", steps=4, guidance=1.5)
SETTINGS: dict[str, Any] = {
    "discount": 0.7,
    "termination_penalty": -2.0,
    "return_scale": 4.0,
    "condition_dropout": 0.6,
}


@pytest.mark.parametrize("parameterization", ["absolute", "residual"])
def test_each_diffuser_is_of_its_own_section_and_predicts_what_its_rows_ask_for(
    parameterization: str,
) -> None:
    config = teacher_config(parameterization)
    other = config.reward.model_copy(update={"horizon": 2, "diffusion_steps": 9})
    config = config.model_copy(update={"reward": other})
    planner, pricer = TrajectoryDiffuser(config, 2), RewardDiffuser(config, 2)
    for diffuser, section, channels in ((planner, config.trajectory, 3), (pricer, other, 5)):
        diffuser.fit_codec(world(), 0)
        model = diffuser.model
        assert diffuser.settings == section
        assert (len(model.alpha_bar), model.channels) == (section.diffusion_steps, channels)
        absolute = parameterization == "absolute"
        assert model.prediction == ("noise" if absolute else "velocity")
        assert model.clip.tolist() == [1.0 if absolute else 5.0] * channels


def plain_labels(data: Trajectories) -> list[float]:
    """By the definition (D4, D5), one step after the other."""
    labels = list[float]()
    for number in range(data.n_episodes):
        rewards = [float(reward) for reward in data.episode(number)["rewards"]]
        rewards[-1] += -2.0 * bool(data.terminated[number])
        for t in range(len(rewards)):
            to_go = sum(0.7 ** (k - t) * rewards[k] for k in range(t, len(rewards)))
            labels.append(to_go / 4.0)
    return labels


@pytest.mark.parametrize("made", [TrajectoryDiffuser, RewardDiffuser])
def test_each_window_is_trained_with_its_own_label_and_dropout_as_the_settings_say(
    made: type[TrajectoryDiffuser | RewardDiffuser], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, original = world(), made._example
    labelled: list[tuple[np.ndarray, np.ndarray]] = []
    dropouts: list[float] = []

    def example(self: Any, windows: Any, steps: Any, condition: Any, rng: Any) -> Any:
        labelled.append((steps, condition))
        return original(self, windows, steps, condition, rng)

    def loss(self: Any, example: Any, dropout: float, *_: Any) -> torch.Tensor:
        assert example.condition is labelled[-1][1]
        dropouts.append(dropout)
        return torch.stack([(p * 0).sum() for p in self.parameters()]).sum()

    monkeypatch.setattr(made, "_example", example)
    monkeypatch.setattr(ConditionalDiffusion, "loss", loss)
    diffuser = made(teacher_config(steps=3, **SETTINGS), 2)
    diffuser.fit(data, seed=0)
    labels = plain_labels(data)
    assert len(labelled) == len({tuple(steps) for steps, _ in labelled}) == 3
    for steps, conditions in labelled:
        np.testing.assert_allclose(conditions, [labels[step] for step in steps], rtol=1e-5)
    assert diffuser.best_label_ == pytest.approx(max(labels), rel=1e-6)
    assert dropouts == [0.6] * 3


def examples(parameterization: str, data: Trajectories, asked: np.ndarray) -> list[Any]:
    """What DDR-I, then DDR-II, is trained on: itself, and the example of every step."""
    config, found = teacher_config(parameterization, context=3), list[Any]()
    for diffuser in (TrajectoryDiffuser(config, 2), RewardDiffuser(config, 2)):
        diffuser.fit_codec(data, 0)
        windows, steps = Windows(data, diffuser.settings.horizon + 1), np.arange(data.n_steps)
        rng = np.random.default_rng(0)
        found.append((diffuser, diffuser._example(windows, steps, asked, rng)))
    return found


def numbers(data: Trajectories) -> list[tuple[int, int]]:
    """Episode and time of each step."""
    return [(e, t) for e in range(data.n_episodes) for t in range(int(data.lengths[e]))]


@pytest.mark.parametrize("parameterization", ["absolute", "residual"])
def test_rows_of_training_are_the_states_and_rewards_of_their_windows(
    parameterization: str,
) -> None:
    data = drifting()
    mean, std = data.observations.mean(axis=0), data.observations.std(axis=0)
    asked = np.linspace(0, 1, data.n_steps, dtype=np.float32)
    for diffuser, found in examples(parameterization, data, asked):
        horizon, prices = diffuser.settings.horizon, isinstance(diffuser, RewardDiffuser)
        np.testing.assert_array_equal(found.condition, asked)
        held = np.asarray(found.clamped)[..., 0].sum(axis=1) - 1
        anchor = np.zeros_like(held) if prices else held
        known = data.observations[data.step_state + anchor]
        states = diffuser.codec.decode_states(found.rows[..., :2], anchor, known)
        rewards = diffuser.codec.decode_rewards(found.rows[..., -1])
        after = states
        if prices:  # its rows hold the state after theirs, too
            padded = np.concatenate([found.rows[:, :1, :2], found.rows[..., 2:4]], axis=1)
            after = diffuser.codec.decode_states(padded, anchor, known)[:, 1:]
        for row, (e, t) in enumerate(numbers(data)):
            episode = data.episode(e)
            here = episode["observations"][t : t + horizon]
            np.testing.assert_allclose(states[row, : len(here)], here, atol=2e-3)
            paid = episode["rewards"][t : t + horizon]
            np.testing.assert_allclose(rewards[row, : len(paid)], paid, atol=2e-3)
            if prices:
                then = episode["observations"][t + 1 : t + 1 + horizon]
                np.testing.assert_allclose(after[row, : len(then)], then, atol=2e-3)
            told = (episode["observations"][t + anchor[row]] - mean) / std
            told = told if parameterization == "residual" else []
            np.testing.assert_allclose(found.context[row], told, atol=1e-4)


@pytest.mark.parametrize("parameterization", ["absolute", "residual"])
def test_what_is_known_or_past_the_end_carries_no_loss_and_what_is_near_carries_most(
    parameterization: str,
) -> None:
    data = drifting()
    for diffuser, found in examples(parameterization, data, np.ones(data.n_steps, np.float32)):
        horizon, prices = diffuser.settings.horizon, isinstance(diffuser, RewardDiffuser)
        known = np.asarray(found.clamped)[..., 0].sum(axis=1)
        for row, (e, t) in enumerate(numbers(data)):
            left = int(data.lengths[e]) - t
            last = known[row] - 1
            assert last <= left, "a history that no episode has"
            expected = np.zeros(found.weight.shape[1:])
            for j in range(horizon):
                near = (
                    4 * np.exp(-max(j - last, 0) / 4) if parameterization == "residual" else 0
                )
                expected[j, -1] = (1 + near) * (j < left)
                there = j < left if prices else j <= left
                expected[j, :-1] = (1 + near) * (there and j > last)
            np.testing.assert_allclose(found.weight[row], expected, rtol=1e-5)


def test_a_plan_is_asked_for_with_its_target_its_anchor_and_its_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = drifting()
    planner = TrajectoryDiffuser(teacher_config(context=3), 2)
    planner.fit_codec(data, 0)
    asked: list[dict[str, Any]] = []

    def sample(self: ConditionalDiffusion, **given: Any) -> np.ndarray:
        asked.append(given)
        return np.where(given["clamped"], given["known"], np.float32(1.0))

    monkeypatch.setattr(ConditionalDiffusion, "sample", sample)
    history, length = data.observations[[[4, 5, 6], [7, 8, 8]]], np.array([3, 2])
    rngs = [np.random.default_rng(row) for row in range(2)]
    plan = planner.plan(history, length, target_return=0.6, sampler=FAST, rngs=rngs)
    (given,) = asked
    assert given["condition"].tolist() == [np.float32(0.6)] * 2
    assert (given["rngs"], given["sampler"], given["guess"]) == (rngs, FAST, None)
    now = data.observations[[6, 8]]
    mean, std = data.observations.mean(axis=0), data.observations.std(axis=0)
    np.testing.assert_allclose(given["context"], (now - mean) / std, atol=1e-4)
    assert given["clamped"].sum(axis=1).tolist() == [[3, 3, 0], [2, 2, 0]]
    np.testing.assert_allclose(plan.states[0, :3], data.observations[4:7], atol=1e-4)
    np.testing.assert_allclose(plan.states[1, :2], data.observations[7:9], atol=1e-4)
    # A row of ones is one sd above the mean of where such steps lead.
    for offset in range(1, 4):
        moved = np.concatenate(
            [states[offset:] - states[:-offset] for states in observations_of(data)]
        )
        expected = now[0] + moved.mean(axis=0) + moved.std(axis=0)
        np.testing.assert_allclose(plan.states[0, 2 + offset], expected, atol=0.1)
    expected = data.rewards.mean() + data.rewards.std()
    np.testing.assert_allclose(plan.rewards, expected, atol=1e-4)


def test_a_plan_may_begin_from_the_one_before_put_where_the_state_now_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = drifting()
    planner = TrajectoryDiffuser(teacher_config(context=3), 2)
    planner.fit_codec(data, 0)
    guesses: list[Any] = []

    def sample(self: ConditionalDiffusion, **given: Any) -> np.ndarray:
        guesses.append(given["guess"])
        return given["known"]

    monkeypatch.setattr(ConditionalDiffusion, "sample", sample)
    history, length = data.observations[[[4, 5, 6], [7, 8, 8]]], np.array([3, 2])
    rng = np.random.default_rng(2)
    states = rng.normal(size=(2, planner.settings.horizon, 2)).astype(np.float32)
    start = Start(states=states.copy(), rewards=states[..., 0] + 1, steps=3)
    rngs = [np.random.default_rng(row) for row in range(2)]
    planner.plan(history, length, target_return=1.0, sampler=FAST, rngs=rngs, start=start)
    (guess,) = guesses
    assert guess.steps == 3
    now = data.observations[[6, 8]]
    expected = states.copy()
    expected[[0, 1], length - 1] = now
    decoded = planner.codec.decode_states(guess.rows[..., :2], length - 1, now)
    np.testing.assert_allclose(decoded, expected, atol=1e-4)
    rewards = planner.codec.decode_rewards(guess.rows[..., 2])
    np.testing.assert_allclose(rewards, states[..., 0] + 1, atol=1e-4)
    np.testing.assert_array_equal(start.states, states)


def test_a_hops_reward_is_drawn_by_the_seed_and_the_pair_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = drifting()
    pricer = RewardDiffuser(teacher_config(), 2)
    pricer.fit_codec(data, 0)

    def sample(self: ConditionalDiffusion, **given: Any) -> np.ndarray:
        rows = given["known"].copy()
        rows[:, 0, -1] = [rng.normal() for rng in given["rngs"]]
        return rows

    monkeypatch.setattr(ConditionalDiffusion, "sample", sample)
    s, s2 = data.observations[[1, 2, 1, 1]], data.observations[[2, 3, 2, 3]]

    def priced(states: np.ndarray, next_states: np.ndarray, seed: int) -> list[float]:
        return pricer.reward(states, next_states, sampler=FAST, seed=seed).tolist()

    first, second, again, other = priced(s, s2, 0)
    assert first == again
    assert len({first, second, other}) == 3
    assert priced(s[::-1], s2[::-1], 0) == [other, again, second, first]
    assert not {first, second, other} & set(priced(s, s2, 1))
