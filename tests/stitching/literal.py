"""Algorithm 4 as printed, one step at a time: the slow and obvious oracle.

Shares no code with tskd_ray.stitching. Two nested loops over trajectories and steps; at each
step every state of D' is looked at. Distances are plain float64 sums over the dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Literal:
    """What the loop found; the fields that `StitchResult` has too."""

    episodes: list[dict[str, Any]] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    replaced: list[bool] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    hops: set[tuple[int, int]] = field(default_factory=set)
    ends: list[str] = field(default_factory=list)
    cyclic: list[bool] = field(default_factory=list)
    foreign_limit: list[bool] = field(default_factory=list)


@dataclass
class State:
    """One row of D': its episode, its place there, its value for comparisons."""

    episode: int
    step: int
    row: np.ndarray
    value: float
    final: bool


def log_mean(log_p: list[float]) -> float:
    """log of the mean density of the members (D13)."""
    if any(math.isnan(p) for p in log_p):
        return math.nan
    largest = max(log_p)
    if math.isinf(largest):
        return largest
    return largest + math.log(sum(math.exp(p - largest) for p in log_p) / len(log_p))


def literal_states(episodes: list[dict[str, Any]], value: Callable[..., Any]) -> list[State]:
    """All states of D' in their numbering (D15), with V = 0 at terminal ones (D16)."""
    states = []
    for number, episode in enumerate(episodes):
        rows = episode["observations"]
        values = value(rows)
        for step, row in enumerate(rows):
            final = step == len(rows) - 1
            terminal = final and episode["terminated"]
            states.append(
                State(number, step, row, 0.0 if terminal else float(values[step]), final)
            )
    return states


def literal_decision(  # noqa: C901 - one decision, as printed
    states: list[State],
    source: int,
    log_density: Callable[..., Any],
    radius: float,
    scale: list[float],
    candidate: str,
    method: str = "tskd",
) -> tuple[int, str]:
    """The state to hop to from `source`, or -1, and which test refused."""
    arrival = source + 1
    recorded = states[arrival]
    neighbours = []

    def near(one: State, other: State) -> bool:
        squared = 0.0
        for a, b, unit in zip(one.row.tolist(), other.row.tolist(), scale, strict=True):
            squared += (a / unit - b / unit) ** 2
        return math.sqrt(squared) <= radius

    for x, other in enumerate(states):
        if x in (source, arrival) or math.isnan(other.value):
            continue
        if not np.isfinite([*other.row.tolist(), *recorded.row.tolist()]).all():
            continue
        # MBTS: or the state that follows one near s
        follows = method == "mbts" and other.step > 0
        if near(other, recorded) or (follows and near(states[x - 1], states[source])):
            neighbours.append(x)
    better = [x for x in neighbours if states[x].value > recorded.value]
    if not better:
        return -1, "no_better" if neighbours else "no_neighbour"
    better.sort(key=lambda x: (-states[x].value, x))
    if candidate == "best_value_first":
        better = better[:1]
    s = states[source].row[None]
    least = log_mean([float(p) for p in log_density(s, recorded.row[None])[:, 0]])
    for x in better:
        log_p = [float(p) for p in log_density(s, states[x].row[None])[:, 0]]
        if not any(math.isnan(p) for p in log_p) and min(log_p) >= least:
            return x, "accepted"
    return -1, "dynamics"


def literal_epoch(  # noqa: C901, PLR0912, PLR0915 - one loop, as printed
    episodes: list[dict[str, Any]],
    *,
    value: Callable[..., Any],
    log_density: Callable[..., Any],
    action: Callable[..., Any],
    reward: Callable[..., Any],
    radius: float,
    acceptance: float,
    candidate: str,
    improvement: str,
    on_cycle: str,
    max_length: int,
    whole: bool,
    keep: int,
    metric: str,
    method: str = "tskd",
) -> Literal:
    """One epoch of Algorithm 4, literally."""
    states = literal_states(episodes, value)
    first = [i for i, state in enumerate(states) if state.step == 0]
    scale = [1.0] * len(states[0].row)
    if metric == "standardized":
        known = [state.row for state in states if all(math.isfinite(v) for v in state.row)]
        for k in range(len(scale)):
            deviation = (
                float(np.std(np.array(known, dtype=np.float64), axis=0)[k]) if known else 0
            )
            scale[k] = deviation if deviation > 0 else 1.0
    result = Literal()
    candidates = []
    for number, episode in enumerate(episodes):
        new: dict[str, list[Any]] = {key: [] for key in ("obs", "act", "rew", "origin", "from")}
        here, left, hops, cyclic, foreign_limit = first[number], set(), 0, False, False
        new["obs"].append(states[here].row)
        while True:
            left.add(here)
            e, t = states[here].episode, states[here].step
            target, _ = literal_decision(
                states, here, log_density, radius, scale, candidate, method
            )
            new["from"].append((e, t))
            if target >= 0:
                s, s2 = states[here].row[None], states[target].row[None]
                new["act"].append(action(s, s2)[0])
                new["rew"].append(reward(s, s2)[0])
                new["origin"].append(2)
                result.hops.add((here, target))
                hops += 1
                here = target
            else:
                new["act"].append(episodes[e]["actions"][t])
                new["rew"].append(episodes[e]["rewards"][t])
                new["origin"].append(int(episodes[e]["origin"][t]))
                here = here + 1
            new["obs"].append(states[here].row)
            flags = (False, True)
            if states[here].final:
                landed = episodes[states[here].episode]
                flags = (landed["terminated"], landed["truncated"])
                end = "terminated" if landed["terminated"] else "truncated"
                foreign_limit = end == "truncated" and states[here].episode != number
                break
            if here in left:
                cyclic = True
                if on_cycle == "stop":
                    end = "cycle"
                    break
            if len(new["act"]) == max(max_length, len(episode["actions"])):
                end = "cap"
                break
        old_return = sum(float(r) for r in episode["rewards"])
        new_return = sum(float(r) for r in new["rew"])
        if improvement == "paper":
            least = (1 + acceptance) * old_return
        else:
            least = old_return + acceptance * abs(old_return)
        replaced = hops > 0 and new_return > least and not (whole and end in ("cycle", "cap"))
        result.replaced.append(replaced)
        result.returns.append(new_return if replaced else old_return)
        result.ends.append(end)
        result.cyclic.append(cyclic)
        result.foreign_limit.append(foreign_limit)
        if replaced:
            sources = [episodes[e]["source_episode"][t] for e, t in new["from"]]
            source_steps = [episodes[e]["source_step"][t] for e, t in new["from"]]
            candidates.append({
                "observations": np.array(new["obs"]),
                "actions": np.array(new["act"]),
                "rewards": np.array(new["rew"]),
                "origin": np.array(new["origin"]),
                "source_episode": np.array(sources),
                "source_step": np.array(source_steps),
                "terminated": flags[0],
                "truncated": flags[1],
                "episode_id": episode["episode_id"],
                "episode_origin": 2,
            })  # fmt: skip
        else:
            candidates.append(episode)
    nan_last = [-math.inf if math.isnan(r) else r for r in result.returns]
    nans = [math.isnan(r) for r in result.returns]
    result.order = sorted(range(len(episodes)), key=lambda i: (nans[i], -nan_last[i], i))[:keep]
    result.episodes = [candidates[i] for i in result.order]
    return result
