"""What is told of radii: tables, a sentence and one page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from report.test_report import Page
from tskd_ray.report.explain import explain_tables, suggestion_text, write_explanation
from tskd_ray.stitching.explain import Explanation, RadiusCounts, Suggestion, WalkCounts
from tskd_ray.stitching.walks import END_NAMES


def counts(radius: float, asked: int | None, replaced: int | None) -> RadiusCounts:
    walks = WalkCounts(
        trajectories=30,
        hops_used=12,
        ends=dict(zip(END_NAMES, (20, 4, 5, 1), strict=True)),
        replaced=replaced,
        replaced_cyclic=None if replaced is None else 2,
    )
    return RadiusCounts(
        radius=radius, asked=asked, configured=asked is None,
        neighbours=(0.0, 1.0, 2.0, 40.0, 99.0), transitions=1000, accepted=50,
        no_neighbour=300, no_better=250, dynamics=400, walks=walks,
    )  # fmt: skip


FOUND = Explanation(
    episodes=30,
    transitions=4000,
    radii=(counts(0.25, 10, 9), counts(0.5, None, 5), counts(2.0, 1000, None)),
    suggestion=Suggestion(best=0.25, gained=7, near=(0.25, 0.5)),
    notes=("A <sample>.",),
)


def test_tables_name_each_radius_and_its_numbers() -> None:
    (_, titles, decisions), (_, _, walks) = explain_tables(FOUND)
    assert all(len(line) == len(titles) for line in decisions)
    assert decisions[0] == [
        "0.25, k = 10", 1, 2, 40, 45.0, 5.0, 40.0, 25.0, 30.0,
    ]  # fmt: skip
    assert walks[1] == ["0.5, configured", 12, 20, 4, 5, 1, 5, 2]
    assert walks[2][-2:] == [None, None]


def test_the_suggestion_says_its_rule_and_its_limits() -> None:
    text = suggestion_text(FOUND)
    assert text.startswith("Try stitch.radius=0.25: there, walks that do not go round")
    assert "7 of 30" in text
    assert "At 0.5 they replace at least 50% of that." in text
    assert "smallest radius looked at" in text
    assert "only a student's score" in text
    assert suggestion_text(replace(FOUND, suggestion=None)).startswith("No radius to suggest")


def test_the_page_is_whole_and_fetches_nothing(tmp_path: Path) -> None:
    path = write_explanation(FOUND, "a<b", tmp_path / "explain")
    text = path.read_text()
    page = Page(text)
    assert not page.open
    assert len(page.ids) == len(set(page.ids))
    assert "a<b" in page.text
    assert "A <sample>." in page.text
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    assert set(re.findall(r"var\((--\w+)\)", text)) <= set(re.findall(r"(--\w+):", text))


def test_the_json_holds_every_count(tmp_path: Path) -> None:
    write_explanation(FOUND, "a", tmp_path)
    document = json.loads((tmp_path / "explain.json").read_text())
    assert document["suggestion_text"] == suggestion_text(FOUND)
    assert document["radii"][0]["walks"]["ends"]["cycle"] == 5
    assert document["radii"][2]["walks"]["replaced"] is None
