"""Continuous batching: many rollouts advance side by side, each at a step of its own.

A fixed number of slots holds the rollouts in progress; one that ends makes room for the next at
the next plan. Each has a random stream of its own, and on a CPU the networks' results for a row
do not depend on the other rows: so a trajectory is the same to the last bit in any company.

n trajectories · B in slots · S observation dim · A action dim · C context · m steps of a plan
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from tskd_ray.config.schema import GenerateConfig
from tskd_ray.diffusion.movers import Mover
from tskd_ray.diffusion.plan import Plan, Start
from tskd_ray.diffusion.teacher import Teacher
from tskd_ray.progress import Progress
from tskd_ray.types import BoolArray, Float32Array, Float64Array, Int8Array, IntArray


class End(IntEnum):
    """Why a generated episode ended."""

    TERMINATED = 0
    TIME_LIMIT = 1
    LEFT_BOX = 2  # or turned non-finite
    DISAGREEMENT = 3


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """What the engine fills; row i of all is trajectory i, its first `lengths[i]` steps."""

    states: Float32Array  # (n, limit + 1, S)
    actions: Float32Array  # (n, limit, A)
    rewards: Float64Array  # (n, limit)
    disagreement: Float64Array  # (n, limit)
    lengths: IntArray  # (n,)
    ends: Int8Array  # (n,) `End`

    @classmethod
    def empty(cls, n: int, limit: int, state_dim: int, action_dim: int) -> Rollouts:
        """Room for n trajectories of at most `limit` steps."""
        return cls(
            states=np.zeros((n, limit + 1, state_dim), dtype=np.float32),
            actions=np.zeros((n, limit, action_dim), dtype=np.float32),
            rewards=np.zeros((n, limit)),
            disagreement=np.zeros((n, limit)),
            lengths=np.zeros(n, dtype=np.int64),
            ends=np.full(n, End.TIME_LIMIT, dtype=np.int8),
        )


class Engine:
    """Algorithm 1 on many trajectories at once."""

    def __init__(
        self,
        teacher: Teacher,
        settings: GenerateConfig,
        mover: Mover,
        rngs: list[np.random.Generator],
        slots: int,
    ) -> None:
        self.teacher, self.settings, self.mover, self.rngs = teacher, settings, mover, rngs
        self.slots = slots
        self.limit = settings.max_steps or teacher.max_steps
        self.made = Rollouts.empty(
            len(rngs), self.limit, teacher.starts.shape[1], len(teacher.inverse_dynamics.low)
        )
        # A constant dimension has no range to take a share of: rounding would leave it.
        span = teacher.high - teacher.low
        margin = np.where(span > 0, settings.box_margin * span, np.inf)
        self.low, self.high = teacher.low - margin, teacher.high + margin
        self.plans = _Plans(teacher, settings, slots, rngs)

    def run(self, progress: Progress) -> Rollouts:
        """Generate them all; `progress` is told how many are finished."""
        active, waiting, total = np.arange(0), 0, len(self.rngs)
        while len(active) or waiting < total:
            joining = np.arange(waiting, min(total, waiting + self.slots - len(active)))
            if len(joining):
                waiting += len(joining)
                self.made.states[joining, 0] = self.mover.reset(
                    joining, self.teacher.starts, [self.rngs[number] for number in joining]
                )
                active = np.concatenate([active, joining])
            active = self._follow(active)
            steps = int(self.made.lengths.sum())
            progress(waiting - len(active), total, steps=steps)
        return self.made

    def _follow(self, active: IntArray) -> IntArray:
        """Plan once and take m steps of it; returns who goes on."""
        states, rewards = self.plans.make(active, self.made)
        for k in range(self.settings.replan_every):
            going = self._step(active, states[:, k], rewards[:, k])
            self.mover.close(active[~going])
            active, states, rewards = active[going], states[going], rewards[going]
            if not len(active):
                break
        return active

    def _step(
        self, active: IntArray, planned: Float32Array, planned_rewards: Float32Array
    ) -> BoolArray:
        """One environment step of each active trajectory; returns which of them go on."""
        made, t = self.made, self.made.lengths[active]
        states = made.states[active, t]
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
        rows, at = active[keep], t[keep]
        made.states[rows, at + 1] = next_states[keep]
        made.actions[rows, at] = actions[keep]
        made.rewards[rows, at] = np.nan_to_num(moved.rewards[keep])
        made.disagreement[rows, at] = moved.disagreement[keep]
        made.lengths[rows] = at + 1
        terminated = moved.terminated & ~cut
        made.ends[active[outside]] = End.LEFT_BOX
        made.ends[active[doubtful & ~outside]] = End.DISAGREEMENT
        made.ends[active[terminated]] = End.TERMINATED
        return ~(cut | terminated) & (t + 1 < self.limit)


class _Plans:
    """Plans for whatever trajectories are active, from noise or from their previous plan."""

    def __init__(
        self,
        teacher: Teacher,
        settings: GenerateConfig,
        slots: int,
        rngs: list[np.random.Generator],
    ) -> None:
        self.teacher, self.settings, self.slots, self.rngs = teacher, settings, slots, rngs
        self.previous: dict[int, tuple[Float32Array, Float32Array]] = {}

    def make(self, active: IntArray, made: Rollouts) -> tuple[Float32Array, Float32Array]:
        """Next states (B, m, S) and rewards (B, m) of each."""
        if self.settings.warm_steps is None:
            return self._ahead(self._plan(active, made))
        known = np.array([int(number) in self.previous for number in active])
        m = self.settings.replan_every
        states = np.empty((len(active), m, made.states.shape[2]), dtype=np.float32)
        rewards = np.empty((len(active), m), dtype=np.float32)
        for warm in (True, False):
            part = known == warm
            if part.any():
                plan = self._plan(active[part], made, warm=warm)
                states[part], rewards[part] = self._ahead(plan)
                for row, number in enumerate(active[part]):
                    self.previous[int(number)] = plan.states[row], plan.rewards[row]
        return states, rewards

    def _lengths(self, active: IntArray, made: Rollouts) -> IntArray:
        return np.minimum(made.lengths[active] + 1, self.teacher.diffuser.config.context)

    def _ahead(self, plan: Plan) -> tuple[Float32Array, Float32Array]:
        """What a plan says of the next m steps."""
        rows = np.arange(len(plan.anchor))[:, None]
        ahead = plan.anchor[:, None] + np.arange(self.settings.replan_every)
        return plan.states[rows, ahead + 1], plan.rewards[rows, ahead]

    def _plan(self, active: IntArray, made: Rollouts, *, warm: bool = False) -> Plan:
        diffuser = self.teacher.diffuser
        length, t = self._lengths(active, made), made.lengths[active]
        rows = np.arange(diffuser.config.context)
        at = np.minimum(t[:, None] - length[:, None] + 1 + rows, t[:, None])
        history = np.where(
            (rows < length[:, None])[..., None], made.states[active[:, None], at], np.float32(0)
        )
        return diffuser.plan(
            history,
            length,
            target_return=self.settings.target_return,
            sampler=self.settings.sampler,
            rngs=[self.rngs[number] for number in active],
            start=self._shifted(active, t, length) if warm else None,
        )

    def _shifted(self, active: IntArray, t: IntArray, length: IntArray) -> Start:
        """Previous plans as they look from now: m steps on, the end repeated."""
        assert self.settings.warm_steps is not None
        m = self.settings.replan_every
        before = np.minimum(t - m + 1, self.teacher.diffuser.config.context)
        horizon = self.teacher.diffuser.settings.horizon
        row = np.arange(horizon) + (m - (length - before))[:, None]
        row = np.minimum(row, horizon - 1)
        parts = [self.previous[int(number)] for number in active]
        take = np.arange(len(active))[:, None]
        return Start(
            states=np.stack([states for states, _ in parts])[take, row],
            rewards=np.stack([rewards for _, rewards in parts])[take, row],
            steps=self.settings.warm_steps,
        )
