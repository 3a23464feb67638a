"""Decisions at one radius from those at a larger one, of the same D', V and ensemble.

The best candidate within the larger radius, where it lies within the smaller one, is the best
there too; where there is none, there is none. Only the rest is searched again.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from tskd_ray.stitching.hops import HopDecisions, Verdict
from tskd_ray.stitching.problem import HopProblem
from tskd_ray.stitching.shards import within_radius
from tskd_ray.types import IntArray


class Decide(Protocol):
    """`decide_hops` of the problem with the smaller radius, wherever it runs."""

    def __call__(self, transitions: IntArray, *, dynamics: bool) -> HopDecisions:
        raise NotImplementedError


def narrow_hops(problem: HopProblem, wide: HopDecisions, decide: Decide) -> HopDecisions:
    """What `decide_hops(problem)` gives, from all decisions at a larger radius.

    Args:
        problem: With the smaller radius.
        wide: Of all transitions, by number, of a problem that differs in its radius only.
        decide: Asked for what is left: whole decisions, or, far cheaper, only whether
            something better is near.
    """
    n = problem.n_transitions
    accepted = np.flatnonzero(wide.verdict == Verdict.ACCEPTED)
    candidate = np.full(n, -1, dtype=np.int64)
    verdict = np.array(wide.verdict)
    near = within_radius(problem, problem.source[accepted], wide.candidate[accepted])
    candidate[accepted[near]] = wide.candidate[accepted[near]]
    refused = verdict == Verdict.DYNAMICS
    again = np.zeros(n, dtype=np.bool_)
    again[accepted[~near]] = True
    if problem.candidate == "best_value_first":
        again |= refused  # the best of fewer may be another one, which passes
    for rows, dynamics in (
        (np.flatnonzero(again), True),
        (np.flatnonzero((refused | (verdict == Verdict.NO_BETTER)) & ~again), False),
    ):
        if len(rows):
            decided = decide(rows, dynamics=dynamics)
            candidate[rows] = decided.candidate
            verdict[rows] = decided.verdict
    return HopDecisions(transitions=np.arange(n), candidate=candidate, verdict=verdict)
