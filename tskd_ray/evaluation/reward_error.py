"""How well models of rewards know true rewards (the paper's eq. 12 and Figure 5).

n steps · S observation dim · A action dim
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tskd_ray.data.trajectories import EnvironmentSpec, Trajectories
from tskd_ray.evaluation.fidelity import sample_steps, true_steps
from tskd_ray.types import FloatArray


class RewardModel(Protocol):
    """Rewards of steps."""

    def __call__(self, s: FloatArray, a: FloatArray, s2: FloatArray, /) -> FloatArray:
        """Of n steps from s (n, S) by a (n, A) to s' (n, S); (n,)."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class RewardError:
    """Of one model on n steps."""

    mse: float  # mean squared error, in units of reward squared
    mse_error: float  # standard error of that mean; 0 of one step
    mse_of_variance: float  # the mean squared error as a share of the true rewards' variance
    bias: float  # mean of predicted − true, in units of reward


@dataclass(frozen=True, kw_only=True)
class RewardErrors:
    """Of several models on the same n steps."""

    steps: int
    reward_mean: float  # of the true rewards
    reward_sd: float
    models: Mapping[str, RewardError]


def errors_on_fresh(
    models: Mapping[str, RewardModel],
    trajectories: Trajectories,
    environment: EnvironmentSpec,
    seed: int,
    *,
    samples: int = 2000,
) -> RewardErrors:
    """Errors on transitions that no model has seen, all of them true.

    States and actions are those of sampled steps; next states and rewards are the simulator's
    answers, not what the trajectories claim.

    Args:
        models: By name.
        trajectories: Generated ones.
        environment: A MuJoCo environment whose observation is (part of) its state.
        seed: Chooses the steps.
        samples: How many, at most.

    Raises:
        DataError: If the environment's state cannot be set from an observation.
    """
    steps = sample_steps(trajectories, seed, samples)
    states = trajectories.observations[trajectories.step_state[steps]]
    actions = trajectories.actions[steps]
    true = true_steps(states, actions, environment)
    return _errors(models, states, actions, true.next_states.astype(states.dtype), true.rewards)


def errors_on_recorded(
    models: Mapping[str, RewardModel],
    trajectories: Trajectories,
    seed: int,
    *,
    samples: int = 2000,
) -> RewardErrors:
    """Errors on sampled steps as recorded: mostly such as models were trained on."""
    steps = sample_steps(trajectories, seed, samples)
    source = trajectories.step_state[steps]
    return _errors(
        models,
        trajectories.observations[source],
        trajectories.actions[steps],
        trajectories.observations[source + 1],
        trajectories.rewards[steps],
    )


def _errors(
    models: Mapping[str, RewardModel],
    s: FloatArray,
    a: FloatArray,
    s2: FloatArray,
    rewards: FloatArray,
) -> RewardErrors:
    true = rewards.astype(np.float64)
    variance = float(true.var())
    found: dict[str, RewardError] = {}
    for name, model in models.items():
        error = model(s, a, s2).astype(np.float64) - true
        squares = np.square(error)
        mse = float(squares.mean())
        found[name] = RewardError(
            mse=mse,
            mse_error=_standard_error(squares),
            mse_of_variance=mse / variance if variance > 0 else float("nan"),
            bias=float(error.mean()),
        )
    return RewardErrors(
        steps=len(true),
        reward_mean=float(true.mean()),
        reward_sd=float(np.sqrt(variance)),
        models=found,
    )


def _standard_error(values: FloatArray) -> float:
    n = len(values)
    return float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0
