"""Follow the decided hops from the start of every episode (D21).

E episodes · N steps · S states

Successors form a functional graph: a walk ends in a final state or goes round for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np

from tskd_ray.data.trajectories import Trajectories
from tskd_ray.errors import DataError
from tskd_ray.types import BoolArray, Int8Array, IntArray

OnCycle = Literal["stop", "cap"]

UNDECIDED = -2
"""In place of a destination, where nothing has been decided."""

END_NAMES = ("terminated", "truncated", "cycle", "cap")
"""How a walk ended: in a final state with its episode's flag, in a cycle, or at its cap."""


class Paths(Protocol):
    """One walk per episode of D', from its first state, whoever decided the hops."""

    @property
    def length(self) -> IntArray:
        """(E,) steps."""
        raise NotImplementedError

    @property
    def n_hops(self) -> IntArray:
        """(E,) how many of them are hops."""
        raise NotImplementedError

    @property
    def last_state(self) -> IntArray:
        """(E,) state number where it ended."""
        raise NotImplementedError

    @property
    def end(self) -> Int8Array:
        """(E,) place in `END_NAMES`."""
        raise NotImplementedError

    @property
    def cyclic(self) -> BoolArray:
        """(E,) it came back to a state it had left."""
        raise NotImplementedError

    def path_of(self, episodes: IntArray) -> tuple[IntArray, IntArray]:
        """Step numbers of the walks of `episodes`, one after the other, and what each step is.

        That is its row among the distinct hops that walks use, or -1: as recorded.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, eq=False)
class Walks:
    """As `Paths`, by one decision for each transition; steps are traced on demand."""

    length: IntArray  # (E,) steps
    n_hops: IntArray  # (E,) how many of them are hops
    last_state: IntArray  # (E,) state number where it ended
    end: Int8Array  # (E,) place in `END_NAMES`
    cyclic: BoolArray  # (E,) it came back to a state it had left
    used: BoolArray  # (N,) hops that some walk used
    first_step: IntArray  # (E,)
    successor: IntArray  # (N,) state number after each step
    step_of_state: IntArray  # (S,) step that leaves the state; -1 for final ones

    def steps_of(self, episodes: IntArray) -> IntArray:
        """Step numbers of the walks of `episodes`, one after the other."""
        from tskd_ray.stitching import walk_kernels

        length = self.length[episodes]
        path = np.empty(int(length.sum()), dtype=np.int64)
        walk_kernels.trace(
            self.first_step[episodes], length, self.successor, self.step_of_state, path
        )
        return path

    def path_of(self, episodes: IntArray) -> tuple[IntArray, IntArray]:
        """As of `Paths`."""
        steps = self.steps_of(episodes)
        return steps, np.where(self.used[steps], self._row[steps], -1)

    @cached_property
    def _row(self) -> IntArray:
        return np.cumsum(self.used) - 1


def follow_hops(
    trajectories: Trajectories,
    destination: IntArray,
    *,
    on_cycle: OnCycle = "stop",
    max_length: int = 1000,
) -> Walks:
    """Walk from the first state of every episode, hopping wherever a hop was decided.

    Args:
        trajectories: D'.
        destination: (N,) state number to hop to at each step, -1 to go on as recorded, or
            `UNDECIDED` where no walk may come.
        on_cycle: "stop" ends a walk when its next state has been left before; "cap" goes on.
        max_length: Steps after which a walk is cut, but never below its episode's own length.

    Raises:
        DataError: If a walk comes to an undecided step.
    """
    from tskd_ray.stitching.walk_kernels import Ends, Graph, follow

    n, e = trajectories.n_steps, trajectories.n_episodes
    step_of_state = steps_of_states(trajectories)
    terminal = np.zeros(trajectories.n_states, dtype=np.bool_)
    terminal[trajectories.final_states] = trajectories.terminated
    hop = destination >= 0
    graph = Graph(
        source=trajectories.step_state,
        successor=np.where(hop, destination, trajectories.step_state + 1),
        hop=hop,
        decided=destination != UNDECIDED,
        step_of_state=step_of_state,
        terminal=terminal,
    )
    ends = Ends(
        length=np.zeros(e, dtype=np.int64),
        n_hops=np.zeros(e, dtype=np.int64),
        last_state=np.zeros(e, dtype=np.int64),
        end=np.zeros(e, dtype=np.int8),
        cyclic=np.zeros(e, dtype=np.bool_),
        used=np.zeros(n, dtype=np.bool_),
    )
    first_step = np.array(trajectories.offsets[:-1], dtype=np.int64)
    cap = np.maximum(max_length, trajectories.lengths)
    undecided = follow(first_step, cap, graph, on_cycle == "stop", ends)
    if undecided >= 0:
        raise DataError(
            "Every transition that a walk comes to must be decided. "
            f"Transition {undecided} is not."
        )
    return Walks(
        **ends._asdict(),
        first_step=first_step,
        successor=graph.successor,
        step_of_state=step_of_state,
    )


def steps_of_states(trajectories: Trajectories) -> IntArray:
    """The step that leaves each state, (S,); -1 for final ones."""
    steps = np.full(trajectories.n_states, -1, dtype=np.int64)
    steps[trajectories.step_state] = np.arange(trajectories.n_steps)
    return steps
