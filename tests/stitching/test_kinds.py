"""MBTS's two kinds of candidates, against the literal loop over all states at every step."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stitching.cases import Case, GaussianTable, random_case
from stitching.literal import literal_decision, literal_epoch, literal_states
from stitching.test_epoch import assert_same
from tskd_ray.errors import ConfigError, DataError
from tskd_ray.stitching.epoch import finish_epoch, stitch_epoch
from tskd_ray.stitching.hops import HopDecisions, Verdict, decide_hops
from tskd_ray.stitching.kinds import join_kinds, kinds_of
from tskd_ray.stitching.problem import HopProblem, Near, Search, hop_problem

SEARCHES: tuple[Search, ...] = ("cells", "blocks", "faiss-flat")


def mbts_case(seed: int) -> Case:
    case = random_case(seed)
    return Case(case.trajectories, case.options | {"candidate": "dynamics_first"})


def problems_of(case: Case, search: Search, **options: Any) -> list[HopProblem]:
    names = ("value", "log_density", "radius", "candidate", "metric")
    shared = {name: case.options[name] for name in names}
    kinds: tuple[Near, ...] = kinds_of("mbts", "dynamics_first")
    return [
        hop_problem(case.trajectories, **shared, search=search, near=near, **options)
        for near in kinds
    ]


def decide(problems: list[HopProblem]) -> HopDecisions:
    return join_kinds(problems[0], [decide_hops(problem) for problem in problems])


@pytest.mark.parametrize("search", SEARCHES)
def test_an_epoch_is_what_the_literal_loop_does(search: Search) -> None:
    for seed in range(2000, 2060):
        case = mbts_case(seed)
        episodes = case.trajectories.episodes()
        expected = literal_epoch(episodes, **case.options, method="mbts")
        problems = problems_of(case, search)
        searched = ("value", "log_density", "radius", "candidate", "metric")
        rest = {name: given for name, given in case.options.items() if name not in searched}
        try:
            assert_same(finish_epoch(case.trajectories, decide(problems), **rest), expected)
            if search == "cells":
                assert_same(
                    stitch_epoch(case.trajectories, **case.options, method="mbts"), expected
                )
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error


def test_each_transition_is_decided_as_the_loop_decides_it() -> None:
    seen: Counter[str] = Counter()
    for seed in range(2200, 2260):
        case = mbts_case(seed)
        trajectories = case.trajectories
        options: dict[str, Any] = {**case.options, "metric": "raw"}
        states = literal_states(trajectories.episodes(), options["value"])
        asked = states, options["log_density"], options["radius"]
        scale = [1.0] * trajectories.observation_dim

        def literal(source: int, method: str, asked: Any = asked, scale: Any = scale) -> Any:
            order = "dynamics_first"
            return literal_decision(asked[0], source, asked[1], asked[2], scale, order, method)

        expected = [literal(i, "mbts") for i in trajectories.step_state.tolist()]
        decided = decide(problems_of(Case(trajectories, options), "cells"))
        got = [
            (int(c), Verdict(int(v)).name.lower())
            for c, v in zip(decided.candidate, decided.verdict, strict=True)
        ]
        assert got == expected, seed
        ours = [literal(i, "tskd") for i in trajectories.step_state.tolist()]
        seen.update(verdict for _, verdict in expected)
        seen["another state than tskd"] += expected != ours
        seen["where tskd has none"] += any(
            theirs[0] >= 0 > own[0] for theirs, own in zip(expected, ours, strict=True)
        )
    assert min(seen.values()) >= 5, seen
    assert len(seen) == 6, seen


def test_a_saved_problem_decides_the_same(tmp_path: Path) -> None:
    compared = 0
    for seed in range(2300, 2330):
        case = mbts_case(seed)
        if not isinstance(case.options["log_density"], GaussianTable):
            continue
        for search in ("cells", "blocks"):
            plain = decide(problems_of(case, search))
            saved: list[HopProblem] = []
            for number, problem in enumerate(problems_of(case, search, shard_states=7)):
                folder = tmp_path / f"{seed}-{search}-{number}"
                problem.save(folder)
                saved.append(HopProblem.open(folder))
            again = decide(saved)
            np.testing.assert_array_equal(again.candidate, plain.candidate)
            np.testing.assert_array_equal(again.verdict, plain.verdict)
            compared += 1
    assert compared > 10


def test_decisions_of_other_transitions_are_not_joined() -> None:
    problem = problems_of(mbts_case(2000), "cells")[0]
    whole = decide_hops(problem)
    some = decide_hops(problem, whole.transitions[:1])
    with pytest.raises(DataError, match="the same transitions"):
        join_kinds(problem, [whole, some])


def test_other_methods_and_orders_of_tests_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"method must be one of tskd, mbts. Got 'both'"):
        kinds_of("both", "dynamics_first")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"dynamics_first. Got best_value_first"):
        kinds_of("mbts", "best_value_first")
    assert kinds_of("tskd", "best_value_first") == ("arrival",)
