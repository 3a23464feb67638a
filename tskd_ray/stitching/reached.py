"""Decide only the transitions that walks reach, in rounds (D18's lazy form).

E episodes · N steps · S states

Where many hops are accepted, walks soon share a few good paths, and most recorded transitions
are never stood at. A round decides what the walks wait for, and some steps ahead of it along
the recording; then they go on. Walks end where another has been: what follows is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tskd_ray.data.trajectories import Trajectories, ranges
from tskd_ray.stitching.hops import HopDecisions
from tskd_ray.stitching.walks import UNDECIDED, steps_of_states
from tskd_ray.types import IntArray

FIRST_LOOK = 64
"""Steps ahead in the first round, which tells how far apart hops are."""

LOOK = (8, 1024)
"""Least and most steps ahead in later ones."""

RARE = 0.02
"""Share of accepted hops below which walks hardly leave the recording, so that all is decided
at once: half of a thousand-step walk would be reached by nothing else."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reached:
    """The decisions, and how they came about."""

    decisions: HopDecisions  # of the transitions decided, by number
    rounds: int


def decide_reached(
    trajectories: Trajectories, decide: Callable[[IntArray], HopDecisions]
) -> Reached:
    """Decide what walks from all episode starts reach; all of it, where hops are rare.

    Which transitions are decided depends on the decisions alone, not on who makes them.

    Args:
        trajectories: D'.
        decide: Decides distinct transitions, (n,) sorted numbers.
    """
    from tskd_ray.stitching.walk_kernels import advance

    n = trajectories.n_steps
    last_step = np.repeat(trajectories.offsets[1:] - 1, trajectories.lengths)
    step_of_state = steps_of_states(trajectories)
    destination = np.full(n, UNDECIDED, dtype=np.int64)
    visited = np.zeros(n, dtype=np.bool_)
    waiting = np.array(trajectories.offsets[:-1], dtype=np.int64)
    visited[waiting] = True
    parts: list[HopDecisions] = []
    look, rounds = FIRST_LOOK, 0
    while len(waiting):
        ahead = np.minimum(look, last_step[waiting] + 1 - waiting)
        wanted = np.unique(ranges(waiting, ahead))
        wanted = wanted[destination[wanted] == UNDECIDED]
        part = decide(wanted)
        parts.append(part)
        destination[part.transitions] = part.candidate
        rounds += 1
        accepted = sum(int((p.candidate >= 0).sum()) for p in parts)
        share = accepted / sum(len(p.transitions) for p in parts)
        if share < RARE:
            parts.append(decide(np.flatnonzero(destination == UNDECIDED)))
            rounds += 1
            break
        look = int(np.clip(0.5 / share, *LOOK))
        waiting = advance(waiting, trajectories.step_state, destination, step_of_state, visited)
    return Reached(decisions=HopDecisions.join(parts), rounds=rounds)
