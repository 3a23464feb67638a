"""The teacher as a policy that is timed, and over which rows it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tskd_ray.config.schema import GenerateConfig, SamplerConfig
from tskd_ray.diffusion.plan import Plan
from tskd_ray.evaluation import latency
from tskd_ray.evaluation.latency import SERIES, deciding_seconds, planner

CONTEXT = 3
OBSERVATIONS = np.arange(10.0).reshape(5, 2)


def test_a_decision_is_one_plan_and_the_action_of_its_first_step() -> None:
    asked: dict[str, Any] = {}

    def plan(history: np.ndarray, length: np.ndarray, **options: Any) -> Plan:
        asked.update(options, history=history, length=length.tolist())
        offset = np.arange(6)[:, None] - (CONTEXT - 1)  # the current state is the last known
        states = history[:, :1] + 100.0 * offset
        return Plan(states=states, rewards=states[..., 0], anchor=length - 1)

    diffuser = SimpleNamespace(config=SimpleNamespace(context=CONTEXT), plan=plan)
    acts = SimpleNamespace(predict=lambda s, s2: (s, s2))
    teacher: Any = SimpleNamespace(diffuser=diffuser, inverse_dynamics=acts)
    settings = GenerateConfig(target_return=0.3, sampler=SamplerConfig(steps=7))
    now, then = planner(teacher, settings)(OBSERVATIONS[:2])
    np.testing.assert_array_equal(now, OBSERVATIONS[:2])
    np.testing.assert_array_equal(then, OBSERVATIONS[:2] + 100.0)
    assert (asked["target_return"], asked["sampler"]) == (0.3, settings.sampler)
    assert asked["length"] == [CONTEXT] * 2
    assert asked["history"].tolist() == [[row] * CONTEXT for row in OBSERVATIONS[:2].tolist()]


def test_each_series_takes_the_rows_after_those_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A clock that ticks once whenever it is read: two warm decisions take one tick in all.
    ticks = iter(range(100))
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    seen: list[float] = []
    found = deciding_seconds(lambda row: seen.append(row[0, 0]), OBSERVATIONS, budget=7.5)
    assert seen[:2] == [0.0, 0.0]
    assert seen[2:] == [float(2 * (number % 5)) for number in range(3 * SERIES)]
    assert found == [1 / 3] * SERIES
