"""What a person sees while a sweep runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.sweep.tiny_sweep import load_tiny
from tskd_ray.console import Cell, Console
from tskd_ray.errors import StorageError
from tskd_ray.pipeline.artifacts import ArtifactStore
from tskd_ray.pipeline.sweep.log import TrialLog
from tskd_ray.pipeline.sweep.plan import plan_sweep
from tskd_ray.pipeline.sweep.tracker import Tracker


def test_the_board_has_the_best_trials_first_and_those_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boards: list[list[list[Cell]]] = []
    columns: list[str] = []

    def board(
        console: Console, names: Sequence[str]
    ) -> Callable[[Sequence[Sequence[Cell]]], None]:
        columns.extend(names)
        return lambda rows: boards.append([list(row) for row in rows])

    monkeypatch.setattr(Console, "board", board)
    space = {
        "select.slack": {"grid": ["75%", "90%"]},
        "stitch.radius": {"grid": [2.0, {"neighbours": 3}]},
    }
    sweep = load_tiny(tmp_path / "storage", tmp_path, space=space)
    store = ArtifactStore(sweep.base.storage)
    plan = plan_sweep(sweep, store)
    assert plan.points is not None
    log = TrialLog(store.storage, "log")
    tracker = Tracker(plan, store, log, "tag", Console(mode="quiet"))
    try:
        metrics: dict[str, Any] = {"score_error": 0.5, "epochs": 1.0, "last": 1.0}
        for point in plan.points[:3]:
            tracker.started(point)
        for point, score in zip(plan.points[:2], (10.0, 20.0), strict=True):
            tracker.reported(point, {**metrics, "score": score})
    finally:
        tracker.close()
    assert columns == ["trial", "score", "±", "slack", "radius", "CPU s"]
    assert boards[0] == []
    assert boards[-1] == [
        ["1 (best)", 20.0, 0.5, "75%", "neighbours 3", 0.0],
        ["0", 10.0, 0.5, "75%", 2.0, 0.0],
        ["2 …", None, None, "90%", 2.0, None],
    ]


def test_a_bill_that_cannot_be_kept_now_stops_no_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = load_tiny(tmp_path / "storage", tmp_path)
    store = ArtifactStore(sweep.base.storage)
    log = TrialLog(store.storage, "log")
    tracker = Tracker(plan_sweep(sweep, store), store, log, "tag", Console(mode="quiet"))
    try:
        (tmp_path / "storage").mkdir(exist_ok=True)
        (tmp_path / "storage" / "sweeps").write_text("a file where a folder should be")
        monkeypatch.setattr("tskd_ray.pipeline.sweep.tracker._SAVE_SECONDS", -1.0)
        tracker.tick(1, ["generate-1"])
        with pytest.raises(StorageError):
            tracker.keep_bill()
    finally:
        tracker.close()
