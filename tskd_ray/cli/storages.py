"""`tskd storage`: what a storage holds, and its clean-up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from tskd_ray.cli.common import InOrder, make_console

if TYPE_CHECKING:
    from tskd_ray.console import Cell, Console
    from tskd_ray.pipeline.artifacts import ArtifactStore
    from tskd_ray.pipeline.collect import Collection, Garbage
    from tskd_ray.pipeline.overview import FolderContents

_SHOWN = 20
_DAY_HOURS = 24.0

_ROOT = click.argument("root", default="", metavar="[ROOT]")
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")


@click.group(
    cls=InOrder,
    short_help="See what a storage holds, and clean it up.",
    epilog="Example: tskd storage ls tskd_storage",
)
def storage() -> None:
    """See what a storage holds, and clean it up.

    ROOT is a folder or a URI such as s3://bucket/tskd; default: tskd_storage. Nothing but the
    storage is needed: no Ray, no configuration.
    """


@storage.command(epilog="Example: tskd storage ls s3://bucket/tskd")
@_ROOT
@_JSON
def ls(root: str, as_json: bool) -> None:
    """Runs, sweeps, artifacts by stage, and what `tskd storage gc` could remove.

    Unused artifacts: no run or sweep names them. Unfinished: a command can go on from them.
    Leftovers: of killed commands, or in progress.
    """
    console = make_console(as_json=as_json)
    from tskd_ray.pipeline.overview import overview

    found = overview(open_root(root), older_than=_DAY_HOURS * 3600)
    if as_json:
        console.data("Storage", asdict(found))
        return
    if found.runs:
        columns = ("run", "state", "stages", "size", "changed")
        console.table("Runs", columns, _folders(found.runs))
    if found.sweeps:
        columns = ("sweep", "state", "trials", "size", "changed")
        console.table("Sweeps", columns, _folders(found.sweeps))
    console.table(
        "Artifacts",
        ("stage", "finished", "of them unused", "unfinished", "leftovers"),
        [
            (
                one.stage,
                _count(one.finished, one.bytes),
                _count(one.unused, one.unused_bytes),
                _count(one.unfinished, one.unfinished_bytes),
                _count(one.leftovers, one.leftover_bytes),
            )
            for one in found.stages
        ],
    )
    console.data(
        found.root,
        {
            "size": size(found.bytes),
            "tskd storage gc would free": size(found.leftover_bytes),
            "with --unused, besides": size(found.unused_bytes),
        },
    )
    for note in found.notes:
        console.warn(note)


@storage.command(epilog="Example: tskd storage gc tskd_storage --unused --yes")
@_ROOT
@click.option(
    "--unused",
    is_flag=True,
    help="Also what no run or sweep in the storage names: finished artifacts, unfinished work.",
)
@click.option(
    "--older-than",
    type=float,
    default=_DAY_HOURS,
    show_default=True,
    metavar="HOURS",
    help="Only what has not changed for as long; at least 1.",
)
@click.option("--yes", is_flag=True, help="Remove it; otherwise it is only told.")
@_JSON
def gc(root: str, unused: bool, older_than: float, yes: bool, as_json: bool) -> None:
    """Remove what killed commands left behind.

    Tells what would go; --yes removes it. That is attempts that nobody will finish, and working
    files of stages that were finished since. What may be in progress stays, and so does what an
    unfinished run goes on from.

    With --unused also artifacts that no run or sweep names. To be rid of a run, delete its
    folder below runs/, then use this.
    """
    console = make_console(as_json=as_json)
    from tskd_ray.pipeline.collect import collect

    store = open_root(root)
    found, removed = collect(store, older_than=older_than * 3600, unused=unused, remove=yes)
    for sentence in found.unclear:
        console.warn(f"{sentence} Nothing is removed as unused.")
    _show_garbage(console, store, found, removed if yes else None)


def _show_garbage(
    console: Console, store: ArtifactStore, found: Collection, removed: list[Garbage] | None
) -> None:
    told = list(found.garbage) if removed is None else removed
    freed = sum(one.bytes for one in told)
    kept = {
        "may be in progress": found.too_young,
        "unfinished, to go on from": found.resumable,
        "unused": found.unused,
        "of unknown age": found.undated,
    }
    if console.mode == "json":
        items = [
            {
                "kind": one.kind,
                "path": one.path,
                "names": list(one.names),
                "bytes": one.bytes,
                "idle_seconds": one.idle_seconds,
            }
            for one in told
        ]
        console.data(
            "Garbage",
            {
                "root": store.storage.root,
                "removed": removed is not None,
                "bytes": freed,
                "items": items,
                "kept_bytes": kept,
            },
        )
        return
    if told:
        largest = sorted(told, key=lambda one: (-one.bytes, one.path))
        console.table(
            "To remove" if removed is None else "Removed",
            ("path", "kind", "size", "unchanged for"),
            [
                (one.path, one.kind, size(one.bytes), _ago(one.idle_seconds))
                for one in largest[:_SHOWN]
            ],
        )
    values: dict[str, object] = {
        "would free" if removed is None else "freed": size(freed),
        **{f"kept, {why}": size(held) for why, held in kept.items() if held},
    }
    if len(told) > _SHOWN:
        values["not shown"] = f"{len(told) - _SHOWN} smaller ones; --json tells all"
    if told and removed is None:
        values["to remove"] = "the same with --yes"
    console.data(store.storage.root, values)


# -- words -----------------------------------------------------------------------------


def open_root(root: str) -> ArtifactStore:
    """The storage that the user means; "" is the default one."""
    from tskd_ray.config.schema import Config
    from tskd_ray.pipeline.overview import open_storage

    return open_storage(root or str(Config.model_fields["storage"].default))


def _folders(found: Sequence[FolderContents]) -> list[tuple[Cell, ...]]:
    return [
        (
            one.name,
            one.state,
            f"{one.done}/{one.of}",
            size(one.bytes),
            None if one.changed is None else in_words(datetime.fromtimestamp(one.changed, UTC)),
        )
        for one in found
    ]


def _count(count: int, held: int) -> str | None:
    return f"{count:,} · {size(held)}" if count else None


def size(held: int) -> str:
    """Bytes in the unit a person would use."""
    if held < 1000:
        return f"{held} B"
    value, unit = held / 1000, "kB"
    for larger in ("MB", "GB", "TB", "PB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


def _ago(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours / 24:.0f} days" if hours >= 48 else f"{hours:.0f} hours"


def in_words(when: datetime | None) -> str:
    """In this machine's time zone."""
    return "" if when is None else when.astimezone().strftime("%Y-%m-%d %H:%M:%S")
