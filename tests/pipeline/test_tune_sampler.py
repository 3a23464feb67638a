"""`tskd generate --tune-sampler` on a tiny run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.tiny import tiny_config
from tskd_ray.cli import exit_code
from tskd_ray.config.load import config_to_yaml
from tskd_ray.data.arrays import load_arrays
from tskd_ray.errors import ConfigError
from tskd_ray.pipeline.run import RunResult
from tskd_ray.pipeline.tune_sampler import TRAJECTORIES, neighbours, tune_sampler


def test_settings_differ_from_the_configured_one_in_one_thing(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    tried = [setting.generate for setting in neighbours(config)]
    ours = tried[0]
    assert ours == config.generate.model_copy(
        update={"trajectories": min(config.generate.trajectories, TRAJECTORIES)}
    )
    assert len(tried) == len({setting.model_dump_json() for setting in tried})
    for other in tried[1:]:
        changed = {
            name
            for name in ("sampler", "replan_every", "warm_steps")
            if getattr(other, name) != getattr(ours, name)
        }
        assert len(changed) == 1
        assert other.warm_steps is None or other.warm_steps <= other.sampler.steps
        assert other.sampler.steps <= config.teacher.trajectory.diffusion_steps
        ahead = config.teacher.trajectory.horizon - config.teacher.context
        assert other.replan_every <= ahead
    kinds = {(setting.sampler.name, setting.sampler.steps) for setting in tried}
    assert {("ddim", 3), ("dpmpp_2m", 20)} <= kinds


def test_it_generates_what_the_run_generates(
    undisturbed: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "storage"
    shutil.copytree(undisturbed.folder.parents[1], storage)
    manifests = set(storage.rglob("manifest.json"))
    path = tmp_path / "tiny.yaml"
    path.write_text(config_to_yaml(tiny_config(storage)))
    assert exit_code(["generate", str(path), "--tune-sampler", "--json"]) == 0
    assert set(storage.rglob("manifest.json")) == manifests, "nothing is done twice"
    folder = storage / "runs" / "tiny" / "sampler"
    assert {file.name for file in folder.iterdir()} == {"sampler.json", "sampler.html"}
    ours = json.loads((folder / "sampler.json").read_text())["rows"][0]
    returns = [
        tuple(load_arrays(part.parent).returns)
        for part in storage.glob("artifacts/generate/*/attempt-*/vitals.json")
    ]
    assert tuple(ours["quality"]["returns"]) in returns, "the first epoch's trajectories"
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (table,) = [event["rows"] for event in events if event["event"] == "table"]
    assert len(table) == len(neighbours(tiny_config(storage)))
    assert events[-1]["values"]["page"] == str(folder / "sampler.html")
    assert exit_code(["report", str(storage / "runs" / "tiny")]) == 0
    page = (storage / "runs" / "tiny" / "report.html").read_text()
    assert "What sampling costs, and what it is worth" in page


def test_without_generation_there_is_nothing_to_tune(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, generate={"trajectories": 0})
    with pytest.raises(ConfigError, match=r"by DDR-I to tune\. Got generate\.trajectories=0"):
        tune_sampler(config)
