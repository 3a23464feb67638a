"""A run's figures against their definitions."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.tiny import tiny_config
from toy_world import toy_trajectories
from tskd_ray.config.schema import Config
from tskd_ray.data.arrays import save_arrays
from tskd_ray.pipeline.summary import build_metrics, build_plots

RANDOM, EXPERT = -10.0, 30.0
# (checkpoints, seeds, episodes): the second checkpoint is the best one, the third the claim.
RETURNS = np.array(
    [
        [[0.0, 2.0], [4.0, 6.0], [1.0, 2.0]],
        [[20.0, 24.0], [8.0, 2.0], [9.0, 9.0]],
        [[6.0, 2.0], [8.0, 12.0], [0.0, 2.0]],
    ]
)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / name for name in ("data", "scores-tskd", "offline-tskd")}
    for folder in found.values():
        folder.mkdir()
    save_arrays(toy_trajectories(5), found["data"])
    np.save(found["scores-tskd"] / "returns.npy", RETURNS)
    about = {"steps": [10, 20, 30], "seeds": 3, "episodes": 7, "transitions": 1234}
    (found["scores-tskd"] / "about.json").write_text(json.dumps(about))
    estimate = {"value": 3.0, "low": 2.0, "high": 4.0, "per_seed": [5.0, 7.0, 1.0]}
    (found["offline-tskd"] / "offline.json").write_text(json.dumps(estimate))
    return found


def config(storage: Path) -> Config:
    data: dict[str, Any] = {"source": "x", "reference_scores": [RANDOM, EXPERT]}
    return tiny_config(storage, data=data)


def test_the_claim_is_the_last_checkpoint_and_the_best_one_stands_beside_it(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    del folders["offline-tskd"]
    metrics = build_metrics(config(tmp_path), folders, [])
    whole, row = metrics.scores
    returns = toy_trajectories(5).returns
    assert whole.final.mean_return == pytest.approx(float(returns.mean()))
    assert row.best is not None
    for score, per_seed in ((row.final, [4.0, 10.0, 1.0]), (row.best, [22.0, 5.0, 9.0])):
        normal = [100 * (one - RANDOM) / (EXPERT - RANDOM) for one in per_seed]
        assert score.per_seed == pytest.approx(normal)
        assert score.mean_return == pytest.approx(statistics.mean(per_seed))
        assert score.normalized == pytest.approx(statistics.mean(normal))
        error = statistics.stdev(per_seed) / 3**0.5
        assert score.return_error == pytest.approx(error)
        assert score.normalized_error == pytest.approx(100 * error / (EXPERT - RANDOM))
    assert (row.name, row.seeds, row.episodes) == ("TSKD student", 3, 7)
    assert row.detail == "1,234 transitions; best at step 20"


def test_estimates_are_paired_with_the_scores_of_the_same_final_students(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tskd_ray.report.agreement.REPLICATES", 5)  # of its interval
    metrics = build_metrics(config(tmp_path), folders, [])
    (offline,) = metrics.offline
    assert (offline.name, offline.value, offline.low) == ("TSKD student", 3.0, 2.0)
    found = metrics.offline_agreement
    assert found is not None
    # 5, 7 and 1 beside 4, 10 and 1: in the same order.
    assert found.correlation == pytest.approx(1.0)


def test_learning_curves_of_students_are_means_over_seeds_with_their_errors(
    folders: dict[str, Path],
) -> None:
    (panel,) = [one for one in build_plots(folders).panels if "Students" in one.title]
    (curve,) = panel.curves
    assert curve.x == (10.0, 20.0, 30.0)
    means = RETURNS.mean(axis=2)
    assert curve.y == pytest.approx([statistics.mean(row) for row in means.tolist()])
    errors = [statistics.stdev(row) / 3**0.5 for row in means.tolist()]
    assert curve.error == pytest.approx(errors)
