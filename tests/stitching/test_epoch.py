"""`stitch_epoch` against the literal loop, and what random cases rarely look at."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from stitching.cases import Case, GaussianTable, random_case
from stitching.literal import Literal, literal_decision, literal_epoch, literal_states
from tskd_ray.data.trajectories import Origin, Trajectories
from tskd_ray.errors import ConfigError, DataError
from tskd_ray.stitching.counts import neighbourhood_sizes
from tskd_ray.stitching.epoch import StitchResult, finish_epoch, stitch_epoch
from tskd_ray.stitching.hops import HopDecisions, Verdict, decide_hops
from tskd_ray.stitching.narrow import narrow_hops
from tskd_ray.stitching.problem import Search, hop_problem
from tskd_ray.stitching.reached import decide_reached

BATCHES = 25
CASES_PER_BATCH = 24


def stitch(case: Case, search: str) -> StitchResult:
    """`stitch_epoch` with a search that is named."""
    options = dict(case.options)
    names = ("value", "log_density", "radius", "candidate", "metric")
    problem = hop_problem(
        case.trajectories,
        **{name: options.pop(name) for name in names},
        search=search,  # pyright: ignore[reportArgumentType]
    )
    return finish_epoch(
        case.trajectories,
        decide_hops(problem),
        neighbours=neighbourhood_sizes(problem),
        **options,
    )


def assert_same(result: StitchResult, expected: Literal) -> None:
    assert result.hops.tolist() == sorted(map(list, expected.hops))
    assert result.ends == tuple(expected.ends)
    assert result.replaced.tolist() == expected.replaced
    np.testing.assert_array_equal(result.returns, expected.returns)
    assert result.order.tolist() == expected.order
    for got, want in zip(result.trajectories.episodes(), expected.episodes, strict=True):
        assert got.keys() == want.keys()
        for key in want:
            np.testing.assert_array_equal(got[key], want[key], err_msg=key)
    counts = result.counts
    pairs = list(zip(expected.replaced, expected.cyclic, expected.foreign_limit, strict=True))
    assert counts.replaced == sum(expected.replaced)
    assert counts.replaced_cyclic == sum(r and c for r, c, _ in pairs)
    assert counts.replaced_foreign_limit == sum(r and f for r, _, f in pairs)
    ends = Counter(expected.ends)
    assert (counts.ends_terminated, counts.ends_truncated) == (
        ends["terminated"],
        ends["truncated"],
    )
    assert (counts.ends_cycle, counts.ends_cap) == (ends["cycle"], ends["cap"])
    assert counts.hops_used == len(expected.hops)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_an_epoch_is_what_the_literal_loop_does(batch: int) -> None:
    for seed in range(batch * CASES_PER_BATCH, (batch + 1) * CASES_PER_BATCH):
        case = random_case(seed)
        expected = literal_epoch(case.trajectories.episodes(), **case.options)
        for search in ("cells", "faiss-flat"):
            try:
                assert_same(stitch(case, search), expected)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, search {search}") from error


@pytest.mark.parametrize("batch", range(5))
def test_each_transition_is_decided_as_the_loop_decides_it(batch: int) -> None:
    for seed in range(1000 + batch * 20, 1020 + batch * 20):
        case = random_case(seed)
        options, trajectories = case.options, case.trajectories
        states = literal_states(trajectories.episodes(), options["value"])
        backends: tuple[Search, ...] = ("cells", "faiss-flat")
        names = ("value", "log_density", "radius", "candidate")
        shared = {name: options[name] for name in names}
        scale = [1.0] * trajectories.observation_dim
        expected = [
            literal_decision(
                states,
                i,
                options["log_density"],
                options["radius"],
                scale,
                options["candidate"],
            )
            for i in trajectories.step_state
        ]
        for search in backends:
            problem = hop_problem(trajectories, **shared, search=search)
            decided = decide_hops(problem)
            got = [
                (int(c), Verdict(int(v)).name.lower())
                for c, v in zip(decided.candidate, decided.verdict, strict=True)
            ]
            assert got == expected, (seed, search)


def test_the_random_cases_hold_every_kind_of_trouble() -> None:
    seen: Counter[str] = Counter()
    for seed in range(200):
        case = random_case(seed)
        trajectories = case.trajectories
        result = stitch(case, "cells")
        seen.update(result.ends)
        seen["replaced"] += int(result.replaced.sum())
        seen["dynamics"] += result.counts.refused_dynamics > 0
        seen["no_neighbour"] += result.counts.refused_no_neighbour > 0
        seen["one_step"] += bool((trajectories.lengths == 1).any())
        seen["nan_state"] += bool(np.isnan(trajectories.observations).any())
        seen["nan_return"] += bool(np.isnan(result.returns).any())
        seen["negative"] += bool((trajectories.returns < 0).any())
        if case.options["whole"]:
            freely = stitch(Case(trajectories, case.options | {"whole": False}), "cells")
            seen["not_whole"] += freely.counts.replaced > result.counts.replaced
        finite = trajectories.observations[np.isfinite(trajectories.observations).all(axis=1)]
        seen["duplicate"] += len(np.unique(finite, axis=0)) < len(finite)
        for name in ("candidate", "improvement", "on_cycle", "metric"):
            seen[case.options[name]] += 1
    for kind in (
        "terminated", "truncated", "cycle", "cap", "replaced", "dynamics", "no_neighbour",
        "one_step", "nan_state", "nan_return", "negative", "duplicate", "dynamics_first",
        "best_value_first", "absolute", "paper", "stop", "raw", "standardized",
        "not_whole",
    ):  # fmt: skip
        assert seen[kind] >= 10, (kind, seen)


# -- directed cases ------------------------------------------------------------------------


def two_lines(
    lower: list[float], upper: list[float], *, terminated: bool = False
) -> Trajectories:
    """Two episodes with these rewards along parallel lines a unit apart.

    `terminated` is of the upper one; the lower one always ran out of time.
    """
    return Trajectories.from_episodes(
        {
            "observations": np.stack([np.arange(len(r) + 1.0), np.full(len(r) + 1, y)], axis=1),
            "actions": np.zeros((len(r), 1)),
            "rewards": np.array(r),
            "terminated": flag,
        }
        for r, y, flag in ((lower, 0.0, False), (upper, 1.0, terminated))
    )


def one_member(states: np.ndarray, next_states: np.ndarray) -> np.ndarray:
    """Every next state is equally likely."""
    return np.zeros((1, len(states)))


def directed(trajectories: Trajectories, **options: Any) -> StitchResult:
    settings: dict[str, Any] = {
        "value": lambda S: S[:, 1],  # the upper line is better
        "log_density": one_member,
        "action": lambda S, S2: np.full((len(S), 1), 7.0),
        "reward": lambda S, S2: np.zeros(len(S)),
        "radius": 1.0,
        "acceptance": 0.1,
    }
    return stitch_epoch(trajectories, **(settings | options))


@pytest.mark.parametrize(
    ("old", "new", "improvement", "replaced"),
    [
        (10.0, 11.0, "absolute", False),  # 10 + 0.1 · 10: not strictly more
        (10.0, 11.5, "absolute", True),
        (10.0, 10.5, "absolute", False),
        (-10.0, -9.5, "absolute", False),  # needs > -9
        (-10.0, -9.0, "absolute", False),
        (-10.0, -8.5, "absolute", True),
        (-10.0, -10.5, "paper", True),  # as printed: worse is enough, down to -11
        (-10.0, -11.0, "paper", False),
        (0.0, 0.0, "absolute", False),
        (0.0, 0.5, "absolute", True),
    ],
)
def test_the_improvement_rule(old: float, new: float, improvement: str, replaced: bool) -> None:
    trajectories = two_lines([0.0, old], [5.0, new])  # the walk hops to (1, 1) for nothing
    result = directed(trajectories, improvement=improvement, acceptance=0.1)
    assert result.replaced.tolist() == [replaced, False]


def test_a_hop_keeps_where_it_came_from() -> None:
    trajectories = two_lines([0.0, 0.0, 0.0], [1.0, 2.0, 4.0], terminated=True)
    result = directed(trajectories)
    assert result.hops.tolist() == [[0, 5]]  # from (0, 0) to (1, 1)
    assert result.order.tolist() == [1, 0]
    new = result.trajectories.episode(1)
    np.testing.assert_array_equal(new["observations"], [[0, 0], [1, 1], [2, 1], [3, 1]])
    np.testing.assert_array_equal(new["actions"].ravel(), [7, 0, 0])
    assert new["rewards"].tolist() == [0, 2, 4]
    assert new["origin"].tolist() == [Origin.STITCHED, Origin.RECORDED, Origin.RECORDED]
    assert new["source_episode"].tolist() == [0, 1, 1]
    assert new["source_step"].tolist() == [0, 1, 2]
    assert (new["episode_id"], new["episode_origin"]) == (0, Origin.STITCHED)
    assert (new["terminated"], new["truncated"]) == (True, False)


def test_the_radius_is_inclusive_and_decided_in_double_precision() -> None:
    trajectories = two_lines([0.0], [0.0, 9.0])
    for search in ("cells", "faiss-flat"):
        assert len(directed(trajectories, radius=1.0, search=search).hops) == 1
        below = float(np.nextafter(1.0, 0.0))
        assert len(directed(trajectories, radius=below, search=search).hops) == 0


@pytest.mark.parametrize("search", ["cells", "faiss-flat"])
def test_neighbours_are_not_lost_far_from_the_origin(search: str) -> None:
    near = two_lines([0.0] * 40, [1.0] * 40)
    far = Trajectories.from_episodes(
        {**episode, "observations": episode["observations"] + 1e6}
        for episode in near.episodes()
    )
    result = directed(far, value=lambda S: S[:, 1] - 1e6, search=search)
    np.testing.assert_array_equal(result.hops, directed(near).hops)
    assert result.counts.hops_accepted == 40


def test_a_terminal_state_has_value_zero_in_every_comparison() -> None:
    # V is 5 everywhere; the final state of the other line counts 0 if it is terminal.
    trajectories = two_lines([1.0], [1.0], terminated=True)
    flat = {"value": lambda S: np.full(len(S), 5.0), "radius": 1.0}
    assert directed(trajectories, **flat).counts.hops_accepted == 1  # (1, 1) looks for better
    trajectories = two_lines([1.0], [1.0])
    assert directed(trajectories, **flat).counts.hops_accepted == 0


def test_a_state_is_never_its_own_destination() -> None:
    episode = {
        "observations": np.array([[0.0], [0.5]]),
        "actions": np.zeros((1, 1)),
        "rewards": np.array([1.0]),
        "terminated": False,
    }
    result = directed(
        Trajectories.from_episodes([episode]), value=lambda S: -S[:, 0], on_cycle="cap"
    )
    assert result.counts.hops_accepted == 0
    assert result.counts.refused_no_neighbour == 1


def test_equal_densities_pass_and_lower_ones_do_not() -> None:
    trajectories = two_lines([0.0], [0.0, 1.0])

    def equal(members: int, level: float) -> Any:
        return lambda S, S2: np.full((members, len(S)), level)

    for level in (-700.3, 0.1, 900.7):
        for members in (1, 3, 7):
            result = directed(trajectories, log_density=equal(members, level))
            assert result.counts.hops_accepted == 1, (level, members)
    lower = directed(
        trajectories,
        log_density=lambda S, S2: np.where(S2[:, 1] > 0, np.nextafter(0.5, 0), 0.5)[None],
    )
    assert lower.counts.refused_dynamics == 1


def test_models_see_each_hop_once_and_each_state_once() -> None:
    case = next(c for c in map(random_case, range(99)) if len(stitch(c, "cells").hops) > 5)
    seen: Counter[str] = Counter()

    def counted(name: str, model: Any) -> Any:
        def call(*columns: np.ndarray) -> np.ndarray:
            seen[name] += len(columns[0])
            return model(*columns)

        return call

    options = dict(case.options)
    for name in ("value", "action", "reward"):
        options[name] = counted(name, options[name])
    result = stitch_epoch(case.trajectories, **options)
    assert seen["value"] == case.trajectories.n_states
    assert seen["action"] == seen["reward"] == len(result.hops) > 0


def test_hops_accepted_best_value_first_are_among_those_dynamics_first() -> None:
    more = 0
    for seed in range(60):
        case = random_case(seed)
        accepted = {}
        for candidate in ("dynamics_first", "best_value_first"):
            names = ("value", "log_density", "radius", "metric")
            problem = hop_problem(
                case.trajectories,
                **{name: case.options[name] for name in names},
                candidate=candidate,
            )
            accepted[candidate] = decide_hops(problem).candidate
        first, printed = accepted["dynamics_first"], accepted["best_value_first"]
        np.testing.assert_array_equal(first[printed >= 0], printed[printed >= 0])
        more += int((first >= 0).sum() - (printed >= 0).sum())
    assert more > 0


def test_what_walks_come_to_must_be_decided_once() -> None:
    case = random_case(3)
    names = ("value", "log_density", "radius")
    options = {k: v for k, v in case.options.items() if k not in ("candidate", "metric")}
    problem = hop_problem(case.trajectories, **{name: options.pop(name) for name in names})
    half = decide_hops(problem, np.arange(problem.n_transitions // 2))
    with pytest.raises(DataError, match="comes to must be decided"):
        finish_epoch(case.trajectories, half, **options)
    with pytest.raises(DataError, match="must not be decided twice"):
        finish_epoch(case.trajectories, HopDecisions.join([half, half]), **options)


@pytest.mark.parametrize("batch", range(4))
def test_deciding_what_walks_reach_gives_the_same_epoch(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tskd_ray.stitching.reached.FIRST_LOOK", 2)
    monkeypatch.setattr("tskd_ray.stitching.reached.LOOK", (1, 3))
    names = ("value", "log_density", "radius", "candidate", "metric")
    spared = rounds = 0
    for seed in range(batch * 40, (batch + 1) * 40):
        case = random_case(seed)
        options = dict(case.options)
        problem = hop_problem(case.trajectories, **{name: options.pop(name) for name in names})
        asked: list[int] = []

        def decide(transitions: np.ndarray) -> HopDecisions:
            asked.extend(transitions.tolist())  # noqa: B023
            return decide_hops(problem, transitions)  # noqa: B023

        reached = decide_reached(case.trajectories, decide)
        assert len(asked) == len(set(asked)), "nothing is decided twice"
        everything = finish_epoch(case.trajectories, decide_hops(problem), **options)
        lazy = finish_epoch(case.trajectories, reached.decisions, **options)
        for name in ("order", "replaced", "returns", "hops"):
            np.testing.assert_array_equal(getattr(lazy, name), getattr(everything, name))
        assert lazy.ends == everything.ends
        np.testing.assert_array_equal(
            lazy.trajectories.observations, everything.trajectories.observations
        )
        spared += problem.n_transitions - len(asked)
        rounds = max(rounds, reached.rounds)
    assert spared > 0
    assert rounds > 3


@pytest.mark.parametrize("batch", range(4))
def test_a_smaller_radius_follows_from_a_larger_one(batch: int) -> None:
    again = kept = 0
    for seed in range(batch * 40, (batch + 1) * 40):
        case = random_case(seed)
        names = ("value", "log_density", "candidate", "metric")
        shared = {name: case.options[name] for name in names}
        for small, large in ((0.5, 1.0), (1.0, 2.0), (0.1, 9.0), (1.0, 1.0)):
            wide = decide_hops(hop_problem(case.trajectories, radius=large, **shared))
            problem = hop_problem(case.trajectories, radius=small, **shared)
            asked: list[bool] = []

            def decide(transitions: np.ndarray, *, dynamics: bool) -> HopDecisions:
                asked.extend([dynamics] * len(transitions))  # noqa: B023
                return decide_hops(problem, transitions, dynamics=dynamics)  # noqa: B023

            narrowed, expected = narrow_hops(problem, wide, decide), decide_hops(problem)
            for name in ("transitions", "candidate", "verdict"):
                np.testing.assert_array_equal(
                    getattr(narrowed, name), getattr(expected, name), err_msg=f"{seed} {name}"
                )
            some = np.random.default_rng(seed).permutation(problem.n_transitions)[::2]
            part = narrow_hops(problem, wide, decide, some)
            np.testing.assert_array_equal(part.transitions, np.sort(some))
            np.testing.assert_array_equal(part.candidate, expected.candidate[np.sort(some)])
            np.testing.assert_array_equal(part.verdict, expected.verdict[np.sort(some)])
            again += sum(asked)
            kept += int((narrowed.candidate >= 0).sum())
    assert again > 0
    assert kept > again / 10


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"radius": -1.0}, "radius must be a finite number"),
        ({"radius": float("nan")}, "radius must be a finite number"),
        ({"candidate": "luck"}, "candidate must be one of dynamics_first"),
        ({"metric": "cosine"}, "metric must be one of raw"),
        ({"search": "hnsw"}, "search must be one of auto"),
        ({"improvement": "none"}, "improvement must be one of absolute"),
        ({"on_cycle": "laugh"}, "on_cycle must be one of stop"),
        ({"acceptance": -0.1}, "acceptance must be at least 0"),
        ({"max_length": 0}, "max_length must be at least 1"),
        ({"keep": 0}, "keep must be at least 1"),
        ({"log_density": 3}, "log_density must be a callable"),
    ],
)
def test_bad_options_are_named(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        directed(two_lines([0.0], [1.0]), **option)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"value": lambda S: S}, "value must return one number per state"),
        ({"log_density": lambda S, S2: np.zeros(len(S))}, "one row per ensemble member"),
        ({"action": lambda S, S2: np.zeros(len(S))}, "action must return rows shaped"),
        ({"reward": lambda S, S2: np.zeros((len(S), 1))}, "reward must return rows shaped"),
    ],
)
def test_bad_shapes_of_models_are_named(model: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        directed(two_lines([0.0], [1.0]), **model)


def test_gaussian_arrays_and_model_and_callable_agree() -> None:
    case = random_case(21)
    model = GaussianTable(np.random.default_rng(0), case.trajectories, 3)

    class Arrays:
        mean, log_std = model.gaussian(
            case.trajectories.observations[case.trajectories.step_state]
        )

    densities: list[Any] = [model, Arrays(), model.__call__]
    results = [
        stitch_epoch(case.trajectories, **(case.options | {"log_density": density}))
        for density in densities
    ]
    for other in results[1:]:
        np.testing.assert_array_equal(other.hops, results[0].hops)
        np.testing.assert_array_equal(other.returns, results[0].returns)
