"""What a radius means on a dataset: neighbourhoods, hops, walks and replacements at several.

N transitions of D' · E trajectories

Everything is computed by the functions that an epoch itself uses. On large datasets the counts
are of a sample of transitions and the walks those of a sample of trajectories, deciding what
they reach; `Explanation.notes` says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from tskd_ray.data.trajectories import Trajectories
from tskd_ray.progress import Progress, silent
from tskd_ray.stitching.counts import neighbourhood_sizes
from tskd_ray.stitching.epoch import Improvement, PairModel, finish_epoch
from tskd_ray.stitching.hops import Verdict, decide_hops
from tskd_ray.stitching.problem import (
    Candidate,
    GaussianArrays,
    GaussianModel,
    LogDensity,
    Metric,
    Search,
    hop_problem,
)
from tskd_ray.stitching.radius import suggest_radius
from tskd_ray.stitching.sampling import decide_along, sample_transitions, sample_walkers
from tskd_ray.stitching.walks import END_NAMES, OnCycle, Walks, follow_hops
from tskd_ray.types import BoolArray, FloatArray, IntArray

NEIGHBOURS = (1, 10, 50, 100, 1000)
"""Radii are looked at where the median state has that many others."""

DECIDED = 200_000
"""Transitions decided at each radius at most; a sample of them beyond."""

WALKED = 200
"""Trajectories walked at each radius if there are more than `DECIDED` transitions."""

PRICED = 2_000
"""Hops of one radius whose rewards are predicted, at most; the configured one's always are."""

SHARE = 0.5
"""Of the best radius' replacements: a radius with as many is worth trying."""


@dataclass(frozen=True, kw_only=True)
class WalkCounts:
    """What walks from the starts of trajectories did."""

    trajectories: int
    hops_used: int  # distinct ones
    ends: dict[str, int]  # by `END_NAMES`
    replaced: int | None  # trajectories; None: the hops' rewards were not predicted
    replaced_cyclic: int | None  # of those, came back to a state they had left

    @property
    def gained(self) -> int | None:
        """Trajectories replaced by walks that do not go round."""
        if self.replaced is None or self.replaced_cyclic is None:
            return None
        return self.replaced - self.replaced_cyclic


@dataclass(frozen=True, kw_only=True)
class RadiusCounts:
    """One radius. Of `transitions` decided, each was accepted or refused by one test."""

    radius: float
    asked: int | None  # neighbours that the median state has there; None: it was configured
    configured: bool
    neighbours: tuple[float, ...]  # 0, 25, 50, 75, 100 % of neighbourhood sizes, on a sample
    transitions: int
    accepted: int
    no_neighbour: int
    no_better: int  # no neighbour of higher value
    dynamics: int  # none of those passes eq. 9
    walks: WalkCounts

    @property
    def better_share(self) -> float:
        """Share of transitions with a better-valued neighbour."""
        return (self.accepted + self.dynamics) / self.transitions


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """Radii worth trying, among those looked at: see `suggest`."""

    best: float
    gained: int  # trajectories replaced at `best` by walks that do not go round
    near: tuple[float, ...]  # all radii, `best` included, with at least `SHARE` of that


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What radii mean on a D'."""

    episodes: int
    transitions: int
    radii: tuple[RadiusCounts, ...]  # ascending
    suggestion: Suggestion | None  # None: no walk gains but by going round
    notes: tuple[str, ...]  # sentences on what was sampled, left out, or looks odd

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name, for JSON."""
        return asdict(self)


def explain(
    trajectories: Trajectories,
    *,
    value: Callable[[FloatArray], FloatArray],
    log_density: LogDensity | GaussianModel | GaussianArrays,
    reward: PairModel,
    radius: float,
    neighbours: Sequence[int] = NEIGHBOURS,
    acceptance: float = 0.1,
    candidate: Candidate = "dynamics_first",
    improvement: Improvement = "absolute",
    on_cycle: OnCycle = "stop",
    max_length: int = 1000,
    whole: bool = False,
    metric: Metric = "raw",
    search: Search = "auto",
    threads: int = 1,
    seed: int = 0,
    decided: int = DECIDED,
    walked: int = WALKED,
    priced: int = PRICED,
    progress: Progress = silent,
) -> Explanation:
    """Count, at several radii, what one stitching epoch would meet and do.

    Args:
        trajectories: D', recorded episodes first, then generated ones.
        value: As in `stitch_epoch`, as are all arguments up to `threads` that have its names.
        log_density: Likewise.
        reward: Likewise; called on the hops that walks use, see `priced`.
        radius: ρ as configured.
        neighbours: Further radii, see `suggest_radius`; those that the dataset is too small
            for are left out.
        acceptance: p̃.
        candidate: Order of the tests.
        improvement: Which walks replace their trajectories.
        on_cycle: What ends a walk.
        max_length: Environment's time limit.
        whole: Whether only walks that come to a final state replace their trajectories.
        metric: Of distances.
        search: Backend.
        threads: Of the search.
        seed: Of the suggested radii and of the sample.
        decided: Transitions decided at each radius, at most.
        walked: Trajectories walked at each radius if there are more transitions than that.
        priced: Hops used at a radius up to which replacements are counted there.
        progress: Told the radii done.
    """
    asked: dict[float, int | None] = {radius: None}
    known = int(np.isfinite(trajectories.observations).all(axis=1).sum())
    for k in neighbours:
        if k < known:
            asked[suggest_radius(trajectories.observations, k, seed, metric=metric)] = k
    problem = hop_problem(
        trajectories,
        value=value,
        log_density=log_density,
        radius=radius,
        candidate=candidate,
        metric=metric,
        search=search,
    )
    n = trajectories.n_steps
    sample = sample_transitions(n, decided, seed)
    walkers = sample_walkers(trajectories.n_episodes, None if n <= decided else walked, seed)
    limits: dict[str, Any] = {"on_cycle": on_cycle, "max_length": max_length}
    finish = partial(
        finish_epoch,
        trajectories,
        action=lambda s, s2: np.zeros((len(s), trajectories.action_dim)),  # never looked at
        reward=reward,
        acceptance=acceptance,
        improvement=improvement,
        whole=whole,
        keep=1,
        **limits,
    )
    rows: list[RadiusCounts] = []
    for rho in sorted(asked):
        at = dataclasses.replace(problem, radius=rho)
        decisions = decide_hops(at, sample, threads=threads)
        along = decisions
        if len(sample) < n:
            along = decide_along(trajectories, at, walkers, threads=threads, **limits)
        walks = follow_hops(trajectories, along.candidate, **limits)
        replaced = None
        if rho == radius or walks.used.sum() <= priced:
            replaced = finish(along).replaced[walkers]
        verdicts = np.bincount(decisions.verdict, minlength=len(Verdict)).tolist()
        rows.append(
            RadiusCounts(
                radius=rho,
                asked=asked[rho],
                configured=rho == radius,
                neighbours=neighbourhood_sizes(at),
                transitions=len(sample),
                accepted=verdicts[Verdict.ACCEPTED],
                no_neighbour=verdicts[Verdict.NO_NEIGHBOUR],
                no_better=verdicts[Verdict.NO_BETTER],
                dynamics=verdicts[Verdict.DYNAMICS],
                walks=_walk_counts(walks, walkers, replaced),
            )
        )
        progress(len(rows), len(asked))
    return Explanation(
        episodes=trajectories.n_episodes,
        transitions=n,
        radii=tuple(rows),
        suggestion=suggest(rows),
        notes=tuple(_notes(trajectories, rows)),
    )


def _walk_counts(walks: Walks, walkers: IntArray, replaced: BoolArray | None) -> WalkCounts:
    ends = np.bincount(walks.end[walkers], minlength=len(END_NAMES)).tolist()
    cyclic = None if replaced is None else int((replaced & walks.cyclic[walkers]).sum())
    return WalkCounts(
        trajectories=len(walkers),
        hops_used=int(walks.used.sum()),
        ends=dict(zip(END_NAMES, ends, strict=True)),
        replaced=None if replaced is None else int(replaced.sum()),
        replaced_cyclic=cyclic,
    )


def suggest(rows: Sequence[RadiusCounts]) -> Suggestion | None:
    """The radius at which walks that do not go round replace most trajectories.

    Counted by predicted rewards, where those were asked for. What the replacements are worth
    to a student, this does not know.

    Args:
        rows: By ascending radius; the smallest wins a tie.
    """
    gained = {row.radius: row.walks.gained for row in rows if row.walks.gained is not None}
    most = max(gained.values(), default=0)
    if not most:
        return None
    near = tuple(radius for radius, count in gained.items() if count >= SHARE * most)
    best = next(radius for radius, count in gained.items() if count == most)
    return Suggestion(best=best, gained=most, near=near)


def _notes(trajectories: Trajectories, rows: Sequence[RadiusCounts]) -> Iterator[str]:
    """What was sampled or left out, and what looks odd."""
    if rows[0].transitions < trajectories.n_steps:
        yield (
            f"A sample: decisions of {rows[0].transitions:,} of {trajectories.n_steps:,} "
            f"transitions, walks of {rows[0].walks.trajectories:,} of "
            f"{trajectories.n_episodes:,} trajectories."
        )
    if any(row.walks.replaced is None for row in rows):
        yield (
            "Replacements need the rewards of the hops used, which were predicted at the "
            "configured radius and where they were few."
        )
    cyclic = [
        f"{row.radius:.4g}"
        for row in rows
        if row.walks.gained is not None and row.walks.gained < (row.walks.replaced_cyclic or 0)
    ]
    if cyclic:
        yield (
            f"Most replacements are cyclic at radius {', '.join(cyclic)}: they gain by going "
            "round, through a hop that the environment may not allow."
        )
