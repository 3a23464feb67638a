"""How far a run or a sweep is, told from files alone."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline import stores
from pipeline.stores import abandon, beat, begin, key, make, node, plan, record, trial
from pipeline.tiny import result_bytes, tiny_config
from tskd_ray.console import Console
from tskd_ray.errors import StageError, StorageError
from tskd_ray.pipeline import heartbeat as module
from tskd_ray.pipeline import runner as runner_module
from tskd_ray.pipeline.artifacts import ArtifactStore
from tskd_ray.pipeline.heartbeat import Heartbeat, RunHeartbeat, Work
from tskd_ray.pipeline.run import RunResult, run
from tskd_ray.pipeline.run_files import RunFiles, read_run
from tskd_ray.pipeline.status import StageStatus, run_status, sweep_status
from tskd_ray.progress import silent
from tskd_ray.report.sweep.data import SweepRecord, TrialRow, write_sweep

DATA, DDR1, GENERATE, SELECT = key("data"), key("ddr1"), key("generate"), key("select")


def planned(store: ArtifactStore, name: str = "mine", asked: int | None = None) -> None:
    plan(
        store, name, node("data", DATA), node("ddr1", DDR1, ["data"]),
        node("generate-1", GENERATE, ["data", "ddr1"], shards=3),
        node("select", SELECT, ["generate-1"]), asked=asked,
    )  # fmt: skip


def stages(store: ArtifactStore, name: str = "mine") -> dict[str, StageStatus]:
    return {stage.name: stage for stage in run_status(store, name).stages}


def states(store: ArtifactStore, name: str = "mine") -> list[str]:
    return [stage.state for stage in run_status(store, name).stages]


# -- stages ------------------------------------------------------------------------------------


def test_each_stage_has_its_state_while_the_run_works(store: ArtifactStore) -> None:
    planned(store)
    before = time.time()
    make(store, DATA)
    begin(store, GENERATE)
    started = datetime.now(UTC) - timedelta(seconds=60)
    beat(
        store, "mine", running={"ddr1": Work(started=started, first=100, done=400, total=1000)}
    )
    assert states(store) == ["done", "running", "begun", "waiting"]
    found = stages(store)
    data, ddr1, generate = found["data"], found["ddr1"], found["generate-1"]
    assert (data.wall_seconds, data.cpu_seconds) == (10.0, 7.0)
    assert data.finished is not None
    assert data.started == data.finished - timedelta(seconds=10)
    assert before - 1 <= data.finished.timestamp() <= time.time() + 1
    assert (ddr1.done, ddr1.total, ddr1.started) == (400, 1000, started)
    assert ddr1.seconds_left == pytest.approx(120, abs=2)  # 5 a second, those of this command
    assert ddr1.wall_seconds == pytest.approx(60, abs=30)
    assert (generate.shards_done, generate.shards, generate.cpu_seconds) == (1, 3, 2.5)
    status = run_status(store, "mine")
    assert (status.state, status.done, status.of) == ("running", 1, 4)
    assert status.cpu_seconds == 9.5


def test_looking_changes_nothing(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    planned(store)
    make(store, DATA)
    begin(store, GENERATE)  # its shard is damaged, and would be removed by who uses it
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    run_status(store, "mine")
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_who_is_dead_runs_nothing(store: ArtifactStore) -> None:
    planned(store)
    abandon(store, SELECT)  # nobody can go on from that
    running = {"ddr1": Work(started=datetime.now(UTC))}
    beat(store, "mine", ago=module.SILENT_SECONDS + 60, running=running)
    assert states(store) == ["waiting"] * 4
    status = run_status(store, "mine")
    assert status.state == "killed"
    assert "no sign of life" in status.meaning


def test_what_was_not_asked_for_is_told_apart(store: ArtifactStore) -> None:
    planned(store, asked=2)
    make(store, DATA)
    make(store, DDR1)
    beat(store, "mine", state="done")
    assert states(store) == ["done", "done", "not asked", "not asked"]
    assert run_status(store, "mine").state == "partial"


def test_what_others_use_too_is_told(store: ArtifactStore) -> None:
    planned(store)
    plan(store, "other", node("data", DATA))
    record(store, "third", data=DATA)
    trial(store, "small", 0, [DATA, DDR1])
    found = stages(store)
    assert found["data"].used_by == ("runs/other", "runs/third", "sweeps/small")
    assert found["ddr1"].used_by == ("sweeps/small",)
    assert found["select"].used_by == ()


# -- runs --------------------------------------------------------------------------------------


def test_a_run_is_complete_when_its_folder_is(store: ArtifactStore) -> None:
    keys = {"data": DATA, "ddr1": DDR1, "generate_1": GENERATE, "select": SELECT}
    for made in keys.values():
        make(store, made)
    planned(store)
    beat(store, "mine", ago=1000)
    assert run_status(store, "mine").state == "killed"  # before it wrote the folder
    record(store, "mine", **keys)
    beat(store, "mine", state="done")
    status = run_status(store, "mine")
    assert (status.state, status.done, status.of) == ("complete", 4, 4)
    assert status.report == f"{store.storage.root}/runs/mine/report.html"
    store.storage.delete("runs/mine/report.html")  # which is written last
    assert run_status(store, "mine").state == "partial"
    beat(store, "mine")
    assert run_status(store, "mine").state == "running"


@pytest.mark.parametrize(
    ("beats", "state"),
    [
        ({"state": "failed"}, "failed"),
        ({"state": "interrupted"}, "interrupted"),
        ({"ago": 1000}, "killed"),
    ],
)
def test_a_command_that_ended_badly_leaves_no_complete_run(
    store: ArtifactStore, beats: dict[str, Any], state: str
) -> None:
    plan(store, "mine", node("data", DATA))
    record(store, "mine", data=DATA)
    beat(store, "mine", **beats)
    assert run_status(store, "mine").state == state


def test_a_record_of_other_settings_does_not_count(store: ArtifactStore) -> None:
    record(store, "mine", data=key("data", seed=5))
    planned(store)
    beat(store, "mine", state="interrupted")
    status = run_status(store, "mine")
    assert (status.state, status.report) == ("interrupted", None)
    assert any("of earlier settings" in note for note in status.notes)


def test_a_run_whose_artifacts_are_gone_is_still_complete(store: ArtifactStore) -> None:
    record(store, "mine", data=DATA)
    plan(store, "mine", node("data", DATA))
    status = run_status(store, "mine")
    assert (status.state, status.done, status.stages[0].state) == ("complete", 0, "removed")
    assert status.cpu_seconds == 7.0
    assert any("no longer in the storage" in note for note in status.notes)


def test_of_an_earlier_versions_run_only_the_record_is_known(store: ArtifactStore) -> None:
    make(store, DATA)
    make(store, GENERATE)
    record(store, "old", **{"data": DATA, "generate-1": GENERATE})
    status = run_status(store, "old")
    assert [stage.state for stage in status.stages] == ["done", "done"]
    assert any("no plan.json" in note for note in status.notes)


def test_a_run_that_was_never_started_is_an_error(store: ArtifactStore) -> None:
    planned(store, "quickstart")
    with pytest.raises(StorageError, match=r"'quickstrt'.*does not have\. It has quickstart\."):
        run_status(store, "quickstrt")
    store.storage.write("runs/empty/notes.txt", b"")
    with pytest.raises(StorageError, match=r"neither that nor run\.json"):
        run_status(store, "empty")


@pytest.mark.parametrize("name", ["plan.json", "run.json", "heartbeat.json"])
@pytest.mark.parametrize("data", [b"{", b"[]", b'{"state": "fine"}'])
def test_damaged_files_are_named(store: ArtifactStore, name: str, data: bytes) -> None:
    planned(store)
    store.storage.write(f"runs/mine/{name}", data)
    with pytest.raises(StorageError, match=f"{name} must be what `tskd run` wrote"):
        run_status(store, "mine")


def test_hostile_plans_cannot_leave_the_root(store: ArtifactStore) -> None:
    planned(store)
    document = json.loads(store.storage.read("runs/mine/plan.json") or b"")
    document["stages"][0] |= {"stage": "../../etc", "digest": "passwd"}
    store.storage.write("runs/mine/plan.json", json.dumps(document).encode())
    with pytest.raises(StorageError, match="Names in the storage are plain"):
        run_status(store, "mine")


def test_states_of_a_whole_run() -> None:
    now = datetime.now(UTC)
    alive = Heartbeat(state="running", started=now, updated=now)
    nothing = RunFiles(plan=None, record=None, heartbeat=None, report=False)
    dead = replace(alive, updated=now - timedelta(seconds=module.SILENT_SECONDS + 1))
    for latest, expected in (
        (alive, "running"), (dead, "killed"), (None, "unknown"),
        (replace(alive, state="failed"), "failed"),
        (replace(alive, state="interrupted"), "interrupted"),
        (replace(alive, state="done"), "partial"),
    ):  # fmt: skip
        assert replace(nothing, heartbeat=latest).state == expected


# -- heartbeats --------------------------------------------------------------------------------


def heard(store: ArtifactStore) -> Heartbeat:
    found = read_run(store.storage, "mine").heartbeat
    assert found is not None
    return found


def test_a_heartbeat_tells_what_runs_and_how_far(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RUN_SECONDS", 0.01)
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int, **metrics: float) -> None:
        told.append((done, total))

    with RunHeartbeat(store.storage, "mine") as beating:
        assert heard(store).alive
        progress = beating.listen("ddr1", tell)
        beating.listen("ddr2", silent)
        progress(30, 100, loss=0.5)
        progress(40, 100)
        deadline = time.monotonic() + 10
        while heard(store).running["ddr1"].done != 40:
            assert time.monotonic() < deadline, "no beat"
            time.sleep(0.005)
        work = heard(store).running["ddr1"]
        assert (work.first, work.total) == (30, 100)
        beating.ended(["ddr1"])
        progress(50, 100)  # a late word changes nothing
        assert set(heard(store).running) == {"ddr2"}
    assert told == [(30, 100), (40, 100), (50, 100)]
    assert (heard(store).state, heard(store).running) == ("done", {})


@pytest.mark.parametrize(
    ("error", "state", "failure"),
    [
        (StageError("The stage died.\nTwice."), "failed", "The stage died. Twice."),
        (ValueError("password"), "failed", "unexpected ValueError"),
        (KeyboardInterrupt(), "interrupted", ""),
    ],
)
def test_a_heartbeat_tells_how_the_command_ended(
    store: ArtifactStore, error: BaseException, state: str, failure: str
) -> None:
    with pytest.raises(type(error)), RunHeartbeat(store.storage, "mine"):
        raise error
    assert (heard(store).state, heard(store).failure) == (state, failure)


def test_a_storage_that_refuses_heartbeats_stops_no_work(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")
    with RunHeartbeat(ArtifactStore(tmp_path).storage, "mine") as beating:
        beating.listen("ddr1", silent)(1, 2)


def test_a_run_tells_its_plan_from_the_start(undisturbed: RunResult) -> None:
    store = ArtifactStore(undisturbed.folder.parents[1])
    status = run_status(store, "tiny")
    assert status.state == "complete"
    assert {stage.state for stage in status.stages} == {"done"}
    named = {
        stage["key"]
        for stage in json.loads((undisturbed.folder / "run.json").read_text())["stages"]
    }
    assert {stage.key for stage in status.stages} == named
    assert stages(store, "tiny")["generate-2"].shards == 4
    assert status.stages[0].name == "data"


def test_plan_and_heartbeat_change_no_byte_of_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(folder: Path) -> Path:
        config = tiny_config(folder)
        off = {
            "generate": config.generate.model_copy(update={"trajectories": 0}),
            "stitch": config.stitch.model_copy(update={"epochs": 0}),
            "evaluate": config.evaluate.model_copy(update={"episodes": 0, "offline": False}),
        }
        return run(config.model_copy(update=off), console=Console(mode="quiet")).folder

    monkeypatch.setattr(module, "RUN_SECONDS", 0.01)
    loud = small(tmp_path / "loud")
    assert {"plan.json", "heartbeat.json"} <= {path.name for path in loud.iterdir()}

    def nothing(*arguments: Any) -> None:
        pass

    monkeypatch.setattr(runner_module, "write_plan", nothing)
    monkeypatch.setattr(RunHeartbeat, "_write", nothing)
    quiet = small(tmp_path / "quiet")
    assert not {"plan.json", "heartbeat.json"} & {path.name for path in quiet.iterdir()}
    assert result_bytes(loud) == result_bytes(quiet) != {}


# -- sweeps ------------------------------------------------------------------------------------


def test_a_sweep_tells_its_trials_and_the_best(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    trial(store, "small", 0, [DATA], score=50.0, full_cpu_seconds=9.0)
    trial(store, "small", 1, [DATA], score=70.0)
    trial(store, "small", 2, [], state="failed")
    trial(store, "small", 3, [DATA], state="stopped", score=99.0)
    trial(store, "small", 4, None)
    spent = {"cpu_seconds": 12.5, "wall_seconds": 20.0}
    (tmp_path / "sweeps" / "small" / "spent.json").write_text(json.dumps(spent))
    found = sweep_status(store, "small")
    assert (found.state, found.begun, found.of) == ("running", 5, None)
    assert (found.done, found.stopped, found.failed) == (2, 1, 1)
    assert (found.best, found.metric, found.value) == (1, "score", 70.0)
    assert found.settings == {"stitch.epochs": 1}
    assert (found.cpu_seconds, found.wall_seconds) == (12.5, 20.0)
    stores.age(store, 1, "sweeps")
    assert sweep_status(store, "small").state == "stopped"
    stores.outline(tmp_path, "small", [DATA], trials=12)
    assert sweep_status(store, "small").of == 12


def test_a_sweep_that_ended_is_ranked_by_its_objective(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    for number, cost in enumerate((9.0, 3.0)):
        trial(store, "small", number, [DATA], score=1.0, full_cpu_seconds=cost)
    rows = tuple(
        TrialRow(number=n, settings={}, state="done", score=1.0, full_cpu_seconds=cost)
        for n, cost in enumerate((9.0, 3.0))
    )
    write_sweep(
        SweepRecord(
            name="small", objectives=(("cpu_seconds", "minimize"),), rollout="none", trials=rows
        ),
        tmp_path / "sweeps" / "small",
    )
    found = sweep_status(store, "small")
    assert (found.state, found.of, found.best, found.value) == ("complete", 2, 1, 3.0)


def test_a_sweep_that_was_never_started_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="sweep must have been started"):
        sweep_status(ArtifactStore(tmp_path), "small")
