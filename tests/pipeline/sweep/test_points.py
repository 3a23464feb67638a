"""Points of a search: all of a grid, and draws that more trials only add to."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from tskd_ray.config.load_sweep import Point, Sweep, load_sweep
from tskd_ray.pipeline.sweep.points import known_points
from tskd_ray.pipeline.sweep.suggest import SpaceDraw, decode, encode


def sweep(folder: Path, space: dict[str, Any], **search: Any) -> Sweep:
    path = folder / "s.yaml"
    path.write_text(
        yaml.safe_dump({"name": "s", "space": space, "search": search}, sort_keys=False)
    )
    return load_sweep(path)


def points(folder: Path, space: dict[str, Any], **search: Any) -> list[Point]:
    found = known_points(sweep(folder, space, **search))
    assert found is not None
    return found


SPACE = {
    "generate.sampler.guidance": {"grid": [1.2, 1.4, 1.6]},
    "stitch.epochs": {"grid": [1, 2]},
    "select.slack": {"uniform": [500, 1000]},
    "stitch.acceptance": {"loguniform": [0.001, 1.0]},
}


def test_a_grid_is_every_combination_once(tmp_path: Path) -> None:
    space = {
        "stitch.epochs": {"randint": [1, 3]},
        "generate.sampler.guidance": {"choice": [1.2, 1.4]},
        "select.slack": {"quniform": [0.1, 0.3, 0.1]},
    }
    found = points(tmp_path, space, method="grid")
    expected = itertools.product([1, 2, 3], [1.2, 1.4], [0.1, 0.2, 0.3])
    assert [tuple(point.values()) for point in found] == list(expected)


def test_a_conditional_setting_is_varied_under_its_condition_only(tmp_path: Path) -> None:
    space = {
        "generate.replan_every": {"choice": [4, 8], "when": {"stitch.epochs": [2]}},
        "stitch.epochs": {"choice": [1, 2]},
    }
    assert points(tmp_path, space, method="grid") == [
        {"stitch.epochs": 1},
        {"stitch.epochs": 2, "generate.replan_every": 4},
        {"stitch.epochs": 2, "generate.replan_every": 8},
    ]
    drawn = points(tmp_path, space, method="random", trials=3)
    assert sorted(map(len, drawn)) == [1, 2, 2], "no point twice, and there are three"


def test_more_trials_begin_with_the_same_ones(tmp_path: Path) -> None:
    five = points(tmp_path, SPACE, method="random", trials=5)
    assert points(tmp_path, SPACE, method="random", trials=12)[:5] == five
    assert points(tmp_path, SPACE, method="random", trials=5, seed=1) != five


def test_a_new_setting_changes_no_other_draw(tmp_path: Path) -> None:
    more = {**SPACE, "distill.fit.learning_rate": {"loguniform": [1e-4, 1e-2]}}
    before = points(tmp_path, SPACE, method="random", trials=6)
    after = points(tmp_path, more, method="random", trials=6)
    assert [{key: point[key] for key in SPACE} for point in after] == before


def test_every_grid_value_gets_its_turn_in_a_random_search(tmp_path: Path) -> None:
    found = points(tmp_path, SPACE, method="random", trials=12)
    pairs = Counter((p["generate.sampler.guidance"], p["stitch.epochs"]) for p in found)
    assert set(pairs.values()) == {2}
    assert all(500 <= p["select.slack"] <= 1000 for p in found)
    assert all(0.001 <= p["stitch.acceptance"] <= 1.0 for p in found)


def test_a_space_with_fewer_points_than_trials_is_taken_whole(tmp_path: Path) -> None:
    found = points(tmp_path, {"stitch.epochs": {"randint": [1, 4]}}, method="random", trials=9)
    assert sorted(point["stitch.epochs"] for point in found) == [1, 2, 3, 4]


class LowestDraw:
    """Stands in for Optuna's trial."""

    def __init__(self) -> None:
        self.drawn: dict[str, Any] = {}

    def _note(self, name: str, value: Any) -> Any:
        self.drawn[name] = value
        return value

    def suggest_float(self, name: str, low: float, high: float, **options: Any) -> Any:
        return self._note(name, low)

    def suggest_int(self, name: str, low: int, high: int) -> Any:
        return self._note(name, high)

    def suggest_categorical(self, name: str, choices: list[str]) -> Any:
        return self._note(name, choices[-1])


def test_what_is_suggested_and_the_point_name_each_other(tmp_path: Path) -> None:
    space = {
        **SPACE,
        "stitch.radius": {"choice": [1.0, {"neighbours": 20}]},
        "distill.seeds": {"randint": [1, 3]},
        "select.minimum_episodes": {"quniform": [2, 8, 3], "when": {"distill.seeds": 3}},
        "generate.replan_every": {"choice": [1, 2], "when": {"distill.seeds": 1}},
    }
    made = sweep(tmp_path, space, method="tpe", trials=3)
    assert known_points(made) is None
    trial = LowestDraw()
    SpaceDraw(made)(trial)
    point = decode(made, trial.drawn)
    assert point["stitch.radius"] == {"neighbours": 20}
    assert point["select.minimum_episodes"] == 8
    assert "generate.replan_every" not in point
    assert encode(made, point) == trial.drawn
    made.config(point)
