"""Returns of policies in the environment, a policy's episodes side by side (docs/algorithm.md).

P policies · E episodes · S observation dim · A action dim
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np

from tskd_ray.data.environments import make_environment
from tskd_ray.data.observations import flatten_observation
from tskd_ray.data.trajectories import EnvironmentSpec
from tskd_ray.errors import DataError
from tskd_ray.progress import Progress, silent
from tskd_ray.seeding import seed_sequence
from tskd_ray.types import Float64Array, FloatArray, IntArray


class Acts(Protocol):
    """A policy; `models.policy.Policy` is one."""

    def act(self, observations: FloatArray) -> FloatArray:
        """Actions (E, A) for observations (E, S), each of its row alone, to the last bit."""
        raise NotImplementedError


class Remembering(Protocol):
    """What a policy with memory knows of episodes side by side."""

    def act(
        self, observations: FloatArray, rewards: FloatArray, episodes: IntArray
    ) -> FloatArray:
        """Actions (n, A) of the episodes (n,) that still go on.

        Args:
            observations: (n, S).
            rewards: (n,) of the step before; 0 at the first.
            episodes: (n,) numbers of theirs.
        """
        raise NotImplementedError


@runtime_checkable
class Remembers(Protocol):
    """A policy with memory; `models.sequence_policy.SequencePolicy` is one."""

    def begin(self, episodes: int) -> Remembering:
        """Start so many episodes side by side."""
        raise NotImplementedError


Decides = Acts | Remembers


def deciding(policy: Decides, episodes: int) -> Callable[..., FloatArray]:
    """What gives a policy's actions, called as `Remembering.act`, in so many episodes."""
    if isinstance(policy, Remembers):
        return policy.begin(episodes).act

    def act(observations: FloatArray, rewards: FloatArray, episodes: IntArray) -> FloatArray:
        return policy.act(observations)

    return act


def evaluate(
    policies: Sequence[Decides],
    environment: EnvironmentSpec,
    episodes: int,
    seed: int,
    *,
    first: int = 0,
    progress: Progress = silent,
) -> Float64Array:
    """Undiscounted returns (P, E) of deterministic rollouts.

    Episode e starts from the same reset for every policy. A return depends on its own policy
    and reset alone, to the last bit, so callers may split the policies over processes, and the
    episodes by `first`; of a policy with memory, up to rounding, to which it may be sensitive.

    Args:
        policies: P policies, such as all seeds and checkpoints of all students.
        environment: Where they act.
        episodes: E.
        seed: With the episode number it gives the reset.
        first: Number of the first episode; take another one for a fresh test.
        progress: Told after each policy.

    Raises:
        DataError: If the environment does not exist or does not fit the policies.
    """
    returns = np.zeros((len(policies), episodes))
    if returns.size == 0:
        return returns
    simulators = [make_environment(environment) for _ in range(episodes)]
    try:
        for number, policy in enumerate(policies):
            returns[number] = _rollout(policy, simulators, seed, first)
            progress(number + 1, len(policies))
    finally:
        for simulator in simulators:
            simulator.close()
    return returns


def reset_seed(seed: int, episode: int) -> int:
    """The environment seed of evaluation episode `episode`."""
    return int(seed_sequence(seed, "evaluate", episode).generate_state(1)[0])


def _rollout(
    policy: Decides, simulators: Sequence[gym.Env[Any, Any]], seed: int, first: int
) -> Float64Array:
    """Returns (E,) of one policy from resets first … first + E − 1."""
    resets = [
        simulator.reset(seed=reset_seed(seed, e))
        for e, simulator in enumerate(simulators, start=first)
    ]
    observations = np.stack([flatten_observation(observation) for observation, _ in resets])
    returns = np.zeros(len(simulators))
    rewards = np.zeros(len(simulators))
    live = list(range(len(simulators)))
    decide = deciding(policy, len(simulators))
    while live:
        try:
            actions = decide(observations[live], rewards[live], np.array(live))
        except ValueError as error:
            raise DataError(
                "A policy must take the environment's observations. It fails on "
                f"{observations.shape[1]} dimensions: {error}. Evaluate it where its data came "
                "from."
            ) from error
        for e, action in zip(tuple(live), actions, strict=True):
            observation, reward, terminated, truncated, _ = simulators[e].step(action)
            observations[e] = flatten_observation(observation)
            rewards[e] = float(reward)
            returns[e] += rewards[e]
            if terminated or truncated:
                live.remove(e)
    return returns
