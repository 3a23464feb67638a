from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from report.sweep.sweep_example import K, sweep_example
from report.test_report import Page
from tskd_ray.report.sweep.data import SweepRecord, TrialRow, write_sweep
from tskd_ray.report.sweep.html import render, write_sweep_report


@pytest.fixture(scope="module")
def text() -> str:
    return render(sweep_example(40))


def words(text: str) -> str:
    return " ".join(Page(text).text.split())


def test_the_page_is_well_formed_and_fetches_nothing(text: str) -> None:
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    links = [v for name, v in page.attributes if name in ("src", "href", "xlink:href")]
    assert all(link.startswith(("#", "data:")) for link in links)
    targets = {link[1:] for link in links if link.startswith("#")}
    targets |= set(re.findall(r"url\(#([^)]*)\)", text))
    assert targets <= set(page.ids)
    assert "<script" not in text
    assert "@import" not in text
    assert "#01020" not in text


def test_the_page_shows_every_part(text: str) -> None:
    shown = words(text)
    for part in (
        "Sweep of 40 trials", "rollout dynamics", "maximize score", "students per trial 5",
        "episodes per student 10", "84.2 ± 1.9", "203.0 (190.0 to 214.0)",
        "the number to report",
        "optimistic: the best of 40", "4.1 single runs", "on their own would have taken",
        "generate16160", "95% interval over trials", "Importance",
        "Rank correlation with the normalized score",
        "40 pairs", "the Pareto front", "score against stitch.epochs".capitalize(),
        "generate.sampler.guidance with stitch.radius.neighbours", "Search space",
        "offline: a learned dynamics ensemble",
    ):  # fmt: skip
        assert part in shown


def test_a_rank_correlation_that_is_not_zero_is_no_warning(text: str) -> None:
    assert "the interval holds 0" not in text


def test_every_trial_has_a_row_best_first(text: str) -> None:
    rows = text[text.index("<h2>Table of trials") :].split("<tr")[2:]
    scores = [float(found[0]) for row in rows if (found := re.findall(r">([\d.]+) ± ", row))]
    assert len(scores) == 40
    assert scores == sorted(scores, reverse=True)
    assert 'class="student"' in rows[0]


def test_the_estimate_and_the_score_never_share_an_axis(text: str) -> None:
    """The one picture with both has each on an axis of its own."""
    pictures = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    both = [svg for svg in pictures if "estimated" in svg and "score" in svg]
    assert len(both) == 1
    assert "offline: estimated discounted return" in both[0]


def test_an_offline_sweep_speaks_of_the_estimate_alone() -> None:
    sweep = sweep_example(20)
    trials = tuple(replace(trial, score=None, score_error=None) for trial in sweep.trials)
    assert sweep.final is not None
    final = replace(sweep.final, score=None, sweep_score=None)
    offline = replace(
        sweep,
        objectives=(("offline", "maximize"),),
        environment=None,
        trials=trials,
        final=final,
    )
    shown = words(render(offline))
    assert "normalized score" not in shown
    assert "Ranked by estimated discounted return (offline)" in shown
    assert "Nothing here says whether the estimate ranks policies" in shown
    assert "Offline against cost" in shown


def test_a_rank_correlation_that_may_be_zero_is_a_warning() -> None:
    sweep = sweep_example(12)
    scores = [trial.score for trial in sweep.trials]
    offline = [3.0, 9.0, 1.0, 7.0, 5.0, 11.0, 2.0, 8.0, 6.0, 10.0, 4.0, 12.0]
    assert len(scores) == len(offline)
    trials = [
        replace(t, offline=o, offline_low=o - 1, offline_high=o + 1)
        for t, o in zip(sweep.trials, offline, strict=True)
    ]
    assert "the interval holds 0" in words(render(replace(sweep, trials=tuple(trials))))


def test_without_a_final_run_the_score_is_called_optimistic() -> None:
    shown = words(render(replace(sweep_example(12), final=None)))
    assert "the score above is optimistic" in shown
    assert "the number to report" not in shown


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_trials_still_have_a_page(count: int, tmp_path: Path) -> None:
    sweep = sweep_example(max(count, 1))
    if not count:
        sweep = replace(sweep, trials=(), winner=None, final=None, artifacts={})
    write_sweep(sweep, tmp_path)
    page = Page(write_sweep_report(tmp_path).read_text())
    assert page.open == []
    assert "Importance" not in page.text
    assert ("No trial has won" in page.text) == (count == 0)


def test_failed_trials_and_absent_settings_are_shown() -> None:
    sweep = sweep_example(10)
    failed = TrialRow(number=10, settings={"select.slack": "20%"}, state="failed")
    stopped = TrialRow(number=11, settings={K: 1}, state="stopped", score=99.0)
    shown = words(render(replace(sweep, trials=(*sweep.trials, failed, stopped))))
    assert "1 of 12 trials failed" in shown
    assert "10 failed" in shown
    assert "20%" in shown


def test_text_from_a_sweep_cannot_become_markup() -> None:
    evil = "<img src=x onerror=alert(1)> </svg>"
    trials = tuple(
        TrialRow(number=n, settings={evil: evil + str(n % 2)}, state="done", score=float(n))
        for n in range(9)
    )
    sweep = SweepRecord(
        name=evil,
        objectives=(("score", "maximize"),),
        rollout=evil,
        trials=trials,
        winner=8,
        artifacts={evil: (1, 2)},
    )
    text = render(sweep)
    assert "<img" not in text
    assert Page(text).open == []


def test_the_same_sweep_gives_the_same_bytes() -> None:
    assert render(sweep_example(9)) == render(sweep_example(9))
