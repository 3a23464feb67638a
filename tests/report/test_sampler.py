"""Quality against cost of sampling: which setting is the knee, and what is told of it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from report.test_report import Page
from tskd_ray.config.schema import GenerateConfig, SamplerConfig
from tskd_ray.errors import StorageError
from tskd_ray.evaluation.quality import Quality
from tskd_ray.report.sampler import (
    SamplerRow,
    SamplerStudy,
    read_study,
    setting_label,
    study_table,
    study_text,
    write_study,
)


def row(
    milliseconds: float, returns: tuple[float, ...], error: float = 0.1, steps: int = 5
) -> SamplerRow:
    return SamplerRow(
        sampler="ddim", steps=steps, replan_every=4, warm_steps=None,
        seconds_per_step=milliseconds / 1000,
        quality=Quality(
            returns=returns, mean_length=100.0, step_error=error, judged_by="simulator",
            reward_error=0.05, reward_bias=0.0, distance=0.4,
        ),
    )  # fmt: skip


def study(*rows: SamplerRow) -> SamplerStudy:
    return SamplerStudy(rows=rows, rollout="dynamics", device="cpu")


OURS = row(1.0, (100.0, 110.0, 105.0, 95.0))


def test_the_knee_is_the_cheapest_that_is_as_good() -> None:
    equal = row(0.5, (99.0, 111.0, 104.0, 96.0))
    worse = row(0.2, (80.0, 91.0, 84.0, 76.0))
    wrong = row(0.1, (120.0, 130.0, 125.0, 115.0), error=0.2)
    better = row(3.0, (100.0, 111.0, 106.0, 94.0))
    assert study(OURS, equal, worse, better).knee() is equal
    assert study(OURS, worse, better).knee() is OURS
    assert study(OURS, equal, wrong).knee() is wrong, "the best return sets the bound of errors"
    clean = replace(wrong, quality=replace(wrong.quality, returns=equal.quality.returns))
    assert study(OURS, clean).knee() is OURS, "as good, but its steps are wrong"


def test_settings_are_called_what_their_row_will_be_called() -> None:
    for warm, label in ((None, "ddim 3, replan 4"), (2, "ddim 3, replan 4, warm 2")):
        settings = GenerateConfig(
            sampler=SamplerConfig(name="ddim", steps=3), replan_every=4, warm_steps=warm
        )
        assert setting_label(settings) == label
        assert SamplerRow.of(settings, OURS.quality, 0.1).label == label


def test_the_table_is_sorted_by_cost_and_marks_two() -> None:
    _, titles, rows = study_table(study(OURS, row(0.5, OURS.quality.returns, steps=3)))
    assert [line[0] for line in rows] == [
        "ddim 3, replan 4, knee",
        "ddim 5, replan 4, configured",
    ]
    assert all(len(line) == len(titles) for line in rows)
    assert rows[0][1:6] == [0.5, 0.5, 102.5, 3.2, 100.0]


def test_the_suggestion_can_be_typed_and_says_its_limits() -> None:
    text = study_text(study(OURS, row(0.5, OURS.quality.returns, steps=3)))
    assert "generate.sampler.steps=3 generate.replan_every=4 generate.warm_steps=null" in text
    assert "2 times the speed" in text
    assert "only a student's score" in text
    assert study_text(study(OURS)).startswith("The configured setting is the knee")


def test_the_page_is_whole_and_what_is_written_is_read_back(tmp_path: Path) -> None:
    made = study(
        OURS, replace(row(0.5, (1.0, 2.0, 3.0, 4.0)), warm_steps=2, sampler="dpmpp_2m")
    )
    text = write_study(made, "a<b", tmp_path / "sampler").read_text()
    page = Page(text)
    assert not page.open
    assert len(page.ids) == len(set(page.ids))
    assert "a<b" in page.text
    assert "dpmpp_2m 5, replan 4, warm 2" in page.text
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    assert set(re.findall(r"var\((--\w+)\)", text)) <= set(re.findall(r"(--\w+):", text))
    assert read_study(tmp_path) == made
    assert read_study(tmp_path / "nowhere") is None
    (tmp_path / "sampler" / "sampler.json").write_text("[1]")
    with pytest.raises(StorageError, match="tskd generate --tune-sampler"):
        read_study(tmp_path)
