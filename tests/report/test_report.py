from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from report.report_example import example
from tskd_ray.errors import StorageError
from tskd_ray.report.data import (
    Metrics,
    PlotData,
    ReportData,
    Score,
    ScoreRow,
    VitalSign,
    load_report_data,
    save_report_data,
)
from tskd_ray.report.html import ShownFilm, ShownFilms, render, write_report
from tskd_ray.report.tables import compare, number_text, score_table


class Page(HTMLParser):
    """What a browser would find: ids, references, text, and tags left open."""

    VOID = frozenset({"meta", "br", "img", "link", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def text() -> str:
    return render(example())


def test_files_give_the_same_data_back(tmp_path: Path) -> None:
    data = example()
    save_report_data(data, tmp_path)
    assert load_report_data(tmp_path) == data
    for name in ("run.json", "metrics.json", "plots.json"):
        json.loads((tmp_path / name).read_text())


def test_not_a_number_survives_and_the_file_stays_json(tmp_path: Path) -> None:
    plots = PlotData(returns={"recorded": (1.0, float("nan"), float("inf"))})
    save_report_data(replace(example(), plots=plots), tmp_path)
    read = load_report_data(tmp_path).plots.returns["recorded"]
    assert (read[0], read[2]) == (1.0, float("inf"))
    assert read[1] != read[1]


def test_a_folder_without_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"A run's folder holds run\.json\. Got .* does not"):
        load_report_data(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(StorageError, match=r"run\.json must be what `tskd run` wrote"):
        load_report_data(tmp_path)


def test_the_page_is_well_formed_and_fetches_nothing(text: str) -> None:
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    links = [v for name, v in page.attributes if name in ("src", "href", "xlink:href")]
    assert all(link.startswith(("#", "data:")) for link in links)
    targets = {link[1:] for link in links if link.startswith("#")}
    targets |= set(re.findall(r"url\(#([^)]*)\)", text))
    assert targets <= set(page.ids)
    assert "@import" not in text


def test_the_page_allows_its_own_script_and_nothing_else(text: str) -> None:
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", text, re.DOTALL)
    (data,) = [body for about, body in scripts if "application/json" in about]
    assert len(json.loads(data)["walks"]) == 2
    (script,) = [body for about, body in scripts if not about]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy.split("; ") == [
        "default-src 'none'", "img-src data:", "style-src 'unsafe-inline'",
        f"script-src 'sha256-{digest}'",
    ]  # fmt: skip
    without = render(ReportData(run=example().run))
    assert "<script" not in without
    assert "script-src" not in without


def test_a_reader_without_scripts_sees_the_best_stitched_trajectory(text: str) -> None:
    shown = " ".join(Page(text).text.split())
    assert "0 to 39recorded episode 100from 0 40 to 46generated episode 101from 5" in shown
    assert '<div id="walk-viewer" hidden>' in text


def test_films_are_shown_or_one_line_says_why_not() -> None:
    film = ShownFilm(
        title="TSKD student", steps=1000, earned=2939.76, motion="data:image/gif;base64,AA",
        strip="data:image/png;base64,BB",
    )  # fmt: skip
    data = ReportData(run=example().run)
    page = Page(render(data, films=ShownFilms(shown=(film,))))
    assert page.open == []
    assert "1,000 steps, return 2,940" in page.text
    images = [value for name, value in page.attributes if name == "src"]
    assert images == [film.motion, film.strip]
    page = Page(render(data, films=ShownFilms(trouble="egl: <no> device")))
    assert "nothing on this machine renders off-screen (egl: <no> device)" in page.text
    assert "In the environment" not in Page(render(data)).text


def test_the_page_takes_its_colours_from_the_theme(text: str) -> None:
    assert "currentColor" in text
    assert "#01020" not in text
    assert "prefers-color-scheme: dark" in text


def test_the_page_shows_every_part(text: str) -> None:
    shown = " ".join(Page(text).text.split())
    for part in (
        "71.8 ± 2.1", "79.9 ± 2.0", "60.2 ± 3.0", "rollout dynamics", "Warnings",
        "first step out of the history", "0.41", "Returns by origin", "States and hops",
        "Teacher", "Student score by checkpoint", "refused: density", "walks ended: cycle",
        "neighbours, 50%", "2 min 11 s", "All settings", "guidance: 1.2", "ray2.60.0",
        "generated 31", "offline: a learned dynamics ensemble", "took 12 min 34 s by the clock",
        "some ran side by side", "61.3 (52 to 70.1)", "25%", "0.77 (0.10 to 1.00, 6 pairs)",
        "did not tell good ones from each other",
    ):  # fmt: skip
        assert part in shown


def test_the_offline_estimate_is_apart_from_the_scores(text: str) -> None:
    scores, _, estimate = Page(text).text.partition("Estimated from recorded data alone")
    assert "203 (182 to 223)" in estimate
    assert "203 (182 to 223)" not in scores
    without = render(replace(example(), metrics=replace(example().metrics, offline=())))
    assert "Estimated from recorded data alone" not in without


def test_the_same_run_gives_the_same_bytes(text: str) -> None:
    assert render(example()) == text


def test_a_run_without_figures_still_has_a_page(tmp_path: Path) -> None:
    save_report_data(ReportData(run=replace(example().run, stages=())), tmp_path)
    (tmp_path / "metrics.json").unlink()
    (tmp_path / "plots.json").unlink()
    page = Page(write_report(tmp_path).read_text())
    assert page.open == []
    assert "Scores" not in page.text
    assert "All settings" in page.text


def test_walks_and_trajectories_of_extensions_are_called_theirs() -> None:
    data = example()
    epochs = tuple(
        replace(epoch, radius=None, decided=None, neighbours={}, refused={})
        for epoch in data.metrics.epochs
    )
    page = Page(
        render(
            replace(
                data,
                run=replace(data.run, rollout="extension"),
                metrics=replace(data.metrics, epochs=epochs),
            )
        )
    )
    assert page.open == []
    assert "Generated trajectories: an extension's" in page.text
    assert not any("by decision" in value for _, value in page.attributes)
    assert re.search(r"radius ρ\W+–", page.text)


def test_returns_are_shown_where_no_reference_score_is_known() -> None:
    rows = (
        ScoreRow(name="plain BC", final=Score(mean_return=-120.0, return_error=4.0), seeds=3),
        ScoreRow(name="TSKD student", final=Score(mean_return=90.0, return_error=5.0), seeds=3),
    )
    page = Page(render(ReportData(run=example().run, metrics=Metrics(scores=rows))))
    assert "-120 ± 4" in page.text
    assert "normalized" not in page.text.partition("Settings and provenance")[0]


def test_text_from_a_run_cannot_become_markup() -> None:
    evil = "<img src=x onerror=alert(1)> $x^2$ </svg>"
    run = replace(example().run, source=evil, name=evil)
    sign = VitalSign(name=evil, value=1.0, meaning=evil)
    row = ScoreRow(name=evil, final=Score(mean_return=1.0), seeds=1)
    text = render(ReportData(run=run, metrics=Metrics(scores=(row,), vital_signs=(sign,))))
    assert "<img" not in text
    assert Page(text).open == []


# -- words about scores ------------------------------------------------------------------


def row(name: str, mean: float, error: float | None = 1.0, seeds: int = 3) -> ScoreRow:
    score = Score(
        mean_return=30 * mean, return_error=error, normalized=mean, normalized_error=error
    )
    return ScoreRow(name=name, final=score, seeds=seeds, episodes=1234)


@pytest.mark.parametrize(
    ("mean", "expected"),
    [
        (70.0, "20.0 above BC: 70.0 against 50.0, 14.1 standard errors."),
        (40.0, "10.0 below BC: 40.0 against 50.0, 7.1 standard errors."),
        (
            52.8,
            "No difference from BC: 52.8 against 50.0, less than two standard errors apart.",
        ),
    ],
)
def test_less_than_two_standard_errors_is_no_difference(mean: float, expected: str) -> None:
    assert compare([row("BC", 50.0), row("TSKD student", mean)]) == [expected]


def test_nothing_is_compared_without_a_student_or_without_errors() -> None:
    assert compare([]) == []
    assert compare([row("recorded data", 5.0, seeds=0)]) == []
    assert compare([row("BC", 5.0, error=None), row("TSKD student", 50.0)]) == []
    assert compare([row("recorded data", 5.0, seeds=0), row("TSKD student", 50.0)]) == []


def test_table_for_the_terminal() -> None:
    columns, rows = score_table([row("BC", 50.0), row("recorded data", 7.5, None, 0)])
    assert columns == [
        "policy",
        "normalized score, final",
        "best checkpoint",
        "seeds",
        "episodes",
    ]
    assert rows == [
        ["BC", "50.0 ± 1.0", "–", "3", "1,234"],
        ["recorded data", "7.5", "–", "–", "1,234"],
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "–"), (3.0, "3"), (123456, "123,456"), (0.41234, "0.412"), (float("nan"), "nan")],
)
def test_numbers_as_text(value: float | None, expected: str) -> None:
    assert number_text(value) == expected
