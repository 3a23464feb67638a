from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from tskd_ray.errors import StorageError
from tskd_ray.report.sweep.data import (
    FinalRow,
    SweepRecord,
    TrialRow,
    read_sweep,
    trials_table,
    write_sweep,
)

W, RHO = "generate.sampler.guidance", "stitch.radius"


def record() -> SweepRecord:
    trials = (
        TrialRow(
            number=0,
            settings={W: 1.2, RHO: 1, "select.slack": 500.0},
            state="done",
            score=71.5,
            score_error=2.0,
            offline=210.0,
            offline_low=190.0,
            offline_high=230.5,
            marginal_cpu_seconds=12.0,
            full_cpu_seconds=700.0,
            wall_seconds=30.0,
            keys={"select": "select-aa", "students-tskd": "students-bb"},
        ),
        TrialRow(
            number=1,
            settings={W: 1.4, RHO: 0.1, "select.slack": "20%", "stitch.epochs": 2},
            state="failed",
            score=float("nan"),
        ),
    )
    return SweepRecord(
        name="small",
        objectives=(("score", "maximize"), ("cpu_seconds", "minimize")),
        rollout="dynamics",
        environment="Hopper-v5",
        base={"seed": 0},
        space={"select.slack": {"choice": [500, "20%"]}, W: {"grid": [1.2, 1.4]}},
        trials=trials,
        winner=0,
        final=FinalRow(
            settings=trials[0].settings,
            run_folder="runs/small-final",
            seeds=5,
            episodes=10,
            score=69.0,
            sweep_score=71.5,
        ),
        cpu_seconds=712.0,
        wall_seconds=60.0,
        single_run_cpu_seconds=700.0,
        artifacts={"ddr1": (1, 2), "students": (2, 2)},
    )


def test_the_file_gives_the_same_sweep_back(tmp_path: Path) -> None:
    sweep = replace(record(), trials=record().trials[:1])
    assert write_sweep(sweep, tmp_path / "new") == tmp_path / "new" / "sweep.json"
    back = read_sweep(tmp_path / "new")
    assert back == sweep
    kinds = {name: type(value) for name, value in back.trials[0].settings.items()}
    assert kinds == {W: float, RHO: int, "select.slack": float}


def test_not_a_number_survives_and_the_file_stays_json(tmp_path: Path) -> None:
    write_sweep(record(), tmp_path)
    json.loads((tmp_path / "sweep.json").read_text())
    score = read_sweep(tmp_path).trials[1].score
    assert score is not None
    assert score != score


def test_the_tables_have_a_row_per_trial_and_a_column_per_setting(tmp_path: Path) -> None:
    write_sweep(record(), tmp_path)
    rows = parquet.read_table(tmp_path / "trials.parquet").to_pylist()
    assert [row["number"] for row in rows] == [0, 1]
    assert [row[W] for row in rows] == [1.2, 1.4]
    assert [row[RHO] for row in rows] == [1.0, 0.1]
    assert [row["select.slack"] for row in rows] == ["500.0", "20%"]
    assert [row["stitch.epochs"] for row in rows] == [None, 2]
    assert rows[0]["offline_high"] == 230.5
    assert [row["key:select"] for row in rows] == ["select-aa", None]
    with (tmp_path / "trials.csv").open() as file:
        text = list(csv.DictReader(file))
    assert list(text[0]) == list(rows[0])
    assert (text[0]["score"], text[1]["state"]) == ("71.5", "failed")


def test_settings_stand_in_the_order_of_the_space_and_then_of_the_trials() -> None:
    assert record().names == ("select.slack", W, RHO, "stitch.epochs")


def test_a_sweep_without_trials_is_a_table_without_rows(tmp_path: Path) -> None:
    empty = SweepRecord(name="none", objectives=(("score", "maximize"),), rollout="none")
    assert trials_table(empty).num_rows == 0
    write_sweep(empty, tmp_path)
    assert read_sweep(tmp_path) == empty


def test_a_folder_without_a_sweep_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"holds sweep\.json\. Got .*, which does not"):
        read_sweep(tmp_path)
    (tmp_path / "sweep.json").write_text('{"name": 3}')
    with pytest.raises(StorageError, match=r"sweep\.json must be what `tskd sweep` wrote"):
        read_sweep(tmp_path)


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="must be writable"):
        write_sweep(record(), tmp_path / "file" / "sweep")
