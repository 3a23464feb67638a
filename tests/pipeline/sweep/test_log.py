"""A sweep's own files: whole or not there, and in the storage, for whoever goes on with it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.sweep.tiny_sweep import load_tiny
from report.sweep.test_data import record
from tskd_ray.errors import StorageError
from tskd_ray.pipeline.artifacts import ArtifactStore
from tskd_ray.pipeline.sweep import sweep as module
from tskd_ray.pipeline.sweep.log import Entry, TrialLog


def entry(number: int = 0, **more: Any) -> Entry:
    return Entry(number=number, point={"select.slack": "75%"}, identity="x", **more)


def test_what_a_kill_left_half_written_is_not_read(tmp_path: Path) -> None:
    storage = ArtifactStore(tmp_path).storage
    TrialLog(storage, "mine").write(entry())
    (path,) = (tmp_path / "sweeps" / "mine" / "trials").iterdir()
    for name in (f".{path.name}", f".{path.name}.0123.tmp"):
        path.with_name(name).write_bytes(path.read_bytes()[:20])
    again = TrialLog(storage, "mine")
    again.read()
    assert list(again.entries.values()) == [entry()]


def test_a_damaged_entry_is_named(tmp_path: Path) -> None:
    storage = ArtifactStore(tmp_path).storage
    storage.write("sweeps/mine/trials/0123.json", b"{")
    with pytest.raises(StorageError, match=r"mine/trials/0123\.json: .*Delete it; the trial"):
        TrialLog(storage, "mine").read()


def test_two_commands_of_a_sweep_may_write_one_entry_at_once(tmp_path: Path) -> None:
    storage = ArtifactStore(tmp_path).storage
    failed: list[BaseException] = []

    def write() -> None:
        try:
            for number in range(50):
                TrialLog(storage, "mine").write(entry(number))
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    log = TrialLog(storage, "mine")
    log.read()
    assert [one.number for one in log.entries.values()] == [49]


def test_another_machine_goes_on_from_what_is_in_the_storage(store: ArtifactStore) -> None:
    first = TrialLog(store.storage, "mine")
    first.write(entry(failure="out of memory"))
    first.note_spent(3.0, 4.0)
    other = ArtifactStore(store.storage.root, cache=store.cache / "other")
    log = TrialLog(other.storage, "mine")
    log.read()
    assert list(log.entries.values()) == [entry(failure="out of memory")]
    assert log.spent() == (3.0, 4.0)


def test_a_sweeps_report_is_in_the_storage_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sweep = load_tiny(Path("unused"), tmp_path, config={"storage": f"memory://{tmp_path.name}"})
    done = record()
    monkeypatch.setattr(module, "_todo", lambda *_: False)
    monkeypatch.setattr(module, "finished_rows", lambda *_: done.trials)
    monkeypatch.setattr(module, "_final", lambda *_: None)
    monkeypatch.setattr(module, "_record", lambda *_: done)
    result = module.run_sweep(sweep)
    storage = ArtifactStore(sweep.base.storage).storage
    names = [one.name for one in storage.list(f"sweeps/{sweep.base.name}")]
    assert names == ["plan.json", "report.html", "sweep.json", "trials.csv", "trials.parquet"]
    published = storage.read(f"sweeps/{sweep.base.name}/sweep.json")
    assert published == (result.folder / "sweep.json").read_bytes()
