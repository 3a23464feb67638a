"""One epoch of Algorithm 4: decide every hop, walk, price the hops used, keep the best.

E episodes · N steps · S states · d observation dim · a action dim
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from tskd_ray.data.trajectories import Origin, Trajectories, ranges
from tskd_ray.errors import ConfigError, DataError
from tskd_ray.stitching.densities import GaussianArrays, GaussianModel, LogDensity
from tskd_ray.stitching.hops import HopDecisions, Verdict, count_neighbours, decide_hops
from tskd_ray.stitching.problem import (
    Candidate,
    HopProblem,
    Metric,
    Search,
    hop_problem,
    in_blocks,
)
from tskd_ray.stitching.walks import END_NAMES, OnCycle, Walks, follow_hops
from tskd_ray.types import BoolArray, Float64Array, FloatArray, IntArray

Improvement = Literal["absolute", "paper"]
PairModel = Callable[[FloatArray, FloatArray], FloatArray]

_SAMPLE = 512
"""Transitions whose neighbourhoods are counted in full for the report."""

_PATH = 2**23
"""Steps of walks held at a time while returns are summed."""

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, kw_only=True)
class StitchCounts:
    """Vital signs of an epoch (D18, D19, D21, D23), for `metrics.json` and the report."""

    episodes: int
    transitions: int
    neighbours: tuple[float, ...]  # 0, 25, 50, 75, 100 % of neighbourhood sizes, on a sample
    better_share: float  # share of transitions with a better-valued neighbour
    hops_accepted: int
    refused_no_neighbour: int
    refused_no_better: int
    refused_dynamics: int
    hops_used: int  # distinct ones on some walk
    ends_terminated: int
    ends_truncated: int
    ends_cycle: int
    ends_cap: int
    replaced: int
    replaced_cyclic: int  # came back to a state they had left
    replaced_foreign_limit: int  # ended by the time limit of another trajectory

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class StitchResult:
    """The outcome of one epoch. Inputs are numbered as in the D' that was given."""

    trajectories: Trajectories  # the next D, best first
    order: IntArray  # (keep,) their input numbers
    replaced: BoolArray  # (E,) per input trajectory
    returns: Float64Array  # (E,) per input trajectory, after replacement
    hops: IntArray  # (h, 2) source and destination state of each distinct hop used, sorted
    ends: tuple[str, ...]  # (E,) how each input trajectory's walk ended, see `END_NAMES`
    counts: StitchCounts


def stitch_epoch(
    trajectories: Trajectories,
    *,
    value: Callable[[FloatArray], FloatArray],
    log_density: LogDensity | GaussianModel | GaussianArrays,
    action: PairModel,
    reward: PairModel,
    radius: float,
    acceptance: float = 0.1,
    candidate: Candidate = "dynamics_first",
    improvement: Improvement = "absolute",
    on_cycle: OnCycle = "stop",
    max_length: int = 1000,
    keep: int | None = None,
    metric: Metric = "raw",
    search: Search = "auto",
    threads: int = 1,
) -> StitchResult:
    """Stitch D' once: Algorithm 4, exactly, whatever its size.

    Within an epoch everything a decision looks at is frozen, so each transition is decided
    once, walks are pointer chasing, and models see each distinct hop once.

    Args:
        trajectories: D' = D and the generated ones after it; the order is part of the input.
        value: V(S) -> (n,). Called once per state, in fixed-size blocks.
        log_density: log p_m(S2 | S) -> (M, n); or, faster, an object with `gaussian(S)` ->
            (mean, log_std), (M, n, d) each, or with those as arrays over all steps.
        action: Inverse dynamics f(S, S2) -> (n, a). Called on distinct used hops only.
        reward: DDR-II's reward of (S, S2) -> (n,). Called likewise.
        radius: ρ, inclusive. `suggest_radius` finds one by neighbour count.
        acceptance: p̃; a new trajectory must be this much better, as a share of |return|.
        candidate: "dynamics_first", or "best_value_first" (as printed; D18).
        improvement: "absolute", or "paper", under which worse ones replace negative ones (D14).
        on_cycle: "stop" or "cap" (D21).
        max_length: Environment's time limit; a walk is cut there, but not before the length of
            its own trajectory.
        keep: T, how many of the best to return; default as many as came in.
        metric: "raw", or "standardized" distances (D19).
        search: "auto", "cells" or "faiss-flat"; the result is the same.
        threads: Of the cell search; the result is the same.

    Raises:
        ConfigError: If an option is out of its range.
        DataError: If a model returns another shape than it must.

    Reference: Li & Zhang (2024), Algorithm 4; docs/algorithm.md, D13 to D22.
    """
    _check(acceptance, improvement, on_cycle, max_length, keep)
    problem = hop_problem(
        trajectories,
        value=value,
        log_density=log_density,
        radius=radius,
        candidate=candidate,
        metric=metric,
        search=search,
    )
    return finish_epoch(
        trajectories,
        problem,
        decide_hops(problem, threads=threads),
        action=action,
        reward=reward,
        acceptance=acceptance,
        improvement=improvement,
        on_cycle=on_cycle,
        max_length=max_length,
        keep=keep,
    )


def finish_epoch(
    trajectories: Trajectories,
    problem: HopProblem,
    decisions: HopDecisions,
    *,
    action: PairModel,
    reward: PairModel,
    acceptance: float = 0.1,
    improvement: Improvement = "absolute",
    on_cycle: OnCycle = "stop",
    max_length: int = 1000,
    keep: int | None = None,
) -> StitchResult:
    """From the decisions of all transitions to the next D; arguments as `stitch_epoch`.

    Raises:
        DataError: If a transition is missing among the decisions or there twice.
    """
    _check(acceptance, improvement, on_cycle, max_length, keep)
    n = trajectories.n_steps
    if not np.array_equal(np.sort(decisions.transitions), np.arange(n)):
        raise DataError(
            f"Each of the {n} transitions must be decided exactly once. Got "
            f"{len(decisions.transitions)} decisions of "
            f"{len(np.unique(decisions.transitions))} transitions."
        )
    destination = np.empty(n, dtype=np.int64)
    destination[decisions.transitions] = decisions.candidate
    walks = follow_hops(trajectories, destination, on_cycle=on_cycle, max_length=max_length)

    used = np.flatnonzero(walks.used)  # sorted by step, hence by source state
    hops = np.stack([trajectories.step_state[used], destination[used]], axis=1)
    pairs = trajectories.observations[hops[:, 0]], trajectories.observations[hops[:, 1]]
    actions = _predicted("action", action, *pairs, trajectories.actions)
    rewards = _predicted("reward", reward, *pairs, trajectories.rewards)
    old = trajectories.returns
    new = _walk_returns(trajectories, walks, used, rewards)
    replaced = (walks.n_hops > 0) & _improves(new, old, acceptance, improvement)
    returns = np.where(replaced, new, old)
    keep = trajectories.n_episodes if keep is None else min(keep, trajectories.n_episodes)
    order = np.argsort(-returns, kind="stable")[:keep]  # NaN goes last
    return StitchResult(
        trajectories=_assemble(trajectories, walks, order, replaced, actions, rewards),
        order=order,
        replaced=replaced,
        returns=returns,
        hops=hops,
        ends=tuple(END_NAMES[end] for end in walks.end),
        counts=_count(trajectories, problem, decisions, walks, replaced),
    )


def _improves(
    new: Float64Array, old: Float64Array, acceptance: float, improvement: Improvement
) -> BoolArray:
    """Step 3 of Algorithm 4 (D14); a NaN return compares false and keeps the original."""
    if improvement == "paper":
        return new > (1 + acceptance) * old
    return new > old + acceptance * np.abs(old)


def _walk_returns(
    trajectories: Trajectories, walks: Walks, used: IntArray, hop_rewards: FloatArray
) -> Float64Array:
    """Return of every walk, (E,), summed in float64 as `Trajectories.returns` does (D22)."""
    rewards = np.array(trajectories.rewards, dtype=np.float64)
    rewards[used] = hop_rewards  # a walk never takes such a step as recorded
    returns = trajectories.returns.copy()  # right where there is no hop
    hopped = np.flatnonzero(walks.n_hops)
    block = np.cumsum(walks.length[hopped]) // _PATH
    for number in np.unique(block):
        episodes = hopped[block == number]
        starts = np.cumsum(walks.length[episodes]) - walks.length[episodes]
        returns[episodes] = np.add.reduceat(rewards[walks.steps_of(episodes)], starts)
    return returns


def _assemble(
    old: Trajectories,
    walks: Walks,
    order: IntArray,
    replaced: BoolArray,
    hop_actions: FloatArray,
    hop_rewards: FloatArray,
) -> Trajectories:
    """The episodes of `order`, each replaced one as its walk went."""
    fresh = replaced[order]
    length = np.where(fresh, walks.length[order], old.lengths[order])
    offsets = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
    fresh_step = np.repeat(fresh, length)
    steps = np.empty(offsets[-1], dtype=np.int64)
    steps[fresh_step] = walks.steps_of(order[fresh])
    steps[~fresh_step] = ranges(old.offsets[order[~fresh]], length[~fresh])
    hop = fresh_step & walks.used[steps]
    slot = (np.cumsum(walks.used) - 1)[steps[hop]]  # row among the used hops

    final_rows = offsets[1:] + np.arange(len(order))
    state = np.empty(len(steps) + len(order), dtype=np.int64)
    state[final_rows] = np.where(fresh, walks.last_state[order], old.final_states[order])
    inner = np.ones(len(state), dtype=np.bool_)
    inner[final_rows] = False
    state[inner] = old.step_state[steps]

    actions, rewards, origin = old.actions[steps], old.rewards[steps], old.origin[steps]
    actions[hop], rewards[hop], origin[hop] = (
        hop_actions[slot],
        hop_rewards[slot],
        Origin.STITCHED,
    )
    episode_origin = old.episode_origin[order]
    episode_origin[fresh] = Origin.STITCHED
    terminated, truncated = old.terminated[order], old.truncated[order]
    terminated[fresh], truncated[fresh] = _end_flags(old, walks, order[fresh])
    return replace(
        old,
        observations=old.observations[state],
        actions=actions,
        rewards=rewards,
        offsets=offsets,
        terminated=terminated,
        truncated=truncated,
        origin=origin,
        source_episode=old.source_episode[steps],
        source_step=old.source_step[steps],
        episode_id=old.episode_id[order],
        episode_origin=episode_origin,
    )


def _end_flags(
    old: Trajectories, walks: Walks, episodes: IntArray
) -> tuple[BoolArray, BoolArray]:
    """Flags of the episode whose final state a walk reached; cycle and cap are truncations."""
    cut = walks.end[episodes] >= END_NAMES.index("cycle")
    landed = _episode_of_state(old, walks.last_state[episodes])
    return ~cut & old.terminated[landed], cut | old.truncated[landed]


def _episode_of_state(trajectories: Trajectories, states: IntArray) -> IntArray:
    return np.searchsorted(trajectories.state_offsets, states, side="right") - 1


def _predicted(
    name: str, model: PairModel, sources: FloatArray, targets: FloatArray, like: FloatArray
) -> FloatArray:
    """A model's rows for the used hops, in shape and dtype as the recorded column `like`."""
    if not len(sources):
        return like[:0]
    rows = in_blocks(model, sources, targets)
    if rows.shape != (len(sources), *like.shape[1:]):
        raise DataError(
            f"{name} must return rows shaped {('n', *like.shape[1:])} for n pairs of states. "
            f"Got {rows.shape} in all for {len(sources)} pairs."
        )
    return rows.astype(like.dtype)


def _count(
    trajectories: Trajectories,
    problem: HopProblem,
    decisions: HopDecisions,
    walks: Walks,
    replaced: BoolArray,
) -> StitchCounts:
    n = trajectories.n_steps
    sample = np.unique(np.linspace(0, n - 1, min(n, _SAMPLE)).astype(np.int64))
    sizes = np.quantile(count_neighbours(problem, sample), _QUANTILES)
    verdicts = np.bincount(decisions.verdict, minlength=len(Verdict))
    ends = np.bincount(walks.end, minlength=len(END_NAMES))
    own = np.arange(trajectories.n_episodes)
    foreign = _episode_of_state(trajectories, walks.last_state) != own
    at_limit = walks.end == END_NAMES.index("truncated")
    return StitchCounts(
        episodes=trajectories.n_episodes,
        transitions=n,
        neighbours=tuple(float(size) for size in sizes),
        better_share=float(verdicts[Verdict.ACCEPTED] + verdicts[Verdict.DYNAMICS]) / n,
        hops_accepted=int(verdicts[Verdict.ACCEPTED]),
        refused_no_neighbour=int(verdicts[Verdict.NO_NEIGHBOUR]),
        refused_no_better=int(verdicts[Verdict.NO_BETTER]),
        refused_dynamics=int(verdicts[Verdict.DYNAMICS]),
        hops_used=int(walks.used.sum()),
        ends_terminated=int(ends[0]),
        ends_truncated=int(ends[1]),
        ends_cycle=int(ends[2]),
        ends_cap=int(ends[3]),
        replaced=int(replaced.sum()),
        replaced_cyclic=int((replaced & walks.cyclic).sum()),
        replaced_foreign_limit=int((replaced & foreign & at_limit).sum()),
    )


def _check(
    acceptance: float, improvement: str, on_cycle: str, max_length: int, keep: int | None
) -> None:
    for name, got, options in (
        ("improvement", improvement, get_args(Improvement)),
        ("on_cycle", on_cycle, get_args(OnCycle)),
    ):
        if got not in options:
            raise ConfigError(f"{name} must be one of {', '.join(options)}. Got {got!r}.")
    for name, number, least in (
        ("acceptance", acceptance, 0),
        ("max_length", max_length, 1),
        ("keep", 1 if keep is None else keep, 1),
    ):
        if not number >= least:
            raise ConfigError(f"{name} must be at least {least}. Got {number}.")
