"""How far a run or a sweep is, from the storage alone: while it runs, and after."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from tskd_ray.errors import StorageError
from tskd_ray.pipeline.artifacts import Artifact, ArtifactStore
from tskd_ray.pipeline.heartbeat import SILENT_SECONDS, Heartbeat, Work
from tskd_ray.pipeline.inventory import STATE
from tskd_ray.pipeline.references import (
    folders,
    read_sweep_outline,
    read_sweep_record,
    read_trials,
    recorded_references,
)
from tskd_ray.pipeline.run_files import PlannedStage, RunFiles, RunState, read_run
from tskd_ray.pipeline.storage import Storage
from tskd_ray.report.sweep.data import SweepRecord, TrialRow

StageState = Literal["done", "running", "begun", "waiting", "not asked", "removed"]
"""begun: the same command goes on from what is there. removed: done once, no longer there."""


@dataclass(frozen=True, kw_only=True)
class StageStatus:
    """One stage of a run."""

    name: str
    key: str
    state: StageState
    shards_done: int | None = None  # of a stage that keeps its work in shards
    shards: int | None = None
    done: int | None = None  # of a running stage, in units of its own: steps, trajectories
    total: int | None = None
    seconds_left: float | None = None  # at the rate up to now
    wall_seconds: float | None = None  # up to now, if it runs
    cpu_seconds: float | None = None
    started: datetime | None = None  # of finished stages: their end less their seconds
    finished: datetime | None = None
    used_by: tuple[str, ...] = ()  # other runs and sweeps: "runs/quickstart"


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """A run."""

    name: str
    storage: str
    state: RunState
    meaning: str  # of the state, in a sentence; what to do
    done: int  # stages
    of: int
    started: datetime | None  # its latest command
    updated: datetime | None  # that command's last sign of life
    cpu_seconds: float  # of all its stages, whoever made them
    report: str | None
    stages: tuple[StageStatus, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SweepStatus:
    """A sweep."""

    name: str
    storage: str
    state: Literal["running", "complete", "stopped"]
    begun: int  # trials
    done: int
    stopped: int  # early, by the scheduler
    failed: int
    of: int | None  # not known of one that an earlier version began
    best: int | None = None  # number of a trial, by `metric`
    metric: str = "score"
    value: float | None = None
    settings: dict[str, Any] = field(default_factory=dict[str, Any])  # the best trial's
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    updated: datetime | None = None
    report: str | None = None


def run_status(store: ArtifactStore, name: str) -> RunStatus:
    """How far a run is.

    Raises:
        StorageError: If the storage has no such run, or its files are damaged.
    """
    files = read_run(store.storage, name)
    if files.plan is None and files.record is None:
        raise _no_run(store, name)
    beat = files.heartbeat
    users = recorded_references(store).users
    stages = tuple(
        _stage(
            store, planned, files, sorted(users.get(planned.digest, set()) - {f"runs/{name}"})
        )
        for planned in files.stages
    )
    report = f"{store.storage.root}/runs/{name}/report.html"
    return RunStatus(
        name=name,
        storage=store.storage.root,
        state=files.state,
        meaning=_meaning(files),
        done=sum(stage.state == "done" for stage in stages),
        of=len(stages),
        started=None if beat is None else beat.started,
        updated=None if beat is None else beat.updated,
        cpu_seconds=round(sum(stage.cpu_seconds or 0.0 for stage in stages), 3),
        report=report if files.state == "complete" else None,
        stages=stages,
        notes=_notes(files, stages),
    )


def _no_run(store: ArtifactStore, name: str) -> StorageError:
    there = folders(store.storage, "runs")
    if name in there:
        return StorageError(
            f"A run's folder holds plan.json from its start on. Got runs/{name} in "
            f"{store.storage.root}, which has neither that nor run.json. Give the command of "
            "the run again."
        )
    known = f"It has {', '.join(there[:10])}" if there else "It has none"
    more = f" and {len(there) - 10} more" if len(there) > 10 else ""
    return StorageError(
        f"The run must have been started. Got {name!r}, which {store.storage.root} does not "
        f"have. {known}{more}. Correct the name, or the storage by --storage."
    )


_MEANING: dict[RunState, str] = {
    "running": "A command is working on it.",
    "complete": "All stages are done, and the folder is written.",
    "partial": "Its command did what it was asked for; `tskd run` does the rest.",
    "failed": "Its command failed: {failure} The same command goes on.",
    "interrupted": "Its command was interrupted; the same one goes on.",
    "killed": "Its command gave no sign of life for {minutes:.0f} minutes or more: it was "
    "killed, or its machine. The same command goes on.",
    "unknown": "Nothing tells what its command does or did. The same command goes on.",
}


def _meaning(files: RunFiles) -> str:
    failure = "" if files.heartbeat is None else files.heartbeat.failure
    return _MEANING[files.state].format(failure=failure, minutes=SILENT_SECONDS / 60)


def _notes(files: RunFiles, stages: Sequence[StageStatus]) -> tuple[str, ...]:
    notes: list[str] = []
    if files.plan is None:
        notes.append(
            "The run has no plan.json, since an earlier version wrote it: only the stages that "
            "were finished are known."
        )
    elif not files.recorded.keys() <= {stage.digest for stage in files.stages}:
        notes.append(
            "run.json, and what lies beside it, is of earlier settings of a run of this name."
        )
    if any(stage.state == "removed" for stage in stages):
        notes.append(
            "Artifacts of stages that were done are no longer in the storage; what the run's "
            "folder holds is not affected."
        )
    return tuple(notes)


# -- a stage ---------------------------------------------------------------------------


def _stage(
    store: ArtifactStore, planned: PlannedStage, files: RunFiles, used_by: Sequence[str]
) -> StageStatus:
    status = StageStatus(
        name=planned.name, key=planned.digest, state="waiting", used_by=tuple(used_by)
    )
    artifact = store.find(planned.key)
    if artifact is not None:
        return _finished(store, planned, artifact, status)
    beat = files.heartbeat
    work = beat.running.get(planned.name) if beat is not None and beat.alive else None
    once = files.recorded.get(planned.digest)
    if once is not None and work is None:
        cost = {"wall_seconds": once.wall_seconds, "cpu_seconds": once.cpu_seconds}
        return replace(status, state="removed", **cost)
    begun = any(
        found.bytes and found.path.split("/")[3] in STATE
        for found in store.storage.tree(planned.key.folder)
    )
    status = _with_shards(store, planned, status)
    if beat is not None and work is not None:
        return _running(beat, work, status)
    asked: StageState = "waiting" if planned.asked else "not asked"
    return replace(status, state="begun" if begun else asked)


def _finished(
    store: ArtifactStore, planned: PlannedStage, artifact: Artifact, status: StageStatus
) -> StageStatus:
    entries = store.storage.list(planned.key.folder)
    written = next((e.modified for e in entries if e.name == "manifest.json"), 0.0)
    end = datetime.fromtimestamp(written, UTC) if written else None
    wall = float(artifact.info.get("wall_seconds", 0.0))
    return replace(
        status,
        state="done",
        shards_done=planned.shards or None,
        shards=planned.shards or None,
        wall_seconds=wall,
        cpu_seconds=float(artifact.info.get("cpu_seconds", 0.0)),
        started=None if end is None else end - timedelta(seconds=wall),
        finished=end,
    )


def _running(beat: Heartbeat, work: Work, status: StageStatus) -> StageStatus:
    wall = (datetime.now(UTC) - work.started).total_seconds()
    new = 0 if work.first is None else work.done - work.first
    rate = new / max(1e-9, (beat.updated - work.started).total_seconds())
    return replace(
        status,
        state="running",
        done=work.done if work.total else None,
        total=work.total or None,
        seconds_left=round((work.total - work.done) / rate, 1) if rate > 0 else None,
        wall_seconds=round(wall, 3),
        started=work.started,
    )


def _with_shards(
    store: ArtifactStore, planned: PlannedStage, status: StageStatus
) -> StageStatus:
    """Shards that are there, whichever command made them; nothing is read but their cost."""
    if not planned.shards:
        return status
    shards = store.shards(planned.key)
    return replace(
        status,
        shards=planned.shards,
        shards_done=len(shards.kept()),
        cpu_seconds=round(shards.cpu_seconds(), 3),
    )


# -- sweeps ----------------------------------------------------------------------------


def sweep_status(store: ArtifactStore, name: str) -> SweepStatus:
    """How far a sweep is.

    Raises:
        StorageError: If the storage has no such sweep, or its files are damaged.
    """
    storage = store.storage
    if name not in folders(storage, "sweeps"):
        raise StorageError(
            f"The sweep must have been started. Got {name!r}, which {storage.root} does not "
            "have. Correct the name, or the storage by --storage."
        )
    trials = read_trials(storage, name)
    record, outline = read_sweep_record(storage, name), read_sweep_outline(storage, name)
    ended = record is not None and all(trial.row is not None for trial in trials)
    rows = [row for trial in trials for row in [trial.row] if row is not None]
    states = Counter(row.state for row in rows)
    times = [found.modified or 0.0 for found in storage.tree(f"sweeps/{name}")]
    newest = max(times, default=0.0)
    running = not ended and time.time() - newest < SILENT_SECONDS
    metric, sign = _objective(record, rows)
    best = max(
        (row for row in rows if row.state == "done" and _value(row, metric) is not None),
        key=lambda row: sign * (_value(row, metric) or 0.0),
        default=None,
    )
    cpu, wall = _spent(storage, name)
    report = storage.size(f"sweeps/{name}/report.html") is not None
    return SweepStatus(
        name=name,
        storage=storage.root,
        state="complete" if ended else "running" if running else "stopped",
        begun=len(trials),
        done=states["done"],
        stopped=states["stopped"],
        failed=states["failed"],
        of=outline.trials if outline is not None else len(trials) if ended else None,
        best=None if best is None else best.number,
        metric=metric,
        value=None if best is None else _value(best, metric),
        settings={} if best is None else dict(best.settings),
        cpu_seconds=cpu,
        wall_seconds=wall,
        updated=datetime.fromtimestamp(newest, UTC) if newest else None,
        report=f"{storage.root}/sweeps/{name}/report.html" if ended and report else None,
    )


def _objective(record: SweepRecord | None, rows: Sequence[TrialRow]) -> tuple[str, float]:
    """The metric that ranks trials, and its sign: recorded at the end, till then the usual."""
    if record is not None and record.objectives:
        metric, direction = record.objectives[0]
        return metric, 1.0 if direction == "maximize" else -1.0
    scored = any(row.score is not None for row in rows)
    return ("score" if scored or not rows else "offline"), 1.0


def _value(row: TrialRow, metric: str) -> float | None:
    return row.full_cpu_seconds if metric == "cpu_seconds" else getattr(row, metric, None)


def _spent(storage: Storage, name: str) -> tuple[float, float]:
    """CPU and wall seconds of all the sweep's commands."""
    try:
        document = json.loads(storage.read(f"sweeps/{name}/spent.json") or b"")
        return float(document["cpu_seconds"]), float(document["wall_seconds"])
    except (ValueError, KeyError, TypeError):
        return 0.0, 0.0  # it was not told yet
