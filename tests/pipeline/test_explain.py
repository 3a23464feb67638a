"""`tskd stitch --explain` on a tiny run: as the run itself counts, doing only what it needs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.tiny import tiny_config
from toy_world import toy_trajectories
from tskd_ray.cli import exit_code
from tskd_ray.config.load import config_to_yaml
from tskd_ray.console import Console
from tskd_ray.data.arrays import save_arrays
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.distributed.tasks import Task
from tskd_ray.errors import ConfigError
from tskd_ray.pipeline import explain
from tskd_ray.pipeline.explain import explain_run
from tskd_ray.pipeline.run import RunResult


def stages(storage: Path) -> set[str]:
    """Stages that have a finished artifact."""
    return {path.parents[1].name for path in storage.glob("artifacts/*/*/manifest.json")}


def test_it_counts_what_the_run_itself_counted(undisturbed: RunResult) -> None:
    storage = undisturbed.folder.parents[1]
    manifests = set(storage.rglob("manifest.json"))
    result = explain_run(tiny_config(storage))
    assert set(storage.rglob("manifest.json")) == manifests, "nothing is done twice"
    epoch = json.loads((undisturbed.folder / "metrics.json").read_text())["epochs"][0]
    (row,) = [row for row in result.explanation.radii if row.configured]
    assert (row.asked, row.radius) == (None, epoch["radius"])
    assert row.neighbours[2] == epoch["neighbours"]["50%"]
    assert row.walks.hops_used == epoch["hops_used"]
    assert row.walks.replaced == epoch["replaced"]
    assert sorted(row.walks.ends.values()) == sorted(epoch["ends"].values())


def test_from_nothing_it_does_what_the_first_epoch_needs_and_no_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(config_to_yaml(tiny_config(tmp_path / "storage")))
    assert exit_code(["stitch", str(path), "--explain", "--json"]) == 0
    assert stages(tmp_path / "storage") == {
        "data", "ddr1", "ddr2", "inverse-dynamics", "transition", "termination", "dynamics",
        "generate", "value",
    }  # fmt: skip
    folder = tmp_path / "storage" / "runs" / "tiny" / "explain"
    assert {file.name for file in folder.iterdir()} == {"explain.json", "explain.html"}
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    tables = [event["rows"] for event in events if event["event"] == "table"]
    assert [len(rows) for rows in tables] == [6, 6]
    assert events[-1]["values"]["page"] == str(folder / "explain.html")


def test_radii_are_looked_at_with_the_runs_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tiny_config(tmp_path, seed=7)
    chosen: dict[str, Any] = {
        "acceptance": 0.3,
        "candidate": "best_value_first",
        "improvement": "paper",
        "on_cycle": "cap",
        "metric": "standardized",
        "search": "blocks",
    }
    settings = plain.stitch.model_copy(update={**chosen, "radius": 1.5})
    config = plain.model_copy(update={"stitch": settings})
    folders = {name: tmp_path / name for name in ("data", "generate-1", "value-1", "dynamics")}
    data = toy_trajectories(3)
    save_arrays(replace(data, rewards=-data.rewards), folders["data"])
    save_arrays(replace(data, episode_id=data.episode_id + 9), folders["generate-1"])
    given: dict[str, Any] = {}

    def note(joined: Trajectories, **options: Any) -> None:
        given.update(options, episodes=joined.episode_id.tolist())

    def price(tasks: dict[str, Task], _: Any) -> Any:
        given["priced"] = tasks["rewards"].arguments
        return {"rewards": ("prices", 0.0)}

    loaded = SimpleNamespace(predict="V")
    monkeypatch.setattr(explain.TwinValue, "load", lambda folder: loaded)
    monkeypatch.setattr(explain.ForwardDynamics, "load", lambda folder: folder.name)
    monkeypatch.setattr(explain, "explain", note)
    monkeypatch.setattr(explain, "run_tasks", price)
    nodes = {
        "value-1": SimpleNamespace(inputs=("data", "generate-1")),
        "ddr2": SimpleNamespace(key="its key"),
    }
    runner: Any = SimpleNamespace(
        config=config, store="store", graph=nodes, console=Console(mode="quiet")
    )
    explain._explain(runner, folders)
    assert given.pop("reward")("s", "s'") == "prices"
    assert given.pop("priced") == {
        "store": "store",
        "ddr2": "its key",
        "config": config,
        "states": "s",
        "next_states": "s'",
    }
    del given["progress"]
    assert given == {
        **chosen,
        "episodes": [0, 1, 2, 9, 10, 11],
        "value": "V",
        "log_density": "dynamics",
        "radius": 1.5,
        "max_length": 40,
        "whole": True,  # steps cost
        "threads": config.compute.threads,
        "seed": 7,
    }


def test_without_stitching_there_is_nothing_to_explain(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, stitch={"epochs": 0})
    with pytest.raises(ConfigError, match=r"stitching to explain\. Got stitch\.epochs=0"):
        explain_run(config)
