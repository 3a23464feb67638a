"""The teacher as a policy: it plans in the environment itself, and its true return counts.

n episodes · S observation dim
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tskd_ray.config.schema import GenerateConfig
from tskd_ray.diffusion.engine import Engine
from tskd_ray.diffusion.movers import EnvironmentMover
from tskd_ray.diffusion.teacher import Teacher
from tskd_ray.evaluation.simulate import reset_seed
from tskd_ray.progress import Progress, silent
from tskd_ray.seeding import numpy_rng
from tskd_ray.types import Float32Array, Float64Array, IntArray


def evaluate_planner(
    teacher: Teacher,
    settings: GenerateConfig,
    *,
    seeds: int,
    episodes: int,
    seed: int,
    first: int = 0,
    slots: int = 64,
    progress: Progress = silent,
) -> Float64Array:
    """Undiscounted true returns (seeds, episodes) of the teacher acting in its environment.

    It plans as it does for generation: sampler, guidance, target, `replan_every`. Episodes
    begin from the resets that `evaluate` gives to students, so scores can be compared.

    Args:
        teacher: Trained models, with an environment.
        settings: How to plan; its rollout mode does not matter here.
        seeds: Independent streams of noise.
        episodes: Resets of each.
        seed: Run seed: with the numbers it gives noise and resets.
        first: Number of the first reset.
        slots: Episodes side by side. No matter to the result on a CPU.
        progress: Told how many episodes are finished.
    """
    environment = teacher.environment
    assert environment is not None, "checked when the run was planned"
    numbers = [(k, first + e) for k in range(seeds) for e in range(episodes)]
    mover = _Judge(teacher, [reset_seed(seed, e) for _, e in numbers])
    planned = settings.model_copy(update={"rollout": "environment", "max_steps": None})
    limited = replace(teacher, max_steps=environment.max_episode_steps or teacher.max_steps)
    rngs = [numpy_rng(seed, "planner", k, e) for k, e in numbers]
    try:
        made = Engine(limited, planned, mover, rngs, slots).run(progress)
    finally:
        mover.close()
    return made.rewards.sum(axis=1).reshape(seeds, episodes)


class _Judge(EnvironmentMover):
    """The simulator, its resets numbered and its own rewards counted."""

    def __init__(self, teacher: Teacher, resets: list[int]) -> None:
        assert teacher.environment is not None
        super().__init__(teacher.environment)
        self.resets = resets

    def reset(
        self, joining: IntArray, starts: Float32Array, rngs: list[np.random.Generator]
    ) -> Float32Array:
        """The resets of these episodes; noise is drawn by `rngs` for plans alone."""
        return np.stack([self.open(int(n), self.resets[n]) for n in joining])

    def paid(self, planned: Float32Array, true: Float64Array) -> Float64Array:
        """The true rewards."""
        return true
