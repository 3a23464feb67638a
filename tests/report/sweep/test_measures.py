from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from report.sweep.sweep_example import RHO, SLACK, K, W, sweep_example
from tskd_ray.report.sweep.data import TrialRow
from tskd_ray.report.sweep.measures import (
    importance,
    interaction,
    levels,
    measured,
    metric_of,
    pareto,
    ranked,
    varied,
)

points = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30)


@given(points, st.booleans())
def test_the_front_is_what_no_point_beats(pairs: list[tuple[int, int]], up: bool) -> None:
    def beats(a: tuple[int, int], b: tuple[int, int]) -> bool:
        good = a[1] >= b[1] if up else a[1] <= b[1]
        return a[0] <= b[0] and good and a != b

    front = pareto([(float(x), float(y)) for x, y in pairs], "maximize" if up else "minimize")
    expected = {p for p in pairs if not any(beats(other, p) for other in pairs)}
    assert [pairs[index] for index in front] == sorted(expected)


def test_what_decides_the_score_is_important() -> None:
    sweep = sweep_example()
    rng = np.random.default_rng(1)
    trials = [
        replace(t, score=float(t.settings[SLACK] or 0) / 100 + 0.1 * rng.normal())
        for t in sweep.trials
    ]
    sweep = replace(sweep, trials=tuple(trials))
    shares = importance(sweep, metric_of(sweep))
    assert next(iter(shares)) == SLACK
    assert shares[SLACK] > 0.6
    assert sum(shares.values()) == pytest.approx(1.0)
    assert set(shares) == {W, RHO, K, SLACK}


def test_importance_needs_trials_and_something_that_varies() -> None:
    few = sweep_example(7)
    assert importance(few, metric_of(few)) == {}
    same = replace(
        sweep_example(20), trials=tuple(replace(t, score=1.0) for t in sweep_example(20).trials)
    )
    assert importance(same, metric_of(same)) == {}


def test_the_interaction_is_that_of_w_and_rho_where_both_vary() -> None:
    sweep = sweep_example(20)
    assert interaction(sweep, {}) == (W, RHO)
    fixed = [replace(t, settings={**t.settings, W: 1.2}) for t in sweep.trials]
    sweep = replace(sweep, trials=tuple(fixed))
    assert interaction(sweep, {SLACK: 0.9, K: 0.1}) == (SLACK, K)


def test_values_have_levels_and_many_numbers_share_some() -> None:
    assert levels([0.1, 3, 1, 0.1]) == ([0, 2, 1, 0], ["0.1", "1", "3"])
    assert levels(["a", None, "a"]) == ([0, 1, 0], ["a", "–"])
    place, names = levels([float(n) for n in range(100)])
    assert np.bincount(place).tolist() == [20, 20, 20, 20, 20]
    assert names[0] == "0 to 19.8"


def test_only_finished_trials_with_a_value_are_measured() -> None:
    sweep = sweep_example(3)
    extra = (
        TrialRow(number=3, settings={}, state="stopped", score=99.0),
        TrialRow(number=4, settings={}, state="done", score=float("nan")),
        TrialRow(number=5, settings={}, state="failed"),
    )
    sweep = replace(sweep, trials=sweep.trials + extra)
    metric = metric_of(sweep)
    assert [trial.number for trial, _ in measured(sweep, metric)] == [0, 1, 2]
    assert [trial.number for trial in ranked(sweep, metric)][-2:] == [4, 5]


def test_what_trials_share_does_not_vary() -> None:
    sweep = sweep_example(20)
    trials = [replace(t, settings={**t.settings, W: 1.2}) for t in sweep.trials]
    assert varied(sweep, trials) == [RHO, K, SLACK]


def test_less_can_be_better() -> None:
    sweep = replace(sweep_example(9), objectives=(("score", "minimize"),))
    metric = metric_of(sweep)
    values = [metric.of(trial) or 0.0 for trial in ranked(sweep, metric)]
    assert values == sorted(values)
