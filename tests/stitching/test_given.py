"""Walks that somebody else decided: against a literal loop, and against our own epochs."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from stitching.cases import Case, random_case
from tskd_ray.data.extensions import Part
from tskd_ray.data.trajectories import Origin, Trajectories
from tskd_ray.errors import DataError
from tskd_ray.stitching.epoch import StitchResult, finish_epoch
from tskd_ray.stitching.given import finish_given, read_walks
from tskd_ray.stitching.hops import decide_hops
from tskd_ray.stitching.problem import hop_problem
from tskd_ray.stitching.walks import Walks, follow_hops

Walk = list[Part]
PRICED = ("action", "reward", "acceptance", "improvement", "max_length", "whole", "keep")


def finish(case: Case, walks: list[Walk]) -> StitchResult:
    priced = {name: case.options[name] for name in PRICED}
    return finish_given(case.trajectories, read_walks(case.trajectories, walks), **priced)


def random_walks(trajectories: Trajectories, rng: np.random.Generator) -> list[Walk]:
    """From some episodes; they hop anywhere, also twice from one state, and end anywhere."""
    lengths, walks = trajectories.lengths, list[Walk]()
    for start in rng.permutation(trajectories.n_episodes)[: rng.integers(len(lengths) + 1)]:
        walk, episode, first = Walk(), int(start), 0
        while rng.random() < 0.7 and first < lengths[episode]:
            walk.append((episode, first, int(rng.integers(first, lengths[episode]))))
            episode = int(rng.integers(trajectories.n_episodes))
            first = int(rng.integers(lengths[episode] + 1))
        walk.append((episode, first, int(rng.integers(first, lengths[episode] + 1))))
        walks.append(walk)
    return walks


def literal_walk(case: Case, walk: Walk) -> dict[str, Any]:
    """One episode of such a walk, a step at a time; `hops`: how many; `cut`: whether."""
    episodes = case.trajectories.episodes()
    start = episodes[walk[0][0]]
    limit = max(case.options["max_length"], len(start["actions"]))
    places = [(e, i) for e, first, last in walk for i in range(first, last + 1)][: limit + 1]
    states = [episodes[e]["observations"][i] for e, i in places]
    rows: dict[str, list[Any]] = {
        name: [] for name in ("actions", "rewards", "origin", "source_episode", "source_step")
    }
    hops = 0
    for number, (e, i) in enumerate(places[:-1]):
        step = {name: episodes[e][name][i] for name in rows}
        if places[number + 1] != (e, i + 1):
            pair = states[number][None], states[number + 1][None]
            step["actions"] = case.options["action"](*pair)[0]
            step["rewards"] = case.options["reward"](*pair)[0]
            step["origin"] = Origin.STITCHED
            hops += 1
        for name, value in step.items():
            rows[name].append(value)
    e, i = places[-1]
    ended = i == len(episodes[e]["actions"])
    return {
        "observations": np.array(states),
        **{
            name: np.array(values, dtype=start[name].dtype).reshape(-1, *start[name].shape[1:])
            for name, values in rows.items()
        },
        "terminated": ended and episodes[e]["terminated"],
        "truncated": not ended or episodes[e]["truncated"],
        "episode_id": start["episode_id"],
        "episode_origin": Origin.STITCHED,
        "hops": hops,
        "cut": not ended,
        "cyclic": len(set(places)) < len(places),
    }


@pytest.mark.parametrize("batch", range(4))
def test_walks_are_followed_priced_and_kept_as_a_loop_does_it(batch: int) -> None:
    replaced = cyclic = 0
    for seed in range(batch * 25, (batch + 1) * 25):
        case = random_case(seed)
        walks = random_walks(case.trajectories, np.random.default_rng(seed))
        result = finish(case, walks)
        episodes = case.trajectories.episodes()
        returns = [sum(map(float, episode["rewards"])) for episode in episodes]
        paper, p = case.options["improvement"] == "paper", case.options["acceptance"]
        circles = 0
        for walk in walks:
            found, e = literal_walk(case, walk), walk[0][0]
            old, new = returns[e], sum(map(float, found["rewards"]))
            better = new > (1 + p) * old if paper else new > old + p * abs(old)
            barred = found.pop("cut") and case.options["whole"]
            if found.pop("hops") and better and not barred:
                circles += found.pop("cyclic")
                found.pop("cyclic", None)
                episodes[e], returns[e] = found, new
                replaced += 1
        order = np.argsort(-np.array(returns), kind="stable")[: case.options["keep"]]
        assert result.order.tolist() == order.tolist(), seed
        assert result.counts.replaced_cyclic == circles
        cyclic += circles
        for got, number in zip(result.trajectories.episodes(), order, strict=True):
            assert got.keys() == episodes[number].keys()
            for key, want in episodes[number].items():
                np.testing.assert_array_equal(got[key], want, err_msg=f"{seed} {key}")
    assert replaced > 5
    assert cyclic


def parts_of(trajectories: Trajectories, walks: Walks, episode: int) -> Walk:
    """A walk of ours by its parts."""
    steps, row = walks.path_of(np.array([episode]))
    states = np.append(trajectories.step_state[steps], walks.last_state[episode])
    episodes = np.searchsorted(trajectories.state_offsets, states, side="right") - 1
    inside = states - trajectories.state_offsets[episodes]
    cuts = np.flatnonzero(row >= 0)
    firsts, lasts = np.append(0, cuts + 1), np.append(cuts, len(states) - 1)
    return [
        (int(episodes[first]), int(inside[first]), int(inside[last]))
        for first, last in zip(firsts, lasts, strict=True)
    ]


def test_the_walks_of_an_epoch_of_ours_give_what_it_gave() -> None:
    replaced = 0
    for seed in range(40):
        case = random_case(seed)
        trajectories, options = case.trajectories, dict(case.options)
        names = ("value", "log_density", "radius", "candidate", "metric")
        problem = hop_problem(trajectories, **{name: options.pop(name) for name in names})
        decisions = decide_hops(problem)
        ours = finish_epoch(trajectories, decisions, **options)
        limits = {name: options[name] for name in ("on_cycle", "max_length")}
        walks = follow_hops(trajectories, decisions.candidate, **limits)
        given = [parts_of(trajectories, walks, e) for e in range(trajectories.n_episodes)]
        result = finish(case, given[::-1])
        for name in ("order", "replaced", "returns", "hops"):
            np.testing.assert_array_equal(getattr(result, name), getattr(ours, name), str(seed))
        for mine, theirs in zip(
            ours.trajectories.episodes(), result.trajectories.episodes(), strict=True
        ):
            for key in mine:
                np.testing.assert_array_equal(theirs[key], mine[key], err_msg=f"{seed} {key}")
        assert result.counts.replaced_foreign_limit == ours.counts.replaced_foreign_limit
        replaced += ours.counts.replaced
    assert replaced > 10


@pytest.mark.parametrize(
    ("walk", "message"),
    [
        ([(0, 0, 1), (7, 0, 2)], "be of an episode, 0 to 1. Part 1 of walk 1 is episode 7,"),
        ([(0, 0, 1), (1, 3, 2)], "0 <= first state <= last state <= steps of its episode"),
        ([(0, 0, 1), (1, 2, 4)], "Part 1 of walk 1 is episode 1 of 3 steps, states 2 to 4."),
        ([(0, 0, 3), (1, 0, 3)], "end before its episode, since a hop follows. Part 0 of"),
        ([(0, 1, 2), (1, 0, 3)], "begin its episode, as the first one of a walk. Part 0 of"),
        ([(1, 0, 2), (0, 0, 3)], "begin an episode that no other does. Part 0 of walk 1"),
        ([], "whole numbers. Walk 1 is []."),
        ([(0, 0, 0.5)], "whole numbers. Walk 1 is [(0, 0, 0.5)]."),
        ([(0, 0, 1), (1, 2)], "whole numbers. Walk 1 is [(0, 0, 1), (1, 2)]."),
        (3, "whole numbers. Walk 1 is 3."),
    ],
)
def test_what_is_no_walk_is_told(walk: Any, message: str) -> None:
    episode = {
        "observations": np.zeros((4, 1)),
        "actions": np.zeros((3, 1)),
        "rewards": np.zeros(3),
        "terminated": True,
    }
    trajectories = Trajectories.from_episodes([episode, episode])
    with pytest.raises(DataError, match=re.escape(message)):
        read_walks(trajectories, [[(1, 0, 2)], walk])
