"""A run's folder after a kill: no output beside the record of another one, the report last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.tiny import tiny_config
from toy_world import toy_trajectories
from tskd_ray.data.arrays import save_arrays
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.pipeline import output
from tskd_ray.report.data import Metrics, PlotData, StageCost, load_report_data

STAGES = tuple(
    StageCost(name=name, wall_seconds=1.0, cpu_seconds=1.0, key=f"{name}'s")
    for name in ("data", "stitch-2", "students-recorded", "students-tskd", "scores-tskd")
)


class Killed(BaseException):
    pass


@pytest.fixture
def finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., set[str]]:
    """Write a finished run of those stages; with `kill_in`, only up to that part of it."""
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    monkeypatch.setattr(output, "build_metrics", lambda *_: Metrics())
    monkeypatch.setattr(output, "build_plots", lambda *_: PlotData())

    def write(stages: tuple[StageCost, ...], kill_in: str = "") -> set[str]:
        def write_one(name: str) -> Callable[..., None]:
            def make(*_: Any) -> None:
                if name == kill_in:
                    raise Killed
                (folder / name).mkdir(exist_ok=True)

            return make

        for function, name in (
            ("_write_dataset", "dataset"),
            ("_write_policy", "policy"),
            ("write_films", "films"),
        ):
            monkeypatch.setattr(output, function, write_one(name))
        recorded: Any = SimpleNamespace(environment=None)
        arguments = (tiny_config(tmp_path), recorded, {}, stages, folder)
        try:
            output.write_run(*arguments, complete=True, wall_seconds=1.0)
        except Killed:
            assert kill_in
        return {path.name for path in folder.iterdir()}

    return write


RECORDS = {"run.json", "metrics.json", "plots.json"}
OUTPUTS = {"dataset", "policy", "films"}


def other(changed: str) -> tuple[StageCost, ...]:
    return tuple(replace(one, key="new") if one.name == changed else one for one in STAGES)


@pytest.mark.parametrize(
    ("changed", "stays"),
    [
        ("stitch-2", {"policy", "films"}),
        ("students-tskd", {"dataset"}),
        ("students-recorded", {"dataset", "policy"}),
        ("scores-tskd", OUTPUTS),
    ],
)
def test_outputs_of_other_artifacts_go_before_the_record_changes(
    finish: Callable[..., set[str]], changed: str, stays: set[str]
) -> None:
    assert finish(STAGES) == {*RECORDS, *OUTPUTS, "report.html"}
    assert finish(other(changed), kill_in="dataset") == {*RECORDS, *stays}
    assert finish(other(changed)) == {*RECORDS, *OUTPUTS, "report.html"}


def test_where_the_record_is_missing_nothing_is_known_of_the_outputs(
    finish: Callable[..., set[str]], tmp_path: Path
) -> None:
    finish(STAGES)
    (tmp_path / "runs" / "mine" / "run.json").unlink()
    assert finish(STAGES, kill_in="dataset") == RECORDS


def test_the_record_is_written_after_what_it_belongs_to_and_whole(
    finish: Callable[..., set[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(STAGES)
    before = load_report_data(tmp_path / "runs" / "mine").run
    replacing = Path.replace

    def kill(path: Path, target: Path) -> Path:
        if target.name == "plots.json":
            raise Killed
        return replacing(path, target)

    monkeypatch.setattr(Path, "replace", kill)
    there = finish(other("scores-tskd"), kill_in="plots")
    assert there == {*RECORDS, *OUTPUTS}, "no report, and no half-written file"
    assert load_report_data(tmp_path / "runs" / "mine").run == before


def test_the_dataset_is_that_of_the_last_epoch_else_all_trajectories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded, written = toy_trajectories(3), list[list[int]]()

    def write(data: Trajectories, folder: Path, **_: Any) -> None:
        written.append(data.episode_id.tolist())
        folder.mkdir()

    monkeypatch.setattr(output, "write_minari", write)
    folders: dict[str, Path] = {}
    for number, name in enumerate(("generate-1", "stitch-2", "stitch-10", "stitch-9"), start=1):
        folders[name] = tmp_path / name
        data = toy_trajectories(2)
        save_arrays(replace(data, episode_id=data.episode_id + 10 * number), folders[name])
    config = tiny_config(tmp_path)
    output._write_dataset(config, recorded, folders, tmp_path)
    only = {"generate-1": folders["generate-1"]}
    output._write_dataset(config, recorded, only, tmp_path)
    assert written == [[30, 31], [0, 1, 2, 10, 11]]
