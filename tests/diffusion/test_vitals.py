"""How far plans are from true steps, against a loop over one plan after the other."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from toy_world import toy_trajectories
from tskd_ray.config.schema import GenerateConfig, SamplerConfig
from tskd_ray.diffusion.plan import Plan
from tskd_ray.diffusion.vitals import PLANS, plan_errors

CONTEXT, HORIZON = 3, 7


class Dreamer:
    """Plans that go astray by one amount at their first step and by others later."""

    config = SimpleNamespace(context=CONTEXT)

    def __init__(self) -> None:
        self.made: Plan
        self.asked: dict[str, Any] = {}

    def plan(self, history: Any, length: Any, **asked: Any) -> Plan:
        self.asked = {"history": history, "length": length, **asked}
        rng = np.random.default_rng(0)
        states = rng.normal(size=(len(history), HORIZON, 2)).astype(np.float32)
        self.made = Plan(states=states, rewards=states[..., 0], anchor=length - 1)
        return self.made


class Moves:
    """Half-way to where the action points: so no step of a dream is true."""

    def predict(self, states: Any, actions: Any) -> Any:
        return SimpleNamespace(next_states=states + 0.5 * actions)


class Points:
    def predict(self, states: Any, next_states: Any) -> Any:
        return next_states - states


def test_errors_are_of_each_step_out_of_the_history_in_sd_of_a_true_one() -> None:
    data, dreamer = toy_trajectories(12), Dreamer()
    teacher: Any = SimpleNamespace(
        diffuser=dreamer, inverse_dynamics=Points(), transition=Moves()
    )
    settings = GenerateConfig(target_return=0.7, sampler=SamplerConfig(steps=5))
    found = plan_errors(teacher, data, settings, 3)
    asked, plan = dreamer.asked, dreamer.made
    assert (asked["target_return"], asked["sampler"]) == (0.7, settings.sampler)
    assert sorted(set(asked["length"])) == [1, 2, 3]
    episodes = [data.episode(number)["observations"] for number in range(data.n_episodes)]
    known = {
        s[max(0, t - CONTEXT + 1) : t + 1].tobytes()
        for s in episodes
        for t in range(len(s) - 1)
    }
    for history, length in zip(asked["history"], asked["length"], strict=True):
        assert history[:length].tobytes() in known, "as an episode has them, whole"
    moves = np.concatenate([np.diff(s, axis=0) for s in episodes])
    errors: dict[int, list[float]] = {}
    for row in range(PLANS):
        for offset in range(HORIZON - CONTEXT):
            now = int(plan.anchor[row]) + offset
            missed = (
                0.5 * (plan.states[row, now + 1] - plan.states[row, now]) / moves.std(axis=0)
            )
            errors.setdefault(offset, []).append(float(np.sqrt(np.mean(missed**2))))
    medians = [float(np.median(errors[offset])) for offset in errors]
    assert found["first_step_error"] == pytest.approx(medians[0], rel=1e-4)
    assert found["interior_step_error"] == pytest.approx(np.median(medians[1:]), rel=1e-4)
