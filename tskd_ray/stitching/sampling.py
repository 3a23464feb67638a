"""Samples of a dataset that an epoch's decisions can be studied on without making all of them.

N transitions of D' · E trajectories
"""

from __future__ import annotations

import numpy as np

from tskd_ray.data.trajectories import Trajectories
from tskd_ray.seeding import numpy_rng
from tskd_ray.stitching.hops import HopDecisions, Verdict, decide_hops
from tskd_ray.stitching.problem import HopProblem
from tskd_ray.stitching.walks import OnCycle, follow_hops
from tskd_ray.types import BoolArray, IntArray

_RUN = 128
"""Consecutive transitions sampled together, since densities are evaluated in such blocks."""

_AHEAD = 64
"""Steps of each walk decided at a time: one at a time takes too many rounds, and all too many
decisions that a hop makes useless."""


def sample_transitions(n: int, most: int, seed: int) -> IntArray:
    """Numbers of all n transitions, or of about `most` in random runs of `_RUN`; sorted."""
    if n <= most:
        return np.arange(n, dtype=np.int64)
    runs = -(-n // _RUN)
    rng = numpy_rng(seed, "explain")
    first = np.sort(rng.choice(runs, size=max(1, most // _RUN), replace=False)) * _RUN
    transitions = (first[:, None] + np.arange(_RUN)).ravel()
    return transitions[transitions < n]


def sample_walkers(e: int, most: int | None, seed: int) -> IntArray:
    """Numbers of all e trajectories, or of `most` at random; sorted."""
    if most is None or e <= most:
        return np.arange(e, dtype=np.int64)
    return np.sort(numpy_rng(seed, "explain", "walks").choice(e, size=most, replace=False))


def decide_along(
    trajectories: Trajectories,
    problem: HopProblem,
    walkers: IntArray,
    *,
    threads: int = 1,
    on_cycle: OnCycle = "stop",
    max_length: int = 1000,
) -> HopDecisions:
    """The decisions of all transitions, where most that the walks do not reach are no hop.

    Those decided in vain lie behind a hop, so that no walk of any trajectory comes to them.

    Args:
        trajectories: D'.
        problem: Its snapshot.
        walkers: Numbers of the trajectories whose walks matter.
        threads: Of the search.
        on_cycle: As in `follow_hops`.
        max_length: Likewise.
    """
    n = trajectories.n_steps
    candidate = np.full(n, -1, dtype=np.int64)
    verdict = np.full(n, Verdict.NO_NEIGHBOUR, dtype=np.int8)
    known = np.zeros(n, dtype=np.bool_)
    while True:
        walks = follow_hops(trajectories, candidate, on_cycle=on_cycle, max_length=max_length)
        steps = walks.steps_of(walkers)
        ahead = _next_unknown(known[steps], walks.length[walkers])
        if not ahead.any():
            break
        decisions = decide_hops(problem, np.unique(steps[ahead]), threads=threads)
        candidate[decisions.transitions] = decisions.candidate
        verdict[decisions.transitions] = decisions.verdict
        known[decisions.transitions] = True
    return HopDecisions(transitions=np.arange(n), candidate=candidate, verdict=verdict)


def _next_unknown(known: BoolArray, length: IntArray) -> BoolArray:
    """The next `_AHEAD` unknown steps of each walk, of all walks' steps in a row."""
    before = np.cumsum(~known)
    starts = np.cumsum(length) - length
    of_walk = before - np.repeat(before[starts] - ~known[starts], length)
    return ~known & (of_walk <= _AHEAD)
