"""`tskd status`: how far a run or a sweep is."""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from tskd_ray.cli.common import make_console
from tskd_ray.cli.storages import in_words, open_root
from tskd_ray.errors import StorageError

if TYPE_CHECKING:
    from tskd_ray.console import Cell, Console
    from tskd_ray.pipeline.status import RunStatus, StageStatus, SweepStatus


@click.command(
    short_help="How far a run or a sweep is, from the storage alone.",
    epilog="Example: tskd status tskd_storage/runs/quickstart",
)
@click.argument("run", metavar="RUN")
@click.option(
    "--storage",
    "root",
    metavar="ROOT",
    help="Folder or URI; RUN is then the name of a run or sweep in it. Default: tskd_storage.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def status(run: str, root: str | None, as_json: bool) -> None:
    """How far a run or a sweep is, while it works and after.

    RUN is a run's or a sweep's folder, or its name in the storage. All is read from the
    storage: from any machine that reaches it, without Ray.
    """
    console = make_console(as_json=as_json)
    from tskd_ray.pipeline.references import folders
    from tskd_ray.pipeline.status import run_status, sweep_status

    where, kind, name = _locate(run, root)
    store = open_root(where)
    sweeps = folders(store.storage, "sweeps")
    is_run = kind == "runs" or name in folders(store.storage, "runs") or name not in sweeps
    # A sweep's best setting is run under the sweep's name.
    if kind == "sweeps" or (kind is None and name in sweeps):
        _show_sweep(console, sweep_status(store, name))
    if kind == "runs" or (kind is None and is_run):
        _show_run(console, run_status(store, name))


def _locate(run: str, root: str | None) -> tuple[str, str | None, str]:
    """Storage, "runs" or "sweeps" if that is known, and name."""
    if root is not None:
        return root, None, run
    is_uri = "://" in run
    path = run.rstrip("/") if is_uri else os.path.abspath(run)  # noqa: PTH100 - follows no link
    above, _, name = path.rpartition("/")
    storage_root, _, kind = above.rpartition("/")
    if kind in ("runs", "sweeps") and (is_uri or os.path.isdir(path)):  # noqa: PTH112
        return storage_root, kind, name
    if "/" in run:
        raise StorageError(
            "A run's folder is <storage>/runs/<name>, a sweep's <storage>/sweeps/<name>. Got "
            f"{run!r}, which is neither. Correct the path, or give --storage and the name."
        )
    return "", None, run


def _show_run(console: Console, found: RunStatus) -> None:
    if console.mode == "json":
        console.data("Run", _plain(asdict(found)))
        return
    columns = (
        "stage",
        "state",
        "progress",
        "wall",
        "CPU",
        "started",
        "finished",
        "also used by",
    )
    console.table(f"Run {found.name}", columns, [_stage(stage) for stage in found.stages])
    values: dict[str, object] = {
        "state": f"{found.state}. {found.meaning}",
        "stages done": f"{found.done} of {found.of}",
        "CPU": _duration(found.cpu_seconds),
    }
    if found.started is not None:
        values["latest command started"] = in_words(found.started)
    if found.updated is not None:
        values["its last sign of life"] = in_words(found.updated)
    if found.report is not None:
        values["report"] = found.report
    console.data(f"{found.storage}/runs/{found.name}", values)
    for note in found.notes:
        console.note(note)


def _stage(stage: StageStatus) -> tuple[Cell, ...]:
    parts: list[str] = []
    if stage.shards is not None:
        parts.append(f"{stage.shards_done or 0:,}/{stage.shards:,} shards")
    if stage.total is not None:
        parts.append(f"{stage.done:,}/{stage.total:,}")
    if stage.seconds_left is not None:
        parts.append(f"{_duration(stage.seconds_left)} left")
    used = stage.used_by
    return (
        stage.name,
        stage.state,
        " · ".join(parts),
        _duration(stage.wall_seconds),
        _duration(stage.cpu_seconds),
        in_words(stage.started),
        in_words(stage.finished),
        ", ".join(used[:2]) + (f" and {len(used) - 2} more" if len(used) > 2 else ""),
    )


def _show_sweep(console: Console, found: SweepStatus) -> None:
    if console.mode == "json":
        console.data("Sweep", _plain(asdict(found)))
        return
    running = found.begun - found.done - found.stopped - found.failed
    states = {
        "done": found.done,
        "stopped early": found.stopped,
        "failed": found.failed,
        "begun": running,
    }
    trials = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    values: dict[str, object] = {
        "state": found.state,
        "trials": (trials or "none yet") + ("" if found.of is None else f", of {found.of}"),
    }
    if found.best is not None:
        settings = ", ".join(f"{key} {value}" for key, value in found.settings.items())
        so_far = "" if found.state == "complete" else " so far"
        best = f"{found.value:.4g}, trial {found.best} ({settings})"
        values[f"best {found.metric}{so_far}"] = best
    values["CPU"] = _duration(found.cpu_seconds)
    values["wall"] = _duration(found.wall_seconds)
    values["last change"] = in_words(found.updated)
    if found.report is not None:
        values["report"] = found.report
    console.data(f"{found.storage}/sweeps/{found.name}", values)


def _duration(seconds: float | None) -> str:
    from tskd_ray.console import duration

    return "" if seconds is None else duration(seconds)


def _plain(value: object) -> Any:
    """JSON of a status: times as ISO 8601, UTC."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds")
    if isinstance(value, dict):
        return {str(name): _plain(below) for name, below in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(below) for below in value]
    return value
