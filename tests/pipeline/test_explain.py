"""`tskd stitch --explain` on a tiny run: as the run itself counts, doing only what it needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.tiny import tiny_config
from tskd_ray.cli import exit_code
from tskd_ray.config.load import config_to_yaml
from tskd_ray.errors import ConfigError
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


def test_without_stitching_there_is_nothing_to_explain(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, stitch={"epochs": 0})
    with pytest.raises(ConfigError, match=r"stitching to explain\. Got stitch\.epochs=0"):
        explain_run(config)
