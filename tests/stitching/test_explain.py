"""What is told of a radius, against the literal loop; samples, against everything."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from stitching.cases import Case, random_case
from stitching.literal import literal_decision, literal_epoch, literal_states
from toy_world import toy_trajectories
from tskd_ray.stitching.explain import (
    Explanation,
    RadiusCounts,
    Suggestion,
    WalkCounts,
    explain,
    suggest,
)
from tskd_ray.stitching.hops import decide_hops
from tskd_ray.stitching.points import deviations
from tskd_ray.stitching.problem import hop_problem
from tskd_ray.stitching.radius import suggest_radius
from tskd_ray.stitching.sampling import decide_along, sample_transitions, sample_walkers
from tskd_ray.stitching.walks import follow_hops

OF_PROBLEM = ("value", "log_density", "radius", "candidate", "metric")


def explained(case: Case, **more: Any) -> Explanation:
    options: dict[str, Any] = {"neighbours": (1, 4), **case.options, **more}
    return explain(
        case.trajectories, **{k: v for k, v in options.items() if k not in ("action", "keep")}
    )


def toy_case(**sizes: int) -> Case:
    options: dict[str, Any] = random_case(2001).options | {
        "value": lambda s: s[:, 0],
        "log_density": lambda s, s2: np.zeros((1, len(s))),
        "reward": lambda s, s2: np.ones(len(s)),
        "radius": 0.2,
        "metric": "raw",
    }
    return Case(toy_trajectories(8, **sizes), options)


def expect(case: Case, row: RadiusCounts) -> None:
    """Every number of a row, by the literal loop at that radius."""
    episodes = case.trajectories.episodes()
    options: dict[str, Any] = case.options | {"radius": row.radius, "keep": 1}
    states = literal_states(episodes, options["value"])
    finite = np.isfinite(case.trajectories.observations).all(axis=1)
    scale = [1.0] * case.trajectories.observation_dim
    if options["metric"] == "standardized":
        scale = deviations(case.trajectories.observations[finite]).tolist()
    verdicts = Counter(
        literal_decision(
            states, i, options["log_density"], row.radius, scale, options["candidate"]
        )[1]
        for i in case.trajectories.step_state
    )
    assert row.transitions == case.trajectories.n_steps
    assert {
        "accepted": row.accepted,
        "no_neighbour": row.no_neighbour,
        "no_better": row.no_better,
        "dynamics": row.dynamics,
    } == {
        name: verdicts[name] for name in ("accepted", "no_neighbour", "no_better", "dynamics")
    }
    better = verdicts["accepted"] + verdicts["dynamics"]
    assert row.better_share == pytest.approx(better / row.transitions)
    walked = literal_epoch(episodes, **options)
    both = zip(walked.replaced, walked.cyclic, strict=True)
    assert row.walks == WalkCounts(
        trajectories=len(episodes),
        hops_used=len(walked.hops),
        ends={end: walked.ends.count(end) for end in row.walks.ends},
        replaced=sum(walked.replaced),
        replaced_cyclic=sum(a and b for a, b in both),
    )


@pytest.mark.parametrize("batch", range(5))
def test_each_number_is_what_the_literal_loop_counts(batch: int) -> None:
    for seed in range(2000 + 8 * batch, 2008 + 8 * batch):
        case = random_case(seed)
        found = explained(case)
        for row in found.radii:
            try:
                expect(case, row)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, radius {row.radius}") from error


def test_radii_are_the_configured_one_and_those_of_so_many_neighbours() -> None:
    case = toy_case()
    known = suggest_radius(case.trajectories.observations, 4, 3)
    found = explained(case, seed=3, neighbours=(1, 4, 10**6))
    assert [row.radius for row in found.radii] == sorted(row.radius for row in found.radii)
    assert {row.asked for row in found.radii} == {None, 1, 4}
    assert {row.asked: row.radius for row in found.radii}[4] == known
    assert [row.asked for row in found.radii if row.configured] == [None]
    case.options["radius"] = known
    same = explained(case, seed=3)
    assert [(row.asked, row.configured) for row in same.radii] == [(1, False), (4, True)]


def test_neighbourhood_sizes_are_counted() -> None:
    case = toy_case(limit=12)
    trajectories = case.trajectories
    states = trajectories.observations.astype(np.float64)
    for row in explained(case).radii:
        sizes = []
        for s in trajectories.step_state:
            apart = np.sqrt(((states - states[s + 1]) ** 2).sum(axis=1))
            sizes.append((apart <= row.radius).sum() - 1 - (apart[s] <= row.radius))
        assert row.neighbours == pytest.approx(np.quantile(sizes, [0, 0.25, 0.5, 0.75, 1]))


def test_a_large_dataset_is_sampled_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tskd_ray.stitching.sampling._RUN", 4)
    case = toy_case()
    n, e = case.trajectories.n_steps, case.trajectories.n_episodes
    whole, sampled = explained(case), explained(case, decided=n // 2, walked=e)
    sample = sample_transitions(n, n // 2, 0)
    assert not any("sample" in note for note in whole.notes)
    assert sampled.notes[0] == (
        f"A sample: decisions of {len(sample):,} of {n:,} transitions, walks of {e} of {e} "
        "trajectories."
    )
    for one, other in zip(whole.radii, sampled.radii, strict=True):
        options: dict[str, Any] = case.options | {"radius": other.radius}
        problem = hop_problem(case.trajectories, **{name: options[name] for name in OF_PROBLEM})
        accepted = decide_hops(problem, sample).candidate >= 0
        assert (other.transitions, other.accepted) == (len(sample), accepted.sum())
        assert 0 < other.accepted < one.accepted
        assert other.walks == one.walks
    fewer = explained(case, decided=n // 2, walked=3)
    for row in fewer.radii:
        assert row.walks.trajectories == sum(row.walks.ends.values()) == 3


def test_a_sample_of_transitions_is_distinct_runs_of_them() -> None:
    np.testing.assert_array_equal(sample_transitions(1000, 1000, 0), np.arange(1000))
    sample = sample_transitions(100_001, 10_000, 5)
    assert 9_000 < len(sample) <= 10_000
    assert np.all(np.diff(sample) > 0)
    assert 0 <= sample[0] < sample[-1] < 100_001
    runs = (
        sample.reshape(-1, 128) if sample[-1] < 99_968 else sample[: len(sample) // 128 * 128]
    )
    np.testing.assert_array_equal(np.unique(np.diff(runs.reshape(-1, 128))), [1])
    assert not np.array_equal(sample, sample_transitions(100_001, 10_000, 6))


@pytest.mark.parametrize("ahead", [1, 3, 64])
def test_a_sampled_walk_is_the_walk_among_all(
    ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tskd_ray.stitching.sampling._AHEAD", ahead)
    for seed in range(4000, 4040):
        case = random_case(seed)
        limits = {name: case.options[name] for name in ("on_cycle", "max_length")}
        problem = hop_problem(
            case.trajectories, **{name: case.options[name] for name in OF_PROBLEM}
        )
        whole = decide_hops(problem)
        walkers = sample_walkers(case.trajectories.n_episodes, 2, seed)
        along = decide_along(case.trajectories, problem, walkers, **limits)
        walks = follow_hops(case.trajectories, whole.candidate, **limits)
        some = follow_hops(case.trajectories, along.candidate, **limits)
        for name in ("length", "n_hops", "last_state", "end", "cyclic"):
            np.testing.assert_array_equal(
                getattr(some, name)[walkers], getattr(walks, name)[walkers], f"{seed} {name}"
            )
        steps = np.unique(walks.steps_of(walkers))
        hopped = steps[whole.candidate[steps] >= 0]
        np.testing.assert_array_equal(np.flatnonzero(some.used), hopped)
        np.testing.assert_array_equal(along.verdict[steps], whole.verdict[steps])


def test_many_hops_are_priced_at_the_configured_radius_only() -> None:
    case = toy_case()
    asked: list[int] = []

    def reward(states: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        asked.append(len(states))
        return np.zeros(len(states))

    case.options["reward"] = reward
    found = explained(case, priced=0)
    assert asked == [row.walks.hops_used for row in found.radii if row.configured]
    for row in found.radii:
        assert row.walks.hops_used > 0
        assert (row.walks.replaced is None) != row.configured
    assert any("rewards" in note for note in found.notes)


def row(radius: float, replaced: int | None, cyclic: int | None) -> RadiusCounts:
    walks = WalkCounts(
        trajectories=50, hops_used=9, ends={}, replaced=replaced, replaced_cyclic=cyclic
    )
    return RadiusCounts(
        radius=radius, asked=None, configured=False, neighbours=(), transitions=100,
        accepted=1, no_neighbour=2, no_better=3, dynamics=94, walks=walks,
    )  # fmt: skip


def test_the_suggested_radius_replaces_most_without_going_round() -> None:
    rows = [row(0.1, 9, 4), row(0.2, 10, 0), row(0.3, 20, 10), row(0.4, 40, 36)]
    assert suggest(rows) == Suggestion(best=0.2, gained=10, near=(0.1, 0.2, 0.3))


def test_nothing_is_suggested_where_only_cycles_gain() -> None:
    assert suggest([row(0.1, 0, 0), row(0.2, 5, 5), row(0.3, None, None)]) is None
