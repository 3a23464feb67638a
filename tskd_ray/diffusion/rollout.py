"""Generation (Algorithm 1): DDR-I plans, the inverse dynamics acts, a mover moves (D8).

All trajectories of a shard advance in lock-step; finished ones leave the batch. Each has a
random stream of its own, so a shard's result depends on its ids alone.

B active trajectories · S observation dim · A action dim · C context
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

from tskd_ray.config.schema import GenerateConfig
from tskd_ray.data.trajectories import EnvironmentSpec, Origin, Trajectories
from tskd_ray.diffusion.ddr import TrajectoryDiffuser
from tskd_ray.diffusion.movers import DynamicsMover, EnvironmentMover, ModelMover, Mover
from tskd_ray.errors import ConfigError
from tskd_ray.models.inverse_dynamics import InverseDynamics
from tskd_ray.models.termination import Termination
from tskd_ray.models.transition import Transition
from tskd_ray.progress import Progress, silent
from tskd_ray.seeding import numpy_rng
from tskd_ray.types import (
    BoolArray,
    Float32Array,
    Float64Array,
    FloatArray,
    Int8Array,
    IntArray,
)


class End(IntEnum):
    """Why a generated episode ended."""

    TERMINATED = 0
    TIME_LIMIT = 1
    LEFT_BOX = 2  # or turned non-finite
    DISAGREEMENT = 3


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """Everything that generation needs; learned from recorded data alone."""

    diffuser: TrajectoryDiffuser
    inverse_dynamics: InverseDynamics
    transition: Transition
    termination: Termination
    starts: Float32Array  # (E, S) first states of the recorded episodes (D9)
    low: Float32Array  # (S,) box of the recorded states (D10)
    high: Float32Array  # (S,)
    max_steps: int
    environment: EnvironmentSpec | None = None

    @classmethod
    def load(
        cls, folders: dict[str, Path], recorded: Trajectories, device: str = "cpu"
    ) -> Teacher:
        """Read the four checkpoints from `folders`, by the names of their stages."""
        return cls(
            diffuser=TrajectoryDiffuser.load(folders["ddr1"], device),
            inverse_dynamics=InverseDynamics.load(folders["inverse-dynamics"]),
            transition=Transition.load(folders["transition"]),
            termination=Termination.load(folders["termination"]),
            **facts(recorded),
        )


def facts(recorded: Trajectories) -> dict[str, Any]:
    """What generation takes from the recorded data itself: starts, box, time limit."""
    spec = recorded.environment
    limit = spec.max_episode_steps if spec is not None else None
    return {
        "starts": recorded.observations[recorded.state_offsets[:-1]].astype(np.float32),
        "low": recorded.observations.min(axis=0).astype(np.float32),
        "high": recorded.observations.max(axis=0).astype(np.float32),
        "max_steps": int(limit or recorded.lengths.max()),
        "environment": spec,
    }


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
        return _Lockstep(teacher, settings, mover, rngs).run(
            np.asarray(ids, dtype=np.int64) + first_id, progress
        )
    finally:
        mover.close()


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


class _Lockstep:
    def __init__(
        self,
        teacher: Teacher,
        settings: GenerateConfig,
        mover: Mover,
        rngs: list[np.random.Generator],
    ) -> None:
        self.teacher, self.settings, self.mover, self.rngs = teacher, settings, mover, rngs
        self.limit = settings.max_steps or teacher.max_steps
        count, width = len(rngs), teacher.starts.shape[1]
        action_dim = len(teacher.inverse_dynamics.low)
        self.states = np.zeros((count, self.limit + 1, width), dtype=np.float32)
        self.actions = np.zeros((count, self.limit, action_dim), dtype=np.float32)
        self.rewards = np.zeros((count, self.limit))
        self.disagreement = np.zeros((count, self.limit))
        self.lengths = np.zeros(count, dtype=np.int64)
        self.ends = np.full(count, End.TIME_LIMIT, dtype=np.int8)
        # A constant dimension has no range to take a share of: rounding would leave it.
        span = teacher.high - teacher.low
        margin = np.where(span > 0, settings.box_margin * span, np.inf)
        self.low, self.high = teacher.low - margin, teacher.high + margin

    def run(self, episode_ids: IntArray, progress: Progress) -> Generated:
        self.states[:, 0] = self.mover.reset(self.teacher.starts, self.rngs)
        active = np.arange(len(self.rngs))
        t = 0
        while len(active) and t < self.limit:
            plan_states, plan_rewards = self._plan(active, t)
            for k in range(min(self.settings.replan_every, self.limit - t)):
                going = self._step(active, t, plan_states[:, k], plan_rewards[:, k])
                active = active[going]
                plan_states, plan_rewards = plan_states[going], plan_rewards[going]
                t += 1
                if not len(active):
                    break
            progress(len(self.rngs) - len(active), len(self.rngs), step=t)
        return self._collect(episode_ids)

    def _plan(self, active: IntArray, t: int) -> tuple[Float32Array, Float32Array]:
        """Next states (B, m, S) and rewards (B, m) of one denoised plan."""
        context = self.teacher.diffuser.config.context
        length = min(t + 1, context)
        history = np.zeros((len(active), context, self.states.shape[2]), dtype=np.float32)
        history[:, :length] = self.states[active, t + 1 - length : t + 1]
        plan = self.teacher.diffuser.plan(
            history,
            np.full(len(active), length),
            target_return=self.settings.target_return,
            sampler=self.settings.sampler,
            rngs=[self.rngs[number] for number in active],
        )
        m = self.settings.replan_every
        return plan.states[:, length : length + m], plan.rewards[:, length - 1 : length - 1 + m]

    def _step(
        self, active: IntArray, t: int, planned: Float32Array, planned_rewards: Float32Array
    ) -> BoolArray:
        """Take environment step t; returns which of the active go on."""
        states = self.states[active, t]
        actions = self.teacher.inverse_dynamics.predict(states, planned)
        moved = self.mover.step(active, states, actions, planned, planned_rewards)
        outside = ~np.isfinite(moved.next_states).all(axis=1) | ~np.isfinite(moved.rewards)
        outside |= ((moved.next_states < self.low) | (moved.next_states > self.high)).any(
            axis=1
        )
        if self.settings.rollout == "environment":
            outside[:] = False  # what the simulator reached is real
        doubtful = np.zeros_like(outside)
        if self.settings.max_disagreement is not None:
            doubtful = moved.disagreement > self.settings.max_disagreement
        cut = outside | doubtful
        # A cut drops the step that went wrong; an episode's first step is kept, inside the box.
        keep = ~cut | (t == 0)
        next_states = np.where(
            cut[:, None],
            np.clip(np.nan_to_num(moved.next_states), self.low, self.high),
            moved.next_states,
        )
        rows = active[keep]
        self.states[rows, t + 1] = next_states[keep]
        self.actions[rows, t] = actions[keep]
        self.rewards[rows, t] = np.nan_to_num(moved.rewards[keep])
        self.disagreement[rows, t] = moved.disagreement[keep]
        self.lengths[rows] = t + 1
        terminated = moved.terminated & ~cut
        self.ends[active[outside]] = End.LEFT_BOX
        self.ends[active[doubtful & ~outside]] = End.DISAGREEMENT
        self.ends[active[terminated]] = End.TERMINATED
        return ~(cut | terminated)

    def _collect(self, episode_ids: IntArray) -> Generated:
        parts: list[dict[str, Any]] = []
        for number, length in enumerate(self.lengths):
            parts.append({
                "observations": self.states[number, : length + 1],
                "actions": self.actions[number, :length],
                "rewards": self.rewards[number, :length],
                "terminated": self.ends[number] == End.TERMINATED,
            })  # fmt: skip
        trajectories = Trajectories.from_episodes(
            parts, environment=self.teacher.environment, origin=Origin.GENERATED
        )
        trajectories = replace(
            trajectories,
            episode_id=episode_ids,
            source_episode=np.repeat(episode_ids, self.lengths),
        )
        total: FloatArray = self.disagreement.sum(axis=1)
        return Generated(
            trajectories=trajectories, ends=self.ends, disagreement=total / self.lengths
        )
