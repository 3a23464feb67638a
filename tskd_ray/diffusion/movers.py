"""What moves the state of a rollout (D8): the plan, a learned ensemble, or the simulator.

B active trajectories · S observation dim · A action dim
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tskd_ray.data.environments import make_environment
from tskd_ray.data.observations import flatten_observation
from tskd_ray.data.trajectories import EnvironmentSpec
from tskd_ray.models.termination import Termination
from tskd_ray.models.transition import Transition
from tskd_ray.types import BoolArray, Float32Array, Float64Array, FloatArray, IntArray


@dataclass(frozen=True, kw_only=True)
class Moved:
    """Where the active trajectories went."""

    next_states: FloatArray  # (B, S)
    rewards: FloatArray  # (B,) claimed, never the simulator's
    terminated: BoolArray  # (B,)
    disagreement: FloatArray  # (B,) in sd of a true step; 0 where nothing can disagree


class Mover(Protocol):
    """Moves the states of a batch of rollouts by one environment step."""

    def reset(
        self, joining: IntArray, starts: Float32Array, rngs: list[np.random.Generator]
    ) -> Float32Array:
        """Initial states of the trajectories numbered `joining`, each by its generator (D9).

        `starts` are the recorded ones.
        """
        raise NotImplementedError

    def step(
        self,
        active: IntArray,
        states: Float32Array,
        actions: Float32Array,
        planned: Float32Array,
        planned_rewards: Float32Array,
    ) -> Moved:
        """Move the trajectories numbered `active` (B,) by one step."""
        raise NotImplementedError

    def close(self, ended: IntArray | None = None) -> None:
        """Free what was opened for these trajectories; default: for all."""
        raise NotImplementedError


class ModelMover:
    """`rollout: model`: the planned next state is the next state; errors compound."""

    def __init__(self, termination: Termination) -> None:
        self.termination = termination

    def reset(
        self, joining: IntArray, starts: Float32Array, rngs: list[np.random.Generator]
    ) -> Float32Array:
        """Recorded episode starts, drawn by each trajectory's own stream."""
        return np.stack([starts[rng.integers(len(starts))] for rng in rngs])

    def step(
        self,
        active: IntArray,
        states: Float32Array,
        actions: Float32Array,
        planned: Float32Array,
        planned_rewards: Float32Array,
    ) -> Moved:
        """Believe the plan."""
        return Moved(
            next_states=planned,
            rewards=planned_rewards,
            terminated=_terminates(self.termination, states, planned),
            disagreement=np.zeros(len(states)),
        )

    def close(self, ended: IntArray | None = None) -> None:
        """Nothing is open."""


class DynamicsMover(ModelMover):
    """`rollout: dynamics`: an ensemble learned from the same data moves the state and pays."""

    def __init__(self, transition: Transition, termination: Termination) -> None:
        super().__init__(termination)
        self.transition = transition

    def step(
        self,
        active: IntArray,
        states: Float32Array,
        actions: Float32Array,
        planned: Float32Array,
        planned_rewards: Float32Array,
    ) -> Moved:
        """Believe the ensemble's mean."""
        step = self.transition.predict(states, actions)
        next_states = step.next_states.astype(np.float32)
        return Moved(
            next_states=next_states,
            rewards=step.rewards,
            terminated=_terminates(self.termination, states, next_states),
            disagreement=step.disagreement,
        )


class EnvironmentMover:
    """`rollout: environment`: the simulator moves the state; its reward is not read."""

    def __init__(self, spec: EnvironmentSpec) -> None:
        self.spec = spec
        self.environments: dict[int, Any] = {}

    def reset(
        self, joining: IntArray, starts: Float32Array, rngs: list[np.random.Generator]
    ) -> Float32Array:
        """Fresh resets, each seeded by its trajectory's stream."""
        seeds = [int(rng.integers(2**31)) for rng in rngs]
        return np.stack([self.open(int(n), s) for n, s in zip(joining, seeds, strict=True)])

    def open(self, number: int, seed: int) -> Float32Array:
        """Make the simulator of trajectory `number`; its first state, (S,)."""
        simulator = self.environments[number] = make_environment(self.spec)
        return flatten_observation(simulator.reset(seed=seed)[0]).astype(np.float32)

    def step(
        self,
        active: IntArray,
        states: Float32Array,
        actions: Float32Array,
        planned: Float32Array,
        planned_rewards: Float32Array,
    ) -> Moved:
        """Step each simulator once."""
        answers = [
            self.environments[int(number)].step(action)[:3]
            for number, action in zip(active, actions, strict=True)
        ]
        observed, rewards, terminated = zip(*answers, strict=True)
        next_states = np.stack([flatten_observation(state) for state in observed])
        return Moved(
            next_states=next_states.astype(np.float32),
            rewards=self.paid(planned_rewards, np.array(rewards, float)),
            terminated=np.array(terminated, bool),
            disagreement=np.zeros(len(states)),
        )

    def paid(self, planned: Float32Array, true: Float64Array) -> FloatArray:
        """Rewards (B,) that trajectories claim: the plan's. The true ones are not read."""
        return planned

    def close(self, ended: IntArray | None = None) -> None:
        """Close the simulators of these trajectories."""
        for number in list(self.environments) if ended is None else ended:
            self.environments.pop(int(number)).close()


def _terminates(
    termination: Termination, states: Float32Array, next_states: Float32Array
) -> BoolArray:
    if not termination.exists:
        return np.zeros(len(states), dtype=bool)
    # A state that is not finite is cut by the caller; it must not reach the classifier.
    finite = np.isfinite(next_states).all(axis=1)
    ended = np.zeros(len(states), dtype=bool)
    probability = termination.predict(states[finite], next_states[finite])
    ended[finite] = probability >= termination.threshold
    return ended
