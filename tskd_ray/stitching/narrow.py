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


def narrow_hops(
    problem: HopProblem,
    wide: HopDecisions,
    decide: Decide,
    transitions: IntArray | None = None,
) -> HopDecisions:
    """What `decide_hops(problem, transitions)` gives, from all decisions at a larger radius.

    Args:
        problem: With the smaller radius.
        wide: Of all transitions, by number, of a problem that differs in its radius only.
        decide: Asked for what is left: whole decisions, or, far cheaper, only whether
            something better is near.
        transitions: (n,) their numbers; default all.
    """
    if transitions is None:
        transitions = np.arange(problem.n_transitions, dtype=np.int64)
    before, verdict = wide.candidate[transitions], wide.verdict[transitions]
    accepted = np.flatnonzero(verdict == Verdict.ACCEPTED)
    candidate = np.full(len(transitions), -1, dtype=np.int64)
    near = within_radius(problem, problem.source[transitions[accepted]], before[accepted])
    candidate[accepted[near]] = before[accepted[near]]
    refused = verdict == Verdict.DYNAMICS
    again = np.zeros(len(transitions), dtype=np.bool_)
    again[accepted[~near]] = True
    if problem.candidate == "best_value_first":
        again |= refused  # the best of fewer may be another one, which passes
    for rows, dynamics in (
        (np.flatnonzero(again), True),
        (np.flatnonzero((refused | (verdict == Verdict.NO_BETTER)) & ~again), False),
    ):
        if len(rows):
            order = rows[np.argsort(transitions[rows])]  # decisions come by number
            decided = decide(transitions[order], dynamics=dynamics)
            candidate[order] = decided.candidate
            verdict[order] = decided.verdict
    found = HopDecisions(transitions=transitions, candidate=candidate, verdict=verdict)
    return HopDecisions.join([found])
