"""Generation (Algorithm 1): DDR-I plans, the inverse dynamics acts, a mover moves (D8).

S observation dim · A action dim
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tskd_ray.config.schema import GenerateConfig
from tskd_ray.data.trajectories import Origin, Trajectories
from tskd_ray.diffusion.engine import End, Engine, Rollouts
from tskd_ray.diffusion.movers import DynamicsMover, EnvironmentMover, ModelMover, Mover
from tskd_ray.diffusion.teacher import Teacher, facts
from tskd_ray.errors import ConfigError
from tskd_ray.progress import Progress, silent
from tskd_ray.seeding import numpy_rng
from tskd_ray.types import Float64Array, FloatArray, Int8Array, IntArray

__all__ = ["SLOTS", "End", "Generated", "Teacher", "facts", "generate"]

SLOTS = 64
"""Rollouts side by side, unless said otherwise."""


@dataclass(frozen=True, kw_only=True)
class Generated:
    """Generated episodes, and how each went."""

    trajectories: Trajectories
    ends: Int8Array  # (E,) `End` of each episode
    disagreement: Float64Array  # (E,) mean over steps, in sd of a true step; 0 where unknown


def generate(
    teacher: Teacher,
    settings: GenerateConfig,
    *,
    ids: Sequence[int],
    seed: int,
    epoch: int = 0,
    first_id: int = 0,
    slots: int = SLOTS,
    progress: Progress = silent,
) -> Generated:
    """Generate one trajectory per id.

    Args:
        teacher: Trained models.
        settings: Rollout mode, sampler, guidance, replanning, limits.
        ids: Numbers of the trajectories within the epoch; each names a random stream.
        seed: Run seed.
        epoch: Stitching epoch that they are for; part of the stream's name.
        first_id: Added to an id to give its episode id in the dataset.
        slots: How many trajectories advance side by side. No matter to the result on a CPU.
        progress: Told how many trajectories are finished.

    Returns:
        Episodes in the order of `ids`, with claimed rewards: the plan's (`model`,
        `environment`) or the ensemble's (`dynamics`). The simulator's reward is never read.

    Raises:
        ConfigError: If `rollout: environment` is asked for and no environment is known.
    """
    rngs = [numpy_rng(seed, "generate", epoch, number) for number in ids]
    mover = _mover(teacher, settings)
    try:
        made = Engine(teacher, settings, mover, rngs, slots).run(progress)
    finally:
        mover.close()
    return _collect(teacher, made, np.asarray(ids, dtype=np.int64) + first_id)


def _mover(teacher: Teacher, settings: GenerateConfig) -> Mover:
    if settings.rollout == "model":
        return ModelMover(teacher.termination)
    if settings.rollout == "dynamics":
        return DynamicsMover(teacher.transition, teacher.termination)
    if teacher.environment is None:
        raise ConfigError(
            "generate.rollout: environment needs data.environment. The dataset names none. "
            "Set data.environment, or use rollout: dynamics."
        )
    return EnvironmentMover(teacher.environment)


def _collect(teacher: Teacher, made: Rollouts, episode_ids: IntArray) -> Generated:
    parts: list[dict[str, Any]] = []
    for number, length in enumerate(made.lengths):
        parts.append({
            "observations": made.states[number, : length + 1],
            "actions": made.actions[number, :length],
            "rewards": made.rewards[number, :length],
            "terminated": made.ends[number] == End.TERMINATED,
        })  # fmt: skip
    trajectories = Trajectories.from_episodes(
        parts, environment=teacher.environment, origin=Origin.GENERATED
    )
    trajectories = replace(
        trajectories,
        episode_id=episode_ids,
        source_episode=np.repeat(episode_ids, made.lengths),
    )
    total: FloatArray = made.disagreement.sum(axis=1)
    return Generated(
        trajectories=trajectories, ends=made.ends, disagreement=total / made.lengths
    )
