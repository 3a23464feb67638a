"""How true predicted transitions are: each is repeated in the simulator (D8, D23).

N steps · S observation dim · A action dim
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from tskd_ray.data.environments import make_environment
from tskd_ray.data.trajectories import EnvironmentSpec, Trajectories
from tskd_ray.errors import DataError
from tskd_ray.seeding import numpy_rng
from tskd_ray.types import Float64Array, FloatArray, IntArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Fidelity:
    """Errors of n sampled steps against the simulator started in the same state."""

    steps: IntArray  # (n,) step numbers
    state_error: Float64Array  # (n,) rms over dimensions, in sd of a true step
    reward_error: Float64Array  # (n,) claimed − true
    terminated: IntArray  # (n,) 1 where the simulator says that the task ended

    def summary(self) -> dict[str, float]:
        """Median and 95th percentile of the state error; rms and bias of the reward error."""
        return {
            "step_error_median": float(np.median(self.state_error)),
            "step_error_p95": float(np.quantile(self.state_error, 0.95)),
            "reward_error_rms": float(np.sqrt(np.square(self.reward_error).mean())),
            "reward_error_bias": float(self.reward_error.mean()),
        }


def one_step_fidelity(
    trajectories: Trajectories,
    environment: EnvironmentSpec,
    seed: int,
    *,
    samples: int = 1000,
    among: IntArray | None = None,
    step_std: FloatArray | None = None,
) -> Fidelity:
    """Repeat sampled transitions in the simulator: same state, same action.

    Args:
        trajectories: Generated, stitched or recorded episodes.
        environment: A MuJoCo environment whose observation is (part of) its state.
        seed: Chooses the steps.
        samples: How many, at most.
        among: Step numbers to choose from, ascending; default: all.
        step_std: (S,) sd of a true step s' − s, the unit of the state error; default: measured
            on the simulator's own answers.

    Raises:
        DataError: If the environment's state cannot be set from an observation.
    """
    steps = sample_steps(trajectories, seed, samples, among=among)
    states = trajectories.observations[trajectories.step_state[steps]].astype(np.float64)
    claimed = trajectories.observations[trajectories.step_state[steps] + 1].astype(np.float64)
    true = true_steps(states, trajectories.actions[steps], environment)
    actual = true.next_states
    unit = (actual - states).std(axis=0) if step_std is None else np.asarray(step_std)
    scaled = (claimed - actual) / np.where(unit > 0, unit, 1.0)
    return Fidelity(
        steps=steps,
        state_error=np.sqrt(np.square(scaled).mean(axis=1)),
        reward_error=trajectories.rewards[steps] - true.rewards,
        terminated=true.terminated,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class TrueSteps:
    """What the simulator answered."""

    next_states: Float64Array  # (n, S)
    rewards: Float64Array  # (n,)
    terminated: IntArray  # (n,) 1 where it says that the task ended


def sample_steps(
    trajectories: Trajectories, seed: int, samples: int, *, among: IntArray | None = None
) -> IntArray:
    """Numbers of steps, (n,), all where there are no more; of `among`, if given."""
    rng = numpy_rng(seed, "fidelity")
    total = trajectories.n_steps if among is None else len(among)
    steps = np.sort(rng.choice(total, size=min(samples, total), replace=False))
    return steps if among is None else among[steps]


def true_steps(
    states: FloatArray, actions: FloatArray, environment: EnvironmentSpec
) -> TrueSteps:
    """Where actions (n, A) lead from states (n, S), and what they earn.

    Raises:
        DataError: If the environment's state cannot be set from an observation.
    """
    actual, reward = np.empty(states.shape), np.empty(len(states))
    ended = np.zeros(len(states), dtype=np.int64)
    simulator = make_environment(environment)
    try:
        simulator.reset(seed=0)
        for row, state in enumerate(states):
            set_observation(simulator, state.astype(np.float64))
            answer = simulator.unwrapped.step(actions[row])
            actual[row], reward[row], ended[row] = answer[0], answer[1], answer[2]
    finally:
        simulator.close()
    return TrueSteps(next_states=actual, rewards=reward, terminated=ended)


def replay_returns(
    trajectories: Trajectories, environment: EnvironmentSpec, episodes: IntArray
) -> Float64Array:
    """Return (n,) that the actions of these episodes really earn from their first states.

    Actions are played open loop until the task ends, so small errors grow: a replayed return
    below a predicted one is normal, one far below says that the predictions are dreams.

    Raises:
        DataError: If the environment's state cannot be set from an observation.
    """
    earned = np.zeros(len(episodes))
    simulator = make_environment(environment)
    try:
        for row, index in enumerate(episodes):
            episode = trajectories.episode(int(index))
            simulator.reset(seed=0)
            set_observation(simulator, episode["observations"][0].astype(np.float64))
            for action in episode["actions"]:
                _, reward, terminated, *_ = simulator.unwrapped.step(action)
                earned[row] += float(reward)
                if terminated:
                    break
    finally:
        simulator.close()
    return earned


def set_observation(simulator: gym.Env[Any, Any], observation: Float64Array) -> None:
    """Put a MuJoCo simulator into the state that an observation shows.

    Observations there are (positions, velocities), usually without the first positions, which
    are set to 0: the world looks the same anywhere along the track.

    Raises:
        DataError: If the environment is no such one.
    """
    bare: Any = simulator.unwrapped
    model = getattr(bare, "model", None)
    positions = int(getattr(model, "nq", 0))
    velocities = int(getattr(model, "nv", 0))
    hidden = positions + velocities - len(observation)
    if not hasattr(bare, "set_state") or not 0 <= hidden < positions:
        raise DataError(
            "Checking predictions needs a MuJoCo environment that observes its positions and "
            f"velocities. {simulator.spec.id if simulator.spec else bare!r} has "
            f"{positions} + {velocities}, observations of {len(observation)}. Leave the check "
            "out."
        )
    split = positions - hidden
    bare.set_state(np.concatenate([np.zeros(hidden), observation[:split]]), observation[split:])
