"""One epoch of Algorithm 4: decide every hop, walk, price the hops used, keep the best.

E episodes · N steps · S states · d observation dim · a action dim
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import numpy as np

from tskd_ray.data.trajectories import Origin, Trajectories, ranges
from tskd_ray.errors import ConfigError, DataError
from tskd_ray.stitching.counts import (
    StitchCounts,
    count_epoch,
    episode_of_state,
    neighbourhood_sizes,
)
from tskd_ray.stitching.densities import GaussianArrays, GaussianModel, LogDensity
from tskd_ray.stitching.hops import HopDecisions, decide_hops
from tskd_ray.stitching.kinds import Method, join_kinds, kinds_of
from tskd_ray.stitching.problem import (
    Candidate,
    Metric,
    Search,
    hop_problem,
    in_blocks,
)
from tskd_ray.stitching.walks import END_NAMES, UNDECIDED, OnCycle, Paths, follow_hops
from tskd_ray.types import BoolArray, Float64Array, FloatArray, Int8Array, IntArray

Improvement = Literal["absolute", "paper"]
PairModel = Callable[[FloatArray, FloatArray], FloatArray]

_PATH = 2**23
"""Steps of walks held at a time while returns are summed."""


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
    whole: bool = False,
    keep: int | None = None,
    metric: Metric = "raw",
    search: Search = "auto",
    method: Method = "tskd",
    threads: int = 1,
) -> StitchResult:
    """Stitch D' once: Algorithm 4, exactly, whatever its size.

    Within an epoch everything a decision looks at is frozen, so each transition is decided
    once, walks are pointer chasing, and models see each distinct hop once.

    Args:
        trajectories: D' = D and the generated ones after it; the order is part of the input.
        value: V(S) -> (n,). Called once per state (and kind of candidates), in fixed-size
            blocks.
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
        whole: Only walks that come to a final state may replace their trajectories (D24).
        keep: T, how many of the best to return; default as many as came in.
        metric: "raw", or "standardized" distances (D19).
        search: As of `hop_problem`; the result is the same but for "faiss-ivf".
        method: "tskd": candidates are the states near s'. "mbts" (Hepburn & Montana 2022): and
            those that follow a state near s.
        threads: Of the cell search; the result is the same.

    Raises:
        ConfigError: If an option is out of its range.
        DataError: If a model returns another shape than it must.

    Reference: Li & Zhang (2024), Algorithm 4; docs/algorithm.md, D13 to D22, D24.
    """
    _check(acceptance, improvement, on_cycle, max_length, keep)
    problems = [
        hop_problem(
            trajectories,
            value=value,
            log_density=log_density,
            radius=radius,
            candidate=candidate,
            metric=metric,
            search=search,
            near=near,
        )
        for near in kinds_of(method, candidate)
    ]
    decided = [decide_hops(problem, threads=threads) for problem in problems]
    return finish_epoch(
        trajectories,
        join_kinds(problems[0], decided),
        neighbours=neighbourhood_sizes(problems[0]),
        action=action,
        reward=reward,
        acceptance=acceptance,
        improvement=improvement,
        on_cycle=on_cycle,
        max_length=max_length,
        whole=whole,
        keep=keep,
    )


def finish_epoch(
    trajectories: Trajectories,
    decisions: HopDecisions,
    *,
    action: PairModel,
    reward: PairModel,
    neighbours: Sequence[float] = (),
    acceptance: float = 0.1,
    improvement: Improvement = "absolute",
    on_cycle: OnCycle = "stop",
    max_length: int = 1000,
    whole: bool = False,
    keep: int | None = None,
) -> StitchResult:
    """From decisions to the next D; arguments as `stitch_epoch`.

    Args:
        trajectories: D'.
        decisions: Of all transitions, or at least of those that walks come to.
        action: As in `stitch_epoch`, as what follows.
        reward: Likewise.
        neighbours: `neighbourhood_sizes`, for the counts.
        acceptance: p̃.
        improvement: D14.
        on_cycle: D21.
        max_length: Steps of a walk.
        whole: D24.
        keep: T.

    Raises:
        DataError: If a transition that a walk comes to is not decided, or one is twice.
    """
    _check(acceptance, improvement, on_cycle, max_length, keep)
    n = trajectories.n_steps
    destination = np.full(n, UNDECIDED, dtype=np.int64)
    destination[decisions.transitions] = decisions.candidate
    if (destination != UNDECIDED).sum() != len(decisions.transitions):
        raise DataError(
            f"A transition must not be decided twice. Got {len(decisions.transitions)} "
            f"decisions of {(destination != UNDECIDED).sum()} transitions."
        )
    walks = follow_hops(trajectories, destination, on_cycle=on_cycle, max_length=max_length)
    used = np.flatnonzero(walks.used)  # sorted by step, hence by source state
    return take_walks(
        trajectories,
        walks,
        np.stack([trajectories.step_state[used], destination[used]], axis=1),
        action=action,
        reward=reward,
        acceptance=acceptance,
        improvement=improvement,
        whole=whole,
        keep=keep,
        count=partial(count_epoch, trajectories, neighbours, decisions, walks),
    )


def take_walks(
    trajectories: Trajectories,
    walks: Paths,
    hops: IntArray,
    *,
    action: PairModel,
    reward: PairModel,
    acceptance: float,
    improvement: Improvement,
    whole: bool,
    keep: int | None,
    count: Callable[[BoolArray], StitchCounts],
) -> StitchResult:
    """Price the hops, let walks that improve replace their episodes, keep the best.

    Args:
        trajectories: D'.
        walks: From the first state of each episode.
        hops: (h, 2) source and destination states of the distinct hops that walks use.
        action: As in `stitch_epoch`, as what follows.
        reward: Likewise.
        acceptance: p̃.
        improvement: D14.
        whole: D24.
        keep: T.
        count: Of the episodes replaced, (E,).
    """
    pairs = trajectories.observations[hops[:, 0]], trajectories.observations[hops[:, 1]]
    actions = _predicted("action", action, *pairs, trajectories.actions)
    rewards = _predicted("reward", reward, *pairs, trajectories.rewards)
    old = trajectories.returns
    new = _walk_returns(trajectories, walks, rewards)
    replaced = (walks.n_hops > 0) & _improves(new, old, acceptance, improvement)
    if whole:
        replaced &= ~_cut(walks.end)
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
        counts=count(replaced),
    )


def _improves(
    new: Float64Array, old: Float64Array, acceptance: float, improvement: Improvement
) -> BoolArray:
    """Step 3 of Algorithm 4 (D14); a NaN return compares false and keeps the original."""
    if improvement == "paper":
        return new > (1 + acceptance) * old
    return new > old + acceptance * np.abs(old)


def _walk_returns(
    trajectories: Trajectories, walks: Paths, hop_rewards: FloatArray
) -> Float64Array:
    """Return of every walk, (E,), summed in float64 as `Trajectories.returns` does (D22)."""
    returns = trajectories.returns.copy()  # right where there is no hop
    hopped = np.flatnonzero(walks.n_hops)
    block = np.cumsum(walks.length[hopped]) // _PATH
    for number in np.unique(block):
        episodes = hopped[block == number]
        starts = np.cumsum(walks.length[episodes]) - walks.length[episodes]
        steps, row = walks.path_of(episodes)
        rewards = trajectories.rewards[steps].astype(np.float64)
        rewards[row >= 0] = hop_rewards[row[row >= 0]]
        returns[episodes] = np.add.reduceat(rewards, starts)
    return returns


def _assemble(
    old: Trajectories,
    walks: Paths,
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
    row = np.full(offsets[-1], -1, dtype=np.int64)
    steps[fresh_step], row[fresh_step] = walks.path_of(order[fresh])
    steps[~fresh_step] = ranges(old.offsets[order[~fresh]], length[~fresh])
    hop = row >= 0

    final_rows = offsets[1:] + np.arange(len(order))
    state = np.empty(len(steps) + len(order), dtype=np.int64)
    state[final_rows] = np.where(fresh, walks.last_state[order], old.final_states[order])
    inner = np.ones(len(state), dtype=np.bool_)
    inner[final_rows] = False
    state[inner] = old.step_state[steps]

    actions, rewards, origin = old.actions[steps], old.rewards[steps], old.origin[steps]
    actions[hop], rewards[hop], origin[hop] = (
        hop_actions[row[hop]],
        hop_rewards[row[hop]],
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
    old: Trajectories, walks: Paths, episodes: IntArray
) -> tuple[BoolArray, BoolArray]:
    """Flags of the episode whose final state a walk reached; cycle and cap are truncations."""
    cut = _cut(walks.end[episodes])
    landed = episode_of_state(old, walks.last_state[episodes])
    return ~cut & old.terminated[landed], cut | old.truncated[landed]


def _cut(end: Int8Array) -> BoolArray:
    """Whether a walk ended elsewhere than in a final state."""
    return end >= END_NAMES.index("cycle")


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
