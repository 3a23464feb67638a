"""Made-up storages: local ones, and one like an object store that dates its files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from pydantic import TypeAdapter

from tskd_ray.pipeline.artifacts import Artifact, ArtifactKey, ArtifactStore, artifact_key
from tskd_ray.pipeline.heartbeat import Heartbeat
from tskd_ray.pipeline.nodes import Node
from tskd_ray.pipeline.run_files import write_plan
from tskd_ray.report.data import ReportData, RunRecord, StageCost, save_report_data

HOUR = 3600.0


class DatedMemory(MemoryFileSystem):
    """fsspec's memory, with the times that object stores tell."""

    protocol = "dated"
    store: dict[str, Any] = {}  # noqa: RUF012 - as in the class above, one for all instances
    pseudo_dirs = [""]  # noqa: RUF012
    find = AbstractFileSystem.find  # by `ls`

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("dated://"))

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        found: list[Any] = super().ls(path, detail=True, **options)
        for entry in found:
            if entry["type"] == "file":
                entry["mtime"] = self.store[entry["name"]].modified
        return found if detail else [entry["name"] for entry in found]


fsspec.register_implementation("dated", DatedMemory, clobber=True)


def key(stage: str = "ddr1", seed: int = 0, **inputs: str) -> ArtifactKey:
    return artifact_key(stage, code_version="1", config={}, inputs=inputs, seed=seed)


def make(store: ArtifactStore, made: ArtifactKey, **info: Any) -> Artifact:
    with store.attempt(made) as attempt:
        (attempt.folder / "deep").mkdir()
        (attempt.folder / "deep" / "weights.bin").write_bytes(b"w" * 1000)
        (attempt.folder / "curve.json").write_text("[]")
        attempt.info |= {"wall_seconds": 10.0, "cpu_seconds": 7.0, **info}
    assert attempt.artifact is not None
    return attempt.artifact


def abandon(store: ArtifactStore, made: ArtifactKey, number: int = 0) -> str:
    """What `kill -9` leaves of an attempt."""
    path = f"{made.folder}/attempt-{number:032x}"
    store.storage.write(f"{path}/weights.bin", b"w" * 700)
    return path


def begin(store: ArtifactStore, made: ArtifactKey) -> str:
    """What `kill -9` leaves of a stage that keeps its work; its scratch is empty."""
    store.storage.write(
        f"{made.folder}/shards/shard-00000001-{'0' * 16}.safetensors", b"damaged"
    )
    store.shards(made).note_cost(1, 2.5)
    if store.storage.local is not None:
        store.scratch(made)
    return f"{made.folder}/shards"


def age(store: ArtifactStore, hours: float, path: str = "") -> None:
    """Let all below `path` have last changed so long ago."""
    then = time.time() - hours * HOUR
    if store.storage.local is None:
        for name, file in DatedMemory.store.items():
            if path in name:
                file.modified = datetime.fromtimestamp(then, UTC)
        return
    top = store.storage.local / path
    for one in [*top.rglob("*"), top]:
        os.utime(one, (then, then), follow_symlinks=False)


def node(name: str, made: ArtifactKey, inputs: Sequence[str] = (), shards: int = 0) -> Node:
    config = {"trajectories": shards, "shard_size": 1} if shards else {}
    return Node(
        name=name, stage=made.stage, role="teacher", config=config,
        inputs=tuple(inputs), key=made,
    )  # fmt: skip


def plan(store: ArtifactStore, name: str, *nodes: Node, asked: int | None = None) -> None:
    write_plan(store.storage, name, {one.name: one for one in nodes}, nodes[:asked])


def record(store: ArtifactStore, name: str, **keys: ArtifactKey) -> None:
    """run.json and the report of a run that is whole."""
    stages = tuple(
        StageCost(name=stage, wall_seconds=10.0, cpu_seconds=7.0, key=made.digest)
        for stage, made in keys.items()
    )
    run = RunRecord(
        name=name, created="2026-01-31T12:00:00Z", source="x.hdf5", environment=None,
        rollout="dynamics", seed=0, config={}, versions={}, stages=stages,
    )  # fmt: skip
    folder = store.run_folder(name)
    save_report_data(ReportData(run=run), folder)
    (folder / "report.html").write_text("<html>")
    store.publish_run(name)


def beat(store: ArtifactStore, name: str, *, ago: float = 0.0, **fields: Any) -> None:
    """A heartbeat of so many seconds ago."""
    then = datetime.fromtimestamp(time.time() - ago, UTC)
    document: dict[str, Any] = {"state": "running", "started": then, "updated": then, **fields}
    data = TypeAdapter(Heartbeat).dump_json(Heartbeat(**document))
    store.storage.write(f"runs/{name}/heartbeat.json", data)


def trial(
    store: ArtifactStore,
    sweep: str,
    number: int,
    keys: Sequence[ArtifactKey] | None,
    digests: Sequence[str] = (),
    **row: Any,
) -> None:
    """A trial's entry, as `TrialLog` writes it; without keys it has not ended."""
    about = {
        "number": number, "settings": {"stitch.epochs": number}, "state": "done",
        "keys": {str(n): made.digest for n, made in enumerate(keys or ())}, **row,
    }  # fmt: skip
    entry = {
        "number": number,
        "point": {},
        "identity": "",
        "digests": list(digests),
        "row": None if keys is None else about,
        "failure": "",
    }
    path = f"sweeps/{sweep}/trials/{number:016x}.json"
    store.storage.write(path, json.dumps(entry).encode())


def outline(
    root: Path, sweep: str, keys: Sequence[ArtifactKey], *, whole: bool = True, trials: int = 9
) -> None:
    """A sweep's plan.json."""
    folder = root / "sweeps" / sweep
    folder.mkdir(parents=True, exist_ok=True)
    document = {"trials": trials, "digests": [made.digest for made in keys], "whole": whole}
    (folder / "plan.json").write_text(json.dumps(document))


def files(root: Path) -> dict[str, bytes]:
    """Everything below, links as such."""
    return {
        path.relative_to(root).as_posix(): b"-> link"
        if path.is_symlink()
        else path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }
