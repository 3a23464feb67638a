"""Whole sweeps on the tiny configuration: what is shared, resumed, won."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.sweep.tiny_sweep import SPACE, load_tiny, tiny_sweep
from tskd_ray.cli import exit_code
from tskd_ray.config.load_sweep import load_sweep
from tskd_ray.data.environments import normalized_score, reference_scores
from tskd_ray.errors import ConfigError, ResourceError, StageError
from tskd_ray.pipeline.references import read_sweep_outline
from tskd_ray.pipeline.run import RunResult
from tskd_ray.pipeline.storage import Storage
from tskd_ray.pipeline.sweep.sweep import final_config, run_sweep
from tskd_ray.pipeline.sweep.tracker import Tracker
from tskd_ray.report.sweep.data import SweepRecord, read_sweep


def parts(storage: Path) -> dict[str, list[tuple[str, str]]]:
    """Names and hashes of every artifact's parts, by its folder."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in storage.glob("artifacts/*/*/manifest.json"):
        manifest = json.loads(path.read_text())
        name = f"{manifest['stage']}/{manifest['key']}"
        found[name] = [(part["name"], part["sha256"]) for part in manifest["parts"]]
    return found


def comparable(record: SweepRecord) -> list[Any]:
    """What must not depend on when the sweep was killed."""
    return [
        record.winner is not None,
        [(t.number, dict(t.settings), t.state, t.score, dict(t.keys)) for t in record.trials],
    ]


class Interrupted:
    """Raises, as ^C does, when so many trials have reported."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.tell = Tracker.reported

    def __call__(self, tracker: Tracker, settings: Any, metrics: Mapping[str, float]) -> None:
        self.tell(tracker, settings, metrics)
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.ray
def test_trials_share_and_an_interrupted_sweep_goes_on(
    undisturbed: RunResult, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = tmp_path / "storage"
    sweep = load_tiny(storage, tmp_path)
    interrupted = Interrupted(after=1)
    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "reported", lambda *a: interrupted(*a))
        with pytest.raises(KeyboardInterrupt):
            run_sweep(sweep)
    entries = list((storage / "sweeps/tiny-sweep/trials").glob("*.json"))
    ended = {path: path.read_bytes() for path in entries if '"done"' in path.read_text()}
    assert len(ended) == 1
    outline = read_sweep_outline(Storage(str(storage)), "tiny-sweep")
    assert outline is not None
    assert (outline.trials, outline.whole) == (4, True)

    result = run_sweep(load_tiny(storage, tmp_path))
    record = result.record
    assert [dict(trial.settings) for trial in record.trials] == [
        {"stitch.epochs": k, "select.slack": slack} for k in (1, 2) for slack in ("75%", "90%")
    ]
    assert all(path.read_bytes() == text for path, text in ended.items()), "done twice"
    # Each artifact was made once: one attempt, and as many as the plan says.
    made = list(storage.glob("artifacts/*/*"))
    assert all(len(list(folder.glob("attempt-*"))) == 1 for folder in made)
    assert dict(record.artifacts)["stitch"] == (2, 6)
    assert dict(record.artifacts)["ddr1"] == (1, 4)
    assert len(made) == sum(distinct for distinct, _ in record.artifacts.values())
    # The same bytes as a run of one setting alone, here in one process.
    alone = parts(undisturbed.folder.parents[1])
    here = parts(storage)
    last = record.trials[2]  # two epochs, 75 %: the undisturbed run's
    common = {name for name in here if name in alone}
    assert len(common) == len(last.keys)
    assert all(here[name] == alone[name] for name in common)
    assert last.full_cpu_seconds > last.marginal_cpu_seconds > 0
    total = sum(trial.marginal_cpu_seconds for trial in record.trials)
    assert total <= record.cpu_seconds
    check_winner(record, storage)
    assert read_sweep(result.folder) == record
    assert {key for trial in record.trials for key in trial.keys.values()} == {*outline.digests}
    assert list((result.folder / "tensorboard").glob("*/events*"))
    assert not (result.folder / "scratch").exists()
    assert result.report is not None
    assert result.report.stat().st_size > 0
    # A space that has grown keeps what is done: nothing is computed, and numbers follow anew.
    fewer = load_tiny(storage, tmp_path, space={**SPACE, "select.slack": {"grid": ["90%"]}})
    rows = run_sweep(fewer).record.trials
    assert [(row.number, row.score) for row in rows] == [
        (number, record.trials[old].score) for number, old in enumerate((1, 3))
    ]


def check_winner(record: SweepRecord, storage: Path) -> None:
    """The highest mean over final students, recomputed from the returns."""
    scale = reference_scores("Hopper-v5")
    assert scale is not None
    scores: list[float] = []
    for trial in record.trials:
        (path,) = storage.glob(f"artifacts/scores/{trial.keys['scores-tskd']}/*/returns.npy")
        scores.append(float(normalized_score(np.load(path)[-1].mean(axis=1), scale).mean()))
        assert trial.score == pytest.approx(scores[-1])
    assert record.winner is not None
    assert scores[record.winner] == max(scores)
    ties = [t for t in record.trials if scores[t.number] == max(scores)]
    cheapest = min(ties, key=lambda trial: trial.full_cpu_seconds)
    assert record.trials[record.winner].full_cpu_seconds == cheapest.full_cpu_seconds


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "storage"
    path = tiny_sweep(storage, tmp_path)
    assert exit_code(["sweep", str(path), "--dry-run", "--json"]) == 0
    (event,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    counts = {row["stage"]: (row["artifacts"], row["uses"]) for row in event["rows"]}
    assert "4 trials" in event["message"]
    assert counts["ddr1"] == (1, 4)
    assert counts["generate"] == (2, 6)
    assert counts["students"] == (4, 4)
    assert not storage.exists()


def test_a_plan_of_a_search_by_results_is_a_bound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = {"method": "tpe", "trials": 5}
    path = tiny_sweep(tmp_path / "storage", tmp_path, search=search)
    assert exit_code(["sweep", str(path), "--dry-run", "--json"]) == 0
    (event,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    counts = {row["stage"]: (row["artifacts"], row["uses"]) for row in event["rows"]}
    assert "at most" in event["message"]
    assert counts["ddr1"] == (1, 5), "nothing in the space changes the teacher"
    assert counts["students"] == (5, 5)


def test_what_cannot_run_is_refused_before_any_work(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    local = load_sweep(tiny_sweep(storage, tmp_path), ["compute.mode=local"])
    with pytest.raises(ConfigError, match=r"A sweep runs on Ray\. Got compute\.mode=local"):
        run_sweep(local)
    wandb = load_sweep(tiny_sweep(storage, tmp_path), ["loggers=[wandb]"])
    with pytest.raises(ResourceError, match=r"loggers: wandb needs the package wandb"):
        run_sweep(wandb)
    assert not storage.exists()


def test_the_final_run_has_students_and_episodes_that_no_trial_had(tmp_path: Path) -> None:
    space = {"distill.seeds": {"choice": [2, 7]}, "select.slack": {"choice": ["75%"]}}
    final = {"seeds": 3, "episodes": 4}
    sweep = load_tiny(tmp_path, tmp_path, space=space, final=final)
    config = final_config(sweep, {"distill.seeds": 2, "select.slack": "75%"})
    assert (config.distill.first_seed, config.distill.seeds) == (7, 3)
    assert (config.evaluate.first_episode, config.evaluate.episodes) == (2, 4)


# -- slower ------------------------------------------------------------------------------


@pytest.mark.ray
@pytest.mark.slow
def test_the_winner_is_run_anew_and_told_beside_its_score_in_the_sweep(
    tmp_path: Path, ray_cluster: None
) -> None:
    final = {"seeds": 2, "episodes": 3}
    result = run_sweep(load_tiny(tmp_path, tmp_path, final=final))
    row = result.record.final
    assert row is not None
    assert row.sweep_score == result.record.trials[result.record.winner or 0].score
    assert (Path(row.run_folder) / "report.html").is_file()
    record = json.loads((Path(row.run_folder) / "run.json").read_text())
    assert record["config"]["distill"]["first_seed"] == 2
    assert record["config"]["evaluate"]["first_episode"] == 2
    assert row.score is not None


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_a_scheduler_sees_every_epoch_and_a_stopped_trial_is_none_to_win(
    tmp_path: Path, ray_cluster: None, scheduler: str
) -> None:
    space = {
        "stitch.epochs": {"grid": [2]},
        "distill.fit.learning_rate": {"grid": [1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1]},
    }
    settings = {"space": space, "scheduler": scheduler, "concurrent": 2}
    result = run_sweep(load_tiny(tmp_path, tmp_path, **settings))
    entries = [
        json.loads(path.read_text()) for path in (result.folder / "trials").glob("*.json")
    ]
    for entry in entries:
        epochs = [report["epochs"] for report in entry["reports"]]
        assert epochs == ([1, 2] if entry["row"]["state"] == "done" else [1])
    states = [trial.state for trial in result.record.trials]
    assert "stopped" in states
    assert result.record.trials[result.record.winner or 0].state == "done"
    # After epoch 1 a trial tells the student of D_1: the artifact of the trial with K = 1.
    first = next(t for t in result.record.trials if t.state == "stopped")
    assert "stitch-1" in first.keys
    assert "stitch-2" not in first.keys


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_by_results_takes_up_its_points_again(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {
        "select.slack": {"choice": ["75%", "90%"]},
        "distill.fit.learning_rate": {"loguniform": [1e-4, 1e-2]},
    }
    settings = {
        "space": space,
        "search": {"method": "tpe", "trials": 5},
        "objective": [{"metric": "score"}, {"metric": "cpu_seconds", "direction": "min"}],
    }
    interrupted = Interrupted(after=2)
    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "reported", lambda *a: interrupted(*a))
        with pytest.raises(KeyboardInterrupt):
            run_sweep(load_tiny(tmp_path, tmp_path, **settings))
    trials = tmp_path / "sweeps/tiny-sweep/trials"
    before = {path.name for path in trials.glob("*.json")}
    assert len(before) >= 2
    record = run_sweep(load_tiny(tmp_path, tmp_path, **settings)).record
    after = {path.name for path in trials.glob("*.json")}
    assert before <= after
    assert len(after) == len(record.trials) == 5
    rates = [trial.settings["distill.fit.learning_rate"] for trial in record.trials]
    assert len(set(rates)) == 5


@pytest.mark.ray
@pytest.mark.slow
def test_when_all_trials_fail_the_first_reason_is_told(
    tmp_path: Path, ray_cluster: None
) -> None:
    space = {"select.minimum_episodes": {"grid": [100_000, 200_000]}}
    with pytest.raises(StageError, match=r"No trial succeeded(.|\n)*must keep at least"):
        run_sweep(load_tiny(tmp_path, tmp_path, space=space))
    record = run_sweep(
        load_tiny(tmp_path, tmp_path, space={"select.minimum_episodes": {"grid": [5, 200_000]}})
    ).record
    assert [trial.state for trial in record.trials] == ["done", "failed"]


def commands(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    while True:
        yield subprocess.Popen(
            [sys.executable, "-m", "tskd_ray", "sweep", str(path), "--quiet"],
            env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
            stdout=subprocess.DEVNULL,
        )


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_killed_at_three_random_moments_ends_the_same(tmp_path: Path) -> None:
    clean, killed = tmp_path / "clean", tmp_path / "killed"
    for folder in (clean, killed):
        folder.mkdir()
    starts = commands(tiny_sweep(clean, clean))
    assert next(starts).wait() == 0
    rng = random.Random(0)
    starts = commands(tiny_sweep(killed, killed))
    trials = killed / "sweeps/tiny-sweep/trials"
    for count in (1, 6, 12):  # so many artifacts more, then some
        child = next(starts)
        before = len(list(killed.glob("artifacts/*/*/manifest.json")))
        while len(list(killed.glob("artifacts/*/*/manifest.json"))) < before + count:
            if child.poll() is not None:
                break
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 1))
        child.send_signal(signal.SIGKILL)
        child.wait()
        done = {p: p.read_bytes() for p in trials.glob("*.json") if b'"done"' in p.read_bytes()}
    assert next(starts).wait() == 0
    assert all(path.read_bytes() == text for path, text in done.items())
    one, other = (read_sweep(folder / "sweeps/tiny-sweep") for folder in (clean, killed))
    assert comparable(one) == comparable(other)
    assert parts(clean) == parts(killed)
    check_winner(one, clean)
    check_winner(other, killed)
