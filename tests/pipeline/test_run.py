"""A whole tiny run: what it leaves, that it is not done twice, and the same bytes anyhow."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest

from pipeline.drivers import ended_well, kill_at, start
from pipeline.processes import below_this_process
from pipeline.tiny import result_bytes, tiny_config
from tskd_ray.config.schema import ComputeConfig
from tskd_ray.data.minari_io import read_minari
from tskd_ray.data.trajectories import Origin
from tskd_ray.diffusion.ddr import RewardDiffuser, TrajectoryDiffuser
from tskd_ray.distributed.tasks import Task, run_tasks
from tskd_ray.errors import ConfigError, DataError, StorageError
from tskd_ray.pipeline.run import RunResult, run


def test_the_folder_holds_what_the_contract_says(undisturbed: RunResult) -> None:
    folder = undisturbed.folder
    for name in (
        "run.json", "metrics.json", "report.html", "policy/model.safetensors",
        "policy/config.json", "policy/policy.onnx",
    ):  # fmt: skip
        assert (folder / name).stat().st_size > 0, name
    record = json.loads((folder / "run.json").read_text())
    assert record["rollout"] == "dynamics"
    assert record["config"]["generate"]["trajectories"] == 4
    assert {"torch", "ray", "numpy"} <= record["versions"].keys()
    assert all(stage["key"] for stage in record["stages"])
    metrics = json.loads((folder / "metrics.json").read_text())
    assert [epoch["epoch"] for epoch in metrics["epochs"]] == [1, 2]
    names = [row["name"] for row in metrics["scores"]]
    assert names == [
        "Recorded data",
        "BC, all recorded",
        "BC, selected recorded",
        "TSKD student",
    ]
    assert metrics["vital_signs"]


def test_the_record_tells_how_fast_networks_were_trained(undisturbed: RunResult) -> None:
    record = json.loads((undisturbed.folder / "run.json").read_text())
    stages = {stage["name"]: stage for stage in record["stages"]}
    for name in ("ddr1", "ddr2", "dynamics", "value-1", "students-tskd"):
        assert stages[name]["rate"] > 0
        assert stages[name]["flop_per_second"] > 1e6
    assert stages["select"]["rate"] is None


def test_the_dataset_opens_in_minari_with_provenance(undisturbed: RunResult) -> None:
    path = undisturbed.folder / "dataset" / "data"
    dataset = minari.MinariDataset(path)
    assert dataset.total_episodes == 64
    ours = read_minari(path)
    assert set(ours.origin) <= {0, 1, 2}
    stitched = ours.episode_origin == Origin.STITCHED
    assert stitched.any()
    for episode in np.flatnonzero(stitched)[:5]:
        steps = ours.episode(int(episode))
        assert (steps["origin"] == Origin.STITCHED).any()
    assert np.all(np.diff(ours.returns) <= 1e-6), "best episode first"


def test_doing_it_again_computes_nothing_and_changes_no_byte(undisturbed: RunResult) -> None:
    before = result_bytes(undisturbed.folder)
    storage = undisturbed.folder.parents[1]
    manifests = {path: path.stat().st_mtime_ns for path in storage.rglob("manifest.json")}
    again = run(tiny_config(storage))
    assert result_bytes(again.folder) == before
    assert manifests == {
        path: path.stat().st_mtime_ns for path in storage.rglob("manifest.json")
    }
    record = json.loads((again.folder / "run.json").read_text())
    assert all(stage["cached"] for stage in record["stages"] if stage["name"] != "data")
    assert again.table == undisturbed.table


def test_a_driver_killed_again_and_again_ends_with_the_same_bytes(
    undisturbed: RunResult, tmp_path: Path
) -> None:
    config = tiny_config(tmp_path)
    artifacts = tmp_path / "artifacts"
    # Kill it in training, among the shards of generation, in stitching and among the students.
    for mark in (
        "ddr1/*/attempt-*",
        "generate/*/shards/shard-*",
        "hops/*/scratch/problem-*",
        "select/*/attempt-*",
    ):
        kill_at(mark, start(config), artifacts)
    assert not (tmp_path / "runs" / "tiny" / "report.html").exists()
    child = start(config)
    assert ended_well(child)
    assert result_bytes(tmp_path / "runs" / "tiny") == result_bytes(undisturbed.folder)


def test_two_drivers_of_one_run_both_end_well(undisturbed: RunResult, tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    drivers = [start(config) for _ in range(2)]
    assert [ended_well(driver) for driver in drivers] == [True, True]
    assert result_bytes(tmp_path / "runs" / "tiny") == result_bytes(undisturbed.folder)
    left = [*tmp_path.glob("artifacts/*/*/shards"), *tmp_path.glob("artifacts/*/*/scratch")]
    assert left == []


def not_in_the_driver(*arguments: object) -> None:
    raise AssertionError("loaded in the driver")


@pytest.mark.ray
def test_three_workers_one_of_them_killed_give_the_same_bytes(
    undisturbed: RunResult,
    tmp_path: Path,
    ray_cluster: None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A driver that computes would need a GPU of its own, beside the workers'.
    for model in (TrajectoryDiffuser, RewardDiffuser):
        monkeypatch.setattr(model, "load", not_in_the_driver)
    killed: list[int] = []
    ended = threading.Event()

    def kill_one() -> None:
        while not killed and not ended.wait(0.02):
            for pid in below_this_process("ray::_Host.process")[:1]:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        compute = ComputeConfig(mode="ray", workers=3).model_dump(mode="json")
        result = run(tiny_config(tmp_path, compute=compute))
    finally:
        ended.set()
        killer.join()
    assert killed
    assert "A worker was lost" in caplog.text
    assert result_bytes(result.folder) == result_bytes(undisturbed.folder)
    record = json.loads((result.folder / "run.json").read_text())
    cost = {stage["name"]: stage["cpu_seconds"] for stage in record["stages"]}
    assert cost["generate-1"] > 0.1, "the workers' share, not the driver's alone"
    assert record["wall_seconds"] > 1


@pytest.mark.ray
def test_one_worker_and_a_killed_driver_give_the_same_bytes(
    undisturbed: RunResult, tmp_path: Path, ray_cluster: None
) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    compute = ComputeConfig(mode="ray", workers=1).model_dump(mode="json")
    config = tiny_config(tmp_path, compute=compute)
    # Among the shards of the pool, then while Ray Data decides hops.
    for mark in ("generate/*/shards/shard-*", "hops/*/scratch/problem-*/problem.json"):
        kill_at(mark, start(config, address), tmp_path / "artifacts")
    result = run(config)
    assert result_bytes(result.folder) == result_bytes(undisturbed.folder)


def test_stages_stop_where_asked_and_only_diffusers_hold_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu: set[str] = set()

    def run_and_note(tasks: Mapping[str, Task], *arguments: Any, **options: Any) -> Any:
        on_gpu.update(name for name, task in tasks.items() if task.gpu)
        return run_tasks(tasks, *arguments, **options)

    monkeypatch.setattr("tskd_ray.pipeline.runner.run_tasks", run_and_note)
    config = tiny_config(tmp_path)
    result = run(config, until="train")
    stages = {path.name for path in (tmp_path / "artifacts").iterdir()}
    assert "ddr1" in stages
    assert not stages & {"generate", "stitch", "students"}
    assert result.report is None
    assert on_gpu == {"ddr1", "ddr2"}


def test_a_selection_that_keeps_too_few_shows_the_returns(tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path,
        generate={"trajectories": 0},
        stitch={"epochs": 0},
        select={"slack": 1.0, "minimum_episodes": 5},
    )
    with pytest.raises(DataError, match=r"at least 5 episodes(.|\n)*█"):
        run(config)


def test_plans_conditioned_on_advantages_go_all_the_way(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    advantage = config.teacher.advantage.model_copy(update={"fit": config.stitch.value})
    teacher = config.teacher.model_copy(update={"label": "advantage", "advantage": advantage})
    result = run(config.model_copy(update={"teacher": teacher}))
    (record,) = (tmp_path / "artifacts" / "ddr1").iterdir()
    (made,) = record.glob("attempt-*/config.json")
    assert json.loads(made.read_text())["teacher"]["label"] == "advantage"
    metrics = json.loads((result.folder / "metrics.json").read_text())
    assert -1 <= metrics["extra"]["advantage.correlation"] <= 1
    generate = config.generate.model_copy(update={"target_return": 1.5})
    with pytest.raises(ConfigError, match="a rank between 0 and 1"):
        run(config.model_copy(update={"teacher": teacher, "generate": generate}))


def test_evaluation_without_an_environment_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    import tskd_ray.pipeline.recorded as module

    load = module.load_trajectories
    monkeypatch.setattr(
        module, "load_trajectories", lambda *a, **k: replace(load(*a, **k), environment=None)
    )
    with pytest.raises(ConfigError, match=r"Set data\.environment"):
        run(tiny_config(tmp_path))
    assert not (tmp_path / "artifacts").exists()


def test_storage_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    with pytest.raises(StorageError, match="writ"):
        run(tiny_config(blocker / "store"))
