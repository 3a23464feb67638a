"""Tables of `tskd reproduce`: statistics, verdicts, the paper's numbers, what is missing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tskd_ray.report.documents import read_document
from tskd_ray.report.reproduce.data import Cell, Results, RowTitle, difference, statistic
from tskd_ray.report.reproduce.figures import draw
from tskd_ray.report.reproduce.tables import markdown
from tskd_ray.report.reproduce.write import write_results


def cell(row: str, seed: int, *scores: float, task: str = "hopper-medium") -> Cell:
    return Cell(
        task=task, row=row, seed=seed, command=f"tskd run small seed={seed}", key="0" * 8,
        scores=scores, normalized=True, cpu_seconds=600.0,
    )  # fmt: skip


def results(*cells: Cell) -> Results:
    rows = (("bc", "BC"), ("bc-best-10", "BC, best 10 %"), ("mbts", "MBTS"), ("tskd", "TSKD"))
    return Results(
        experiment="table1", title="Table 1", kind="scores", preset="small",
        overrides=("distill.seeds=2",), rollout="dynamics", tasks=("hopper-medium",),
        sources={"hopper-medium": "m.hdf5"},
        rows=tuple(RowTitle(id=id_, title=title) for id_, title in rows),
        seeds=2, episodes=10, cells=cells, left=0, versions={},
    )  # fmt: skip


def test_errors_are_over_runs_where_there_are_several_else_over_students() -> None:
    one = statistic([(10.0, 14.0, 12.0)])
    assert one is not None
    assert (one.mean, one.over, one.runs, one.students) == (12.0, "students", 1, 3)
    assert one.error == pytest.approx(2.0 / math.sqrt(3))
    three = statistic([(10.0, 14.0), (20.0, 20.0), (30.0, 34.0)])
    assert three is not None
    assert (three.over, three.runs, three.students) == ("runs", 3, 2)
    assert three.mean == pytest.approx(64 / 3)
    assert three.error == pytest.approx(np.std([12, 20, 32], ddof=1) / math.sqrt(3))
    single = statistic([(5.0,)])
    assert single is not None
    assert single.error is None
    assert difference(one, single) == (7.0, None)
    assert difference(three, one) == pytest.approx(
        (64 / 3 - 12, math.hypot(three.error or 0, one.error or 0))
    )
    assert statistic([]) is None


def test_the_page_compares_with_every_row_and_with_the_best_baseline() -> None:
    page = markdown(
        results(
            cell("bc", 0, 50.0, 54.0),
            cell("bc-best-10", 0, 68.0, 72.0),
            cell("mbts", 0, 69.0, 70.0),
            cell("tskd", 0, 80.0, 84.0),
        )
    )
    assert "| TSKD | 82.0 ± 2.0 (1 × 2) |" in page
    assert "| hopper-medium | BC, best 10 % | +12.0 ± 2.8 | +4.2 | above |" in page
    assert (
        "the best BC-sized baseline is BC, best 10 %, 70.0 ± 2.0 (1 × 2): +12.0 ± 2.8" in page
    )
    assert "Gain over plain BC: +58 % (the paper, on other data: +57 %)." in page
    assert "| BC (here: BC) | 52.9 |" in page
    assert "| TSKD (here: TSKD) | 83.2 ± 8.1 |" in page
    assert "costs 10 CPU minutes" in page
    assert "tskd run small seed=0" in page


def test_less_than_two_standard_errors_are_no_difference_and_below_is_said() -> None:
    near = markdown(results(cell("bc", 0, 50.0, 54.0), cell("tskd", 0, 53.0, 57.0)))
    assert "| hopper-medium | BC | +3.0 ± 2.8 | +1.1 | no difference |" in near
    under = markdown(results(cell("bc", 0, 50.0, 54.0), cell("tskd", 0, 30.0, 34.0)))
    assert "| -20.0 ± 2.8 | -7.1 | below |" in under


def test_what_is_missing_or_failed_is_told() -> None:
    failed = replace(cell("mbts", 0), failure="Selection must keep at least 5 episodes.")
    page = markdown(replace(results(cell("tskd", 0, 1.0, 2.0), failed), left=3))
    assert "**Incomplete**: 2 of 5 cells; the same command goes on." in page
    assert "- hopper-medium, MBTS, seed 0: Selection must keep at least 5 episodes." in page
    assert "| MBTS | – |" in page


def test_files_are_whole_and_read_back(tmp_path: Path) -> None:
    told = results(cell("bc", 0, 50.0, 54.0), cell("tskd", 0, 53.0, 57.0))
    write_results(told, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "results.json", "results.md", "figure.svg", "figure.png",
    }  # fmt: skip
    assert read_document(tmp_path / "results.json", Results) == told
    assert (tmp_path / "figure.svg").read_bytes() == draw(told)["svg"], "same data, same bytes"


def test_figures_are_drawn_along_an_axis_and_as_a_list() -> None:
    cells = [cell(f"n{n}", 0, n / 10, n / 9) for n in (0, 60, 120)]
    along = replace(
        results(*cells),
        rows=tuple(RowTitle(id=f"n{n}", title=f"n = {n}", x=float(n)) for n in (0, 60, 120)),
    )
    assert b"generated trajectories per epoch" in draw(along)["svg"]
    many = replace(
        results(*[cell(f"r{k}", 0, 1.0 * k, 2.0) for k in range(14)]),
        rows=tuple(RowTitle(id=f"r{k}", title=f"row {k}") for k in range(14)),
    )
    svg = draw(many)["svg"]
    assert all(f"row {k}".encode() in svg for k in range(14))
    assert draw(results()) == {}


PLANNING = {
    "student": {"seconds_per_step": [1e-5, 3e-5], "parameters": 69_123},
    "teacher": {"seconds_per_step": [2e-2, 2e-2], "parameters": 1_100_000},
}


def test_planning_times_and_sizes_have_the_student_as_a_share() -> None:
    one = replace(cell("planning", 0), figures=PLANNING)
    rows = (RowTitle(id="planning", title=""),)
    page = markdown(replace(results(one), kind="planning", rows=rows))
    assert "| student | 0.004 ± 0.0028 |" in page
    assert "| teacher | 4 ± 0 |" in page
    assert page.count("| 0.1 % |") == 1
    assert "236.89" in page
    sizes = markdown(replace(results(one), kind="parameters", rows=rows))
    assert "| student | 69,123 |" in sizes


def test_figures_of_other_kinds_are_tables_by_name() -> None:
    fidelity = {"generated": {"steps": 10, "step_error_median": 0.25, "claimed_return": 12.0}}
    one = replace(cell("origins", 0), figures=fidelity)
    rows = (RowTitle(id="origins", title=""),)
    page = markdown(replace(results(one), kind="origins", rows=rows))
    assert "| generated | 10 | 0.25 | – |" in page
    errors = {"DDR-II": {"recorded_mse": 0.01, "fresh_mse": 0.02}}
    one = replace(cell("reward-errors", 0), figures=errors)
    rows = (RowTitle(id="reward-errors", title=""),)
    page = markdown(replace(results(one), kind="reward-errors", rows=rows))
    assert "| DDR-II | 0.01 | 0.02 |" in page
