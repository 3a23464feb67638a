"""Which states a method takes for candidates: one kind of them, or the best of two.

n transitions
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from tskd_ray.errors import ConfigError, DataError
from tskd_ray.stitching.hops import HopDecisions, Verdict
from tskd_ray.stitching.problem import Candidate, HopProblem, Near
from tskd_ray.types import IntArray

Method = Literal["tskd", "mbts"]

_KINDS: dict[str, tuple[Near, ...]] = {
    "tskd": ("arrival",),
    "mbts": ("arrival", "departure"),
}


def kinds_of(method: str, candidate: Candidate) -> tuple[Near, ...]:
    """The kinds of candidates that the method's decisions look at, for `hop_problem`.

    Raises:
        ConfigError: If there is no such method, or it does not know this order of tests.
    """
    if method not in _KINDS:
        raise ConfigError(
            f"method must be one of {', '.join(get_args(Method))}. Got {method!r}."
        )
    if method == "mbts" and candidate != "dynamics_first":
        raise ConfigError(
            "Method mbts takes the best of the plausible candidates, dynamics_first. Got "
            f"{candidate}. Leave it at the default, or use method tskd."
        )
    return _KINDS[method]


def join_kinds(problem: HopProblem, kinds: Sequence[HopDecisions]) -> HopDecisions:
    """The decisions on the union of candidates, from those on each kind.

    With the dynamics tested first, the best of a union that passes is the better of the best
    that pass.

    Args:
        problem: Of kind "arrival": all candidates have a rank there.
        kinds: Of the same transitions in the same order.

    Raises:
        DataError: If they are not.
    """
    transitions = kinds[0].transitions
    if any(not np.array_equal(kind.transitions, transitions) for kind in kinds):
        raise DataError("Decisions to join must be of the same transitions in the same order.")
    candidate, verdict = kinds[0].candidate.copy(), kinds[0].verdict.copy()
    rank = _ranks_of(problem, kinds[0])
    for kind in kinds[1:]:
        other = _ranks_of(problem, kind)
        better = other < rank
        candidate[better], rank[better] = kind.candidate[better], other[better]
        # Which test came furthest; an acceptance beats all.
        verdict = np.maximum(verdict, kind.verdict)
    verdict[rank < problem.nothing] = Verdict.ACCEPTED
    return HopDecisions(transitions=transitions, candidate=candidate, verdict=verdict)


def _ranks_of(problem: HopProblem, kind: HopDecisions) -> IntArray:
    """Rank of each candidate, (n,); `nothing` for none."""
    return np.where(kind.candidate < 0, problem.nothing, problem.rank[kind.candidate])
