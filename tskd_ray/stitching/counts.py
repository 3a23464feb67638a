"""What happened in an epoch, in numbers: the vital signs of stitching (D18, D19, D21, D23).

E episodes · N steps · S states
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tskd_ray.data.trajectories import Trajectories
from tskd_ray.stitching.hops import HopDecisions, Verdict, count_neighbours
from tskd_ray.stitching.problem import HopProblem
from tskd_ray.stitching.walks import END_NAMES, Paths, Walks
from tskd_ray.types import BoolArray, IntArray

_SAMPLE = 512
"""Transitions whose neighbourhoods are counted in full."""

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, kw_only=True)
class StitchCounts:
    """Vital signs of an epoch (D18, D19, D21, D23), for `metrics.json` and the report."""

    episodes: int
    transitions: int
    decided: int  # of them, the rest lie where no walk comes
    neighbours: tuple[float, ...]  # 0, 25, 50, 75, 100 % of neighbourhood sizes, on a sample
    better_share: float  # share of the decided with a better-valued neighbour
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


def neighbourhood_sizes(problem: HopProblem) -> tuple[float, ...]:
    """0, 25, 50, 75, 100 % quantiles of how many candidates are near, on a sample of s'."""
    n = problem.n_transitions
    sample = np.unique(np.linspace(0, n - 1, min(n, _SAMPLE)).astype(np.int64))
    sizes = np.quantile(count_neighbours(problem, sample), _QUANTILES)
    return tuple(float(size) for size in sizes)


def count_epoch(
    trajectories: Trajectories,
    neighbours: Sequence[float],
    decisions: HopDecisions,
    walks: Walks,
    replaced: BoolArray,
) -> StitchCounts:
    """Counts of an epoch; `replaced`, (E,), tells the trajectories that walks took over."""
    decided = len(decisions.verdict)
    verdicts = np.bincount(decisions.verdict, minlength=len(Verdict))
    return StitchCounts(
        decided=decided,
        neighbours=tuple(neighbours),
        better_share=float(verdicts[Verdict.ACCEPTED] + verdicts[Verdict.DYNAMICS]) / decided,
        hops_accepted=int(verdicts[Verdict.ACCEPTED]),
        refused_no_neighbour=int(verdicts[Verdict.NO_NEIGHBOUR]),
        refused_no_better=int(verdicts[Verdict.NO_BETTER]),
        refused_dynamics=int(verdicts[Verdict.DYNAMICS]),
        hops_used=int(walks.used.sum()),
        **count_walks(trajectories, walks, replaced),
    )


def count_walks(
    trajectories: Trajectories, walks: Paths, replaced: BoolArray
) -> dict[str, int]:
    """What walks did, whoever decided their hops; `replaced` as in `count_epoch`."""
    ends = np.bincount(walks.end, minlength=len(END_NAMES))
    own = np.arange(trajectories.n_episodes)
    foreign = episode_of_state(trajectories, walks.last_state) != own
    at_limit = walks.end == END_NAMES.index("truncated")
    return {
        "episodes": trajectories.n_episodes,
        "transitions": trajectories.n_steps,
        **{f"ends_{name}": int(count) for name, count in zip(END_NAMES, ends, strict=True)},
        "replaced": int(replaced.sum()),
        "replaced_cyclic": int((replaced & walks.cyclic).sum()),
        "replaced_foreign_limit": int((replaced & foreign & at_limit).sum()),
    }


def episode_of_state(trajectories: Trajectories, states: IntArray) -> IntArray:
    """Which episode each state number belongs to."""
    return np.searchsorted(trajectories.state_offsets, states, side="right") - 1
