"""How long a policy takes to decide, one observation at a time, on one core."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tskd_ray.config.schema import GenerateConfig
from tskd_ray.diffusion.ddr import TrajectoryDiffuser
from tskd_ray.diffusion.teacher import Teacher
from tskd_ray.types import Float32Array, FloatArray

WARM_UP = 50
SERIES = 5


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Microseconds per action."""

    p50: float
    p99: float


def latency(
    act: Callable[[Float32Array], Any], observations: FloatArray, *, calls: int = 2000
) -> Latency:
    """Time `act` on single rows (1, S) of observations (N, S), after a warm-up."""
    rows = np.asarray(observations, dtype=np.float32)[np.arange(calls) % len(observations)]
    for row in rows[: min(WARM_UP, calls // 10)]:
        act(row[None])
    taken = np.empty(calls)
    for number, row in enumerate(rows):
        one = row[None]
        start = time.perf_counter_ns()
        act(one)
        taken[number] = time.perf_counter_ns() - start
    p50, p99 = np.quantile(taken, [0.5, 0.99]) / 1000
    return Latency(p50=float(p50), p99=float(p99))


def deciding_seconds(
    act: Callable[[Float32Array], Any], observations: FloatArray, *, budget: float = 5.0
) -> list[float]:
    """Mean seconds per decision of each of five series on consecutive single rows (1, S).

    Args:
        act: Decides on one row.
        observations: (N, S).
        budget: Seconds that all series may take, about; one decision each is the least.
    """
    rows = np.asarray(observations, dtype=np.float32)
    began = time.perf_counter()
    act(rows[:1])  # compiles
    act(rows[:1])
    one = (time.perf_counter() - began) / 2
    calls = int(np.clip(budget / SERIES / max(one, 1e-6), 1, 200))
    found: list[float] = []
    for series in range(SERIES):
        chosen = rows[(np.arange(calls) + series * calls) % len(rows)]
        began = time.perf_counter()
        for row in chosen:
            act(row[None])
        found.append((time.perf_counter() - began) / calls)
    return found


def planner(teacher: Teacher, settings: GenerateConfig) -> Callable[[FloatArray], Float32Array]:
    """The teacher as a policy: one plan, then the inverse dynamics of its first step."""
    plan = plans(teacher.diffuser, settings)

    def act(observations: FloatArray) -> Float32Array:
        return teacher.inverse_dynamics.predict(observations, plan(observations))

    return act


def plans(
    diffuser: TrajectoryDiffuser, settings: GenerateConfig
) -> Callable[[FloatArray], Float32Array]:
    """The next states (N, S) of one plan for each observation (N, S).

    The history is the current state, as often as the plan's context asks: how long a plan takes
    does not depend on it.
    """
    rng = np.random.default_rng(0)
    context = diffuser.config.context

    def ahead(observations: FloatArray) -> Float32Array:
        plan = diffuser.plan(
            np.repeat(observations[:, None], context, axis=1),
            np.full(len(observations), context),
            target_return=settings.target_return,
            sampler=settings.sampler,
            rngs=[rng] * len(observations),
        )
        return plan.states[np.arange(len(observations)), plan.anchor + 1]

    return ahead
