"""`Trajectories`: episodes as flat arrays, with where every step came from.

E episodes · N steps in all · S observation dim · A action dim

An episode of L steps has L + 1 states, so `observations` has N + E rows: states are numbered
episode after episode, each episode's final state included (D15). Episode e owns steps
`offsets[e] : offsets[e + 1]` and states `offsets[e] + e : offsets[e + 1] + e + 1`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from typing import Any, Self

import numpy as np

from tskd_ray.errors import DataError
from tskd_ray.types import BoolArray, Float64Array, FloatArray, Int8Array, IntArray


class Origin(IntEnum):
    """Where a step, or an episode, came from."""

    RECORDED = 0
    GENERATED = 1
    STITCHED = 2  # a step: a hop, its action and reward predicted; an episode: holds a hop


@dataclass(frozen=True, kw_only=True)
class EnvironmentSpec:
    """The Gymnasium environment that the episodes came from: part of a dataset's identity."""

    id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    max_episode_steps: int | None = None
    observation_dim: int | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`, also after a trip through JSON.

        Raises:
            KeyError: If a bound is missing.
            TypeError: If a field is unknown.
            ValueError: If a field has another type.
        """
        bounds: dict[str, Any] = {
            name: tuple(float(value) for value in values[name])
            for name in ("action_low", "action_high")
        }
        self = cls(**{**values, **bounds})
        counts = (self.max_episode_steps, self.observation_dim)
        if (
            not isinstance(values["id"], str)
            or not isinstance(values.get("kwargs", {}), Mapping)
            or not all(count is None or type(count) is int for count in counts)
            or len(self.action_low) != len(self.action_high)
        ):
            raise ValueError("an environment has an id, kwargs, counts and bounds in pairs")
        return self


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectories:
    """Episodes as a struct of arrays. float32 and float64 are kept as they came."""

    observations: FloatArray  # (N + E, S)
    actions: FloatArray  # (N, A)
    rewards: FloatArray  # (N,) raw, undiscounted
    offsets: IntArray  # (E + 1,) first step of each episode, and N
    terminated: BoolArray  # (E,) the task ended
    truncated: BoolArray  # (E,) only the clock (or a cut) ended it
    origin: Int8Array  # (N,) `Origin` of each step
    source_episode: IntArray  # (N,) id of the recorded or generated episode it came from
    source_step: IntArray  # (N,) its step in that episode; of a hop, the step it left from
    episode_id: IntArray  # (E,) unique; a stitched episode keeps the id of its first state's
    episode_origin: Int8Array  # (E,) `Origin` of each episode
    environment: EnvironmentSpec | None = None

    def __post_init__(self) -> None:
        n, e = len(self.actions), len(self.offsets) - 1
        expected = {
            "observations": (self.observations.ndim, 2, len(self.observations), n + e),
            "actions": (self.actions.ndim, 2, len(self.actions), n),
            "rewards": (self.rewards.ndim, 1, len(self.rewards), n),
            "offsets": (self.offsets.ndim, 1, int(self.offsets[-1]) if e >= 0 else -1, n),
            "terminated": (self.terminated.ndim, 1, len(self.terminated), e),
            "truncated": (self.truncated.ndim, 1, len(self.truncated), e),
            "origin": (self.origin.ndim, 1, len(self.origin), n),
            "source_episode": (self.source_episode.ndim, 1, len(self.source_episode), n),
            "source_step": (self.source_step.ndim, 1, len(self.source_step), n),
            "episode_id": (self.episode_id.ndim, 1, len(self.episode_id), e),
            "episode_origin": (self.episode_origin.ndim, 1, len(self.episode_origin), e),
        }
        for name, (ndim, want_ndim, length, want_length) in expected.items():
            if ndim != want_ndim or length != want_length:
                raise DataError(
                    f"{name} must have {want_ndim} dimension(s) and {want_length} rows for "
                    f"{e} episodes of {n} steps in all. Got {ndim} dimension(s), {length} rows."
                )
        lengths = np.diff(self.offsets)
        if e and (self.offsets[0] != 0 or lengths.min() < 1):
            bad = int(np.flatnonzero(lengths < 1)[0]) if lengths.min() < 1 else 0
            raise DataError(
                f"Every episode needs at least one step. Episode {bad} has "
                f"{int(lengths[bad])}. Remove it from the dataset."
            )
        if len(np.unique(self.episode_id)) != e:
            raise DataError("Episode ids must be unique. Renumber the episodes.")

    # -- sizes and views ---------------------------------------------------------------

    @property
    def n_episodes(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_steps(self) -> int:
        return len(self.actions)

    @property
    def n_states(self) -> int:
        return len(self.observations)

    @property
    def observation_dim(self) -> int:
        return self.observations.shape[1]

    @property
    def action_dim(self) -> int:
        return self.actions.shape[1]

    @cached_property
    def lengths(self) -> IntArray:
        """Steps of each episode, (E,)."""
        return np.diff(self.offsets)

    @cached_property
    def state_offsets(self) -> IntArray:
        """First state number of each episode, and N + E; (E + 1,)."""
        return self.offsets + np.arange(len(self.offsets))

    @cached_property
    def step_episode(self) -> IntArray:
        """Index of the episode each step belongs to, (N,)."""
        return np.repeat(np.arange(self.n_episodes), self.lengths)

    @cached_property
    def step_state(self) -> IntArray:
        """State number that each step leaves; it arrives at the next one; (N,)."""
        return np.arange(self.n_steps) + self.step_episode

    def step_std(self) -> FloatArray:
        """Sd of a step s' − s, the unit of state errors; (S,)."""
        first = self.step_state
        return (self.observations[first + 1] - self.observations[first]).std(axis=0)

    @cached_property
    def final_states(self) -> IntArray:
        """State number of each episode's final state, (E,)."""
        return self.state_offsets[1:] - 1

    @cached_property
    def returns(self) -> Float64Array:
        """Undiscounted return of each episode, summed in float64 (D22); (E,)."""
        if not self.n_episodes:
            return np.zeros(0)
        return np.add.reduceat(self.rewards.astype(np.float64), self.offsets[:-1])

    # -- building ----------------------------------------------------------------------

    @classmethod
    def from_episodes(
        cls,
        episodes: Iterable[Mapping[str, Any]],
        *,
        environment: EnvironmentSpec | None = None,
        origin: Origin = Origin.RECORDED,
        first_id: int = 0,
    ) -> Self:
        """Build from plain arrays.

        Args:
            episodes: Mappings with `observations` (L + 1, S), `actions` (L, A), `rewards` (L,),
                `terminated` bool and optionally `truncated` (default: not terminated).
            environment: Where they came from, if known.
            origin: Origin of every step.
            first_id: Id of the first episode; the rest follow.

        Raises:
            DataError: If an episode is empty or ragged; names it. Values are not looked at: NaN
                is legal in memory (D17), while `load_trajectories` refuses it.
        """
        episodes = list(episodes)
        if not episodes:
            raise DataError("A dataset needs at least one episode. Got none.")
        observations, actions, rewards = [], [], []
        for number, episode in enumerate(episodes):
            obs, act, rew = (
                _floating(episode[key]) for key in ("observations", "actions", "rewards")
            )
            _check_episode(number, obs, act, rew)
            if observations and (
                obs.shape[1:] != observations[0].shape[1:]
                or act.shape[1:] != actions[0].shape[1:]
            ):
                raise DataError(
                    f"All episodes must have the same widths. Episode {number} has "
                    f"observations {obs.shape} and actions {act.shape}; episode 0 has "
                    f"{observations[0].shape} and {actions[0].shape}."
                )
            observations.append(obs)
            actions.append(act)
            rewards.append(rew)
        lengths = np.array([len(act) for act in actions], dtype=np.int64)
        n, e = int(lengths.sum()), len(lengths)
        terminated = np.array([bool(episode["terminated"]) for episode in episodes])
        truncated = np.array(
            [
                bool(ep.get("truncated", not done))
                for ep, done in zip(episodes, terminated, strict=True)
            ]
        )
        ids = np.arange(first_id, first_id + e, dtype=np.int64)
        return cls(
            observations=np.ascontiguousarray(np.concatenate(observations)),
            actions=np.ascontiguousarray(np.concatenate(actions)),
            rewards=np.concatenate(rewards),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            terminated=terminated,
            truncated=truncated,
            origin=np.full(n, origin, dtype=np.int8),
            source_episode=np.repeat(ids, lengths),
            source_step=np.concatenate([np.arange(length) for length in lengths]).astype(
                np.int64
            ),
            episode_id=ids,
            episode_origin=np.full(e, origin, dtype=np.int8),
            environment=environment,
        )

    def episodes(self) -> list[dict[str, Any]]:
        """Each episode as a dict of views: what `from_episodes` takes."""
        return [self.episode(index) for index in range(self.n_episodes)]

    def episode(self, index: int) -> dict[str, Any]:
        """Episode number `index` as a dict of views, provenance included."""
        steps = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        states = slice(int(self.state_offsets[index]), int(self.state_offsets[index + 1]))
        return {
            "observations": self.observations[states],
            "actions": self.actions[steps],
            "rewards": self.rewards[steps],
            "terminated": bool(self.terminated[index]),
            "truncated": bool(self.truncated[index]),
            "origin": self.origin[steps],
            "source_episode": self.source_episode[steps],
            "source_step": self.source_step[steps],
            "episode_id": int(self.episode_id[index]),
            "episode_origin": Origin(int(self.episode_origin[index])),
        }

    def take(self, indices: IntArray | Sequence[int]) -> Self:
        """The episodes at `indices`, in that order."""
        indices = np.asarray(indices, dtype=np.int64)
        lengths = self.lengths[indices]
        steps = ranges(self.offsets[indices], lengths)
        states = ranges(self.state_offsets[indices], lengths + 1)
        return replace(
            self,
            observations=self.observations[states],
            actions=self.actions[steps],
            rewards=self.rewards[steps],
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            terminated=self.terminated[indices],
            truncated=self.truncated[indices],
            origin=self.origin[steps],
            source_episode=self.source_episode[steps],
            source_step=self.source_step[steps],
            episode_id=self.episode_id[indices],
            episode_origin=self.episode_origin[indices],
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """All episodes of `parts`, in order; ids must not clash."""
        parts = [part for part in parts if part.n_episodes] or list(parts[:1])
        widths = {(part.observation_dim, part.action_dim) for part in parts}
        if len(widths) != 1:
            raise DataError(
                "Datasets joined together must have the same widths. Got (observation, action) "
                f"widths {sorted(widths)}."
            )
        starts = np.cumsum([0] + [part.n_steps for part in parts])
        columns = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in (
                "observations", "actions", "rewards", "terminated", "truncated", "origin",
                "source_episode", "source_step", "episode_id", "episode_origin",
            )
        }  # fmt: skip
        offsets = [
            part.offsets[:-1] + start for part, start in zip(parts, starts, strict=False)
        ]
        return cls(
            **columns,
            offsets=np.concatenate([*offsets, starts[-1:]]).astype(np.int64),
            environment=parts[0].environment,
        )


def ranges(starts: IntArray, lengths: IntArray) -> IntArray:
    """The integers of `[start, start + length)` for each pair, one after the other."""
    total = int(lengths.sum())
    shift = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    return np.arange(total, dtype=np.int64) + shift.astype(np.int64)


def _check_episode(number: int, obs: FloatArray, act: FloatArray, rew: FloatArray) -> None:
    if obs.ndim != 2 or act.ndim != 2 or rew.ndim != 1:
        raise DataError(
            "An episode has observations (L + 1, S), actions (L, A) and rewards (L,). "
            f"Episode {number} has {obs.shape}, {act.shape} and {rew.shape}."
        )
    if not len(act) or len(rew) != len(act) or len(obs) != len(act) + 1:
        raise DataError(
            "An episode of L >= 1 steps has L + 1 observations, L actions and L rewards. "
            f"Episode {number} has {len(obs)}, {len(act)} and {len(rew)}."
        )


def _floating(values: Any) -> FloatArray:
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise DataError(
            f"Observations, actions and rewards are real numbers. Got {array.dtype}. Convert "
            "them."
        )
    return floating(array)


def floating(array: np.ndarray) -> FloatArray:
    """Numbers in float32 or float64 and native byte order, as torch and our kernels need."""
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:  # no format has long doubles
        return array.astype(np.float64)
    if array.dtype.itemsize < 4:
        return array.astype(np.float32)
    return array.astype(array.dtype.newbyteorder("="), copy=False)
