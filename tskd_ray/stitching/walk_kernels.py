"""Compiled inner loops of the walks.

E walks · N steps · S states

Imported only where a loop is about to run, since importing numba takes as long as small work.
"""
# What numba compiles is untyped outside.
# pyright: reportUntypedFunctionDecorator=false

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tskd_ray.compiled import compiled
from tskd_ray.types import BoolArray, Int8Array, IntArray

TERMINATED, TRUNCATED, CYCLE, CAP = 0, 1, 2, 3
"""How a walk ended, in the order of `walks.END_NAMES`."""


class Graph(NamedTuple):
    """The functional graph of an epoch."""

    source: IntArray  # (N,) state number that each step leaves
    successor: IntArray  # (N,) state number it arrives at, recorded or hopped to
    hop: BoolArray  # (N,)
    decided: BoolArray  # (N,)
    step_of_state: IntArray  # (S,) step that leaves the state; -1 for final ones
    terminal: BoolArray  # (S,)


class Ends(NamedTuple):
    """What `follow` fills in."""

    length: IntArray  # (E,) steps
    n_hops: IntArray  # (E,)
    last_state: IntArray  # (E,)
    end: Int8Array  # (E,)
    cyclic: BoolArray  # (E,) came back to a state it had left
    used: BoolArray  # (N,) hops on some walk


@compiled
def follow(
    first_step: IntArray, cap: IntArray, graph: Graph, stop_at_cycle: bool, ends: Ends
) -> int:
    """Walk from each of `first_step`, (E,), for at most `cap`, (E,), steps; fills `ends`.

    Returns:
        An undecided step that a walk came to, where the work ends at once; -1 if none did.
    """
    left_by = np.full(graph.step_of_state.shape[0], -1, dtype=np.int64)
    for walk in range(first_step.shape[0]):
        step = first_step[walk]
        while True:
            if not graph.decided[step]:
                return int(step)
            left_by[graph.source[step]] = walk
            ends.length[walk] += 1
            if graph.hop[step]:
                ends.n_hops[walk] += 1
                ends.used[step] = True
            state = graph.successor[step]
            step = graph.step_of_state[state]
            if step < 0:
                ends.end[walk] = TERMINATED if graph.terminal[state] else TRUNCATED
                break
            if left_by[state] == walk:
                ends.cyclic[walk] = True
                if stop_at_cycle:
                    ends.end[walk] = CYCLE
                    break
            if ends.length[walk] >= cap[walk]:
                ends.end[walk] = CAP
                break
        ends.last_state[walk] = state
    return -1


@compiled
def trace(
    first_step: IntArray,
    length: IntArray,
    successor: IntArray,
    step_of_state: IntArray,
    path: IntArray,
) -> None:
    """The steps of walks of known lengths, one walk after the other, into `path`."""
    place = 0
    for walk in range(first_step.shape[0]):
        step = first_step[walk]
        for _ in range(length[walk]):
            path[place] = step
            place += 1
            step = step_of_state[successor[step]]


@compiled
def advance(
    waiting: IntArray,
    source: IntArray,
    destination: IntArray,
    step_of_state: IntArray,
    visited: BoolArray,
) -> IntArray:
    """Walk on from each step of `waiting`, (W,); the undecided steps reached, sorted.

    Args:
        waiting: Steps whose destinations have become known.
        source: (N,) state number that each step leaves.
        destination: (N,) state hopped to, -1 for none, below that undecided.
        step_of_state: (S,) step that leaves the state; -1 for final ones.
        visited: (N,) steps that some walk has reached; updated.
    """
    reached = np.empty_like(waiting)
    count = 0
    for step in waiting:
        while destination[step] >= -1:
            hop = destination[step]
            step = step_of_state[hop if hop >= 0 else source[step] + 1]
            if step < 0 or visited[step]:
                break
            visited[step] = True
        else:
            reached[count] = step
            count += 1
    return np.sort(reached[:count])
