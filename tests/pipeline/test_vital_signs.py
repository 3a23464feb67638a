"""What is told of a run before its score is believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tskd_ray.pipeline.vital_signs import vital_signs
from tskd_ray.report.data import EpochCounts


@pytest.mark.parametrize(
    ("value", "truth", "ratio", "warns"),
    [(9.0, 10.0, 0.9, False), (4.0, 10.0, 0.4, True), (0.3, 0.0, None, False)],
)
def test_v_is_compared_with_the_returns_unless_nothing_was_earned(
    tmp_path: Path, value: float, truth: float, ratio: float | None, warns: bool
) -> None:
    metrics = {"mean_value": value, "mean_monte_carlo": truth}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    (sign,) = vital_signs({"value-1": tmp_path}, [])
    assert (sign.value, sign.warns) == (ratio, warns)


GENERATION = {
    "first_step_error": 0.25,
    "interior_step_error": 0.2,
    "cut_share": 0.1,
}
FIDELITY = {
    "step_error_median": 0.2,
    "reward_error_bias": -0.01,
    "reward_error_rms": 0.1,
    "reward_sd": 0.5,
    "claimed_return": 100.0,
    "replayed_return": 50.0,
}


@pytest.mark.parametrize(
    ("changed", "warned"),
    [
        ({}, ""),
        ({"first_step_error": 0.31}, "Plan"),
        ({"first_step_error": 0.25, "interior_step_error": 0.12}, "Plan"),
        ({"first_step_error": 0.19, "interior_step_error": 0.01}, ""),  # small, anyhow
        ({"cut_share": 0.25}, "Generated episodes cut"),
        ({"step_error_median": 0.4}, "Generated: one-step"),
        ({"reward_error_bias": -0.03}, "Generated: claimed"),
        ({"reward_error_bias": 0.03}, "Generated: claimed"),
        ({"replayed_return": 4.0}, "Generated: replayed"),
    ],
)
def test_a_teacher_whose_plans_are_dreams_is_told(
    tmp_path: Path, changed: dict[str, float], warned: str
) -> None:
    folders = {name: tmp_path / name for name in ("generate-1", "fidelity")}
    for (name, folder), figures in zip(folders.items(), (GENERATION, FIDELITY), strict=True):
        folder.mkdir()
        part = "vitals" if name == "generate-1" else name
        own = {key: changed.get(key, value) for key, value in figures.items()}
        (folder / f"{part}.json").write_text(json.dumps(own))
    signs = vital_signs(folders, [])
    assert len(signs) == 5
    told = [sign.name for sign in signs if sign.warns]
    assert len(told) == bool(warned)
    assert all(name.startswith(warned) for name in told)


def epoch(**changed: Any) -> EpochCounts:
    plain: dict[str, Any] = {
        "epoch": 1,
        "transitions": 1000,
        "radius": 1.0,
        "neighbours": {},
        "refused": {},
        "hops_accepted": 40,
        "hops_used": 20,
        "trajectories": 10,
        "replaced": 4,
        "replaced_by_cycle_or_clock": 2,
        "ends": {"cycle": 2},
    }
    return EpochCounts(**plain | changed)


@pytest.mark.parametrize(
    ("changed", "warned"),
    [
        ({}, ""),
        ({"hops_used": 0}, "hops used"),
        ({"ends": {"cycle": 3}}, "go in circles"),
        ({"replaced_by_cycle_or_clock": 3}, "replaced by a lap"),
        ({"argmax_recall": 0.99}, "approximate search"),
        ({"argmax_recall": 1.0}, ""),
    ],
)
def test_stitching_that_earns_its_returns_in_circles_is_told(
    changed: dict[str, Any], warned: str
) -> None:
    told = [sign.name for sign in vital_signs({}, [epoch(**changed)]) if sign.warns]
    assert len(told) == bool(warned)
    assert all(warned in name for name in told)
