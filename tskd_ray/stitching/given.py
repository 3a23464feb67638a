"""Walks whose hops somebody else decided, such as an extension: checked, and followed.

E episodes · P parts of all walks · V states that they visit · S states of D'
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tskd_ray.data.extensions import Part
from tskd_ray.data.trajectories import Trajectories, ranges
from tskd_ray.errors import DataError
from tskd_ray.stitching.counts import StitchCounts, count_walks
from tskd_ray.stitching.epoch import Improvement, PairModel, StitchResult, take_walks
from tskd_ray.stitching.walks import END_NAMES, Paths, steps_of_states
from tskd_ray.types import BoolArray, Int8Array, IntArray

_EPISODE, _FIRST, _LAST = range(3)


@dataclass(frozen=True, kw_only=True, eq=False)
class GivenWalks:
    """As `Paths`, with every step held; an episode without a walk goes its own way."""

    length: IntArray  # (E,)
    n_hops: IntArray  # (E,)
    last_state: IntArray  # (E,)
    end: Int8Array  # (E,)
    cyclic: BoolArray  # (E,)
    begins: IntArray  # (E,) where the walk's steps begin below, if it hops
    steps: IntArray  # steps of the walks given, one walk after the other
    rows: IntArray  # as many: row among the hops, -1: as recorded

    def path_of(self, episodes: IntArray) -> tuple[IntArray, IntArray]:
        """As of `Paths`; of walks that hop."""
        at = ranges(self.begins[episodes], self.length[episodes])
        return self.steps[at], self.rows[at]


def read_walks(trajectories: Trajectories, walks: Iterable[Sequence[Part]]) -> list[IntArray]:
    """Walks as arrays of their parts (p, 3), by the episode that they begin with.

    Args:
        trajectories: D'.
        walks: Each by its parts, in any order, at most one from the start of each episode.
            From the last state of a part it hops to the first of the next one.

    Raises:
        DataError: If a part is none of these trajectories', a walk begins elsewhere than an
            episode or where another one does, or hops from a final state.
    """
    parts = [_numbers(number, walk) for number, walk in enumerate(walks)]
    _check(trajectories, parts)
    return sorted(parts, key=lambda walk: int(walk[0, _EPISODE]))


def finish_given(
    trajectories: Trajectories,
    walks: Sequence[IntArray],
    *,
    action: PairModel,
    reward: PairModel,
    acceptance: float = 0.1,
    improvement: Improvement = "absolute",
    max_length: int = 1000,
    whole: bool = False,
    keep: int | None = None,
) -> StitchResult:
    """From walks to the next D, as `finish_epoch` from decisions.

    Args:
        trajectories: D'.
        walks: As `read_walks` gives them.
        action: As in `stitch_epoch`, as what follows.
        reward: Likewise.
        acceptance: p̃.
        improvement: D14.
        max_length: A walk is cut there, but not before the length of its own episode.
        whole: D24; a walk that ends within an episode has been cut.
        keep: T.
    """
    followed, hops = _follow(trajectories, walks, max_length)
    return take_walks(
        trajectories,
        followed,
        hops,
        action=action,
        reward=reward,
        acceptance=acceptance,
        improvement=improvement,
        whole=whole,
        keep=keep,
        count=partial(_count, trajectories, followed, len(hops)),
    )


def _check(trajectories: Trajectories, walks: Sequence[IntArray]) -> None:
    """Raise what `read_walks` does."""
    begun = set[int]()
    for number, parts in enumerate(walks):
        episode, first, last = parts.T
        known = (episode >= 0) & (episode < trajectories.n_episodes)
        steps = trajectories.lengths[np.where(known, episode, 0)]
        rows = np.arange(len(parts))
        for wrong, rule in (
            (~known, f"be of an episode, 0 to {trajectories.n_episodes - 1}"),
            (
                (first < 0) | (first > last) | (last > steps),
                "have 0 <= first state <= last state <= steps of its episode",
            ),
            (
                (rows < rows[-1]) & (last == steps),
                "end before its episode, since a hop follows",
            ),
            ((rows == 0) & (first != 0), "begin its episode, as the first one of a walk"),
            ((rows == 0) & (int(episode[0]) in begun), "begin an episode that no other does"),
        ):
            if wrong.any():
                row = int(wrong.argmax())
                of = f" of {steps[row]} steps" if known[row] else ""
                raise DataError(
                    f"A part of a walk must {rule}. Part {row} of walk {number} is episode "
                    f"{episode[row]}{of}, states {first[row]} to {last[row]}."
                )
        begun.add(int(episode[0]))


def _numbers(number: int, walk: Sequence[Part]) -> IntArray:
    """The parts of one walk, (p, 3)."""
    try:
        parts = np.asarray(walk)
    except ValueError:  # ragged
        parts = np.empty((0, 0))
    if parts.dtype.kind not in "iu" or parts.ndim != 2 or not len(parts) or len(parts[0]) != 3:
        raise DataError(
            "A walk must be a sequence of parts (episode, first state, last state), at least "
            f"one, whole numbers. Walk {number} is {str(walk)[:60]}."
        )
    return parts.astype(np.int64)


def _follow(
    old: Trajectories, walks: Sequence[IntArray], max_length: int
) -> tuple[GivenWalks, IntArray]:
    """Walks of checked parts, by their episodes; and their distinct hops (h, 2), sorted."""
    owner, visited, place = _visited(old, walks, max_length)
    leaves = np.flatnonzero(owner[1:] == owner[:-1])
    source, target = visited[leaves], visited[leaves + 1]
    hop = target != source + 1  # none leaves a final state, which another episode's follows
    pairs = np.stack([source[hop], target[hop]], axis=1)
    hops, row = np.unique(pairs, axis=0, return_inverse=True)
    rows = np.full(len(leaves), -1, dtype=np.int64)
    rows[hop] = row.ravel()

    length, last_state = old.lengths.copy(), old.final_states.copy()
    ends = np.flatnonzero(np.diff(owner, append=-1))
    length[owner[ends]], last_state[owner[ends]] = place[ends], visited[ends]
    end = np.full(old.n_states, END_NAMES.index("cap"), dtype=np.int8)
    end[old.final_states] = np.where(old.terminated, *map(END_NAMES.index, END_NAMES[:2]))
    cyclic = np.zeros(old.n_episodes, dtype=np.bool_)
    both = np.stack([owner, visited], axis=1)
    met, times = np.unique(both, axis=0, return_counts=True)
    cyclic[met[times > 1, 0]] = True
    walker = owner[leaves]
    walked = GivenWalks(
        length=length,
        n_hops=np.bincount(walker[hop], minlength=old.n_episodes),
        last_state=last_state,
        end=end[last_state],
        cyclic=cyclic,
        begins=np.searchsorted(walker, np.arange(old.n_episodes)),
        steps=steps_of_states(old)[source],
        rows=rows,
    )
    return walked, hops


def _visited(
    old: Trajectories, walks: Sequence[IntArray], max_length: int
) -> tuple[IntArray, IntArray, IntArray]:
    """The V states that walks visit: whose walk, the state's number, its place in the walk."""
    parts = np.concatenate([np.empty((0, 3), dtype=np.int64), *walks])
    begun = np.array([walk[0, _EPISODE] for walk in walks], dtype=np.int64)
    counts = parts[:, _LAST] - parts[:, _FIRST] + 1
    states = ranges(old.state_offsets[parts[:, _EPISODE]] + parts[:, _FIRST], counts)
    owner = np.repeat(np.repeat(begun, [len(walk) for walk in walks]), counts)
    place = np.arange(len(owner)) - np.searchsorted(owner, owner)
    kept = place <= np.maximum(max_length, old.lengths[owner])
    return owner[kept], states[kept], place[kept]


def _count(
    trajectories: Trajectories, walks: Paths, hops: int, replaced: BoolArray
) -> StitchCounts:
    """Counts of an epoch without decisions: every hop given is accepted."""
    return StitchCounts(
        decided=trajectories.n_steps,
        neighbours=(),
        better_share=0.0,
        hops_accepted=hops,
        refused_no_neighbour=0,
        refused_no_better=0,
        refused_dynamics=0,
        hops_used=hops,
        **count_walks(trajectories, walks, replaced),
    )
