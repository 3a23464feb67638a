"""All of a storage at a glance: runs, sweeps, artifacts, and what could go."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

from tskd_ray.errors import StorageError
from tskd_ray.pipeline.artifacts import ArtifactStore
from tskd_ray.pipeline.collect import find_garbage
from tskd_ray.pipeline.inventory import StageContents, Usage, by_stage, scan
from tskd_ray.pipeline.references import find_references, folders
from tskd_ray.pipeline.run_files import read_run
from tskd_ray.pipeline.status import sweep_status
from tskd_ray.pipeline.storage import Storage


@dataclass(frozen=True, kw_only=True)
class FolderContents:
    """A run or a sweep."""

    name: str
    state: str
    done: int  # stages of a run, trials of a sweep
    of: int
    bytes: int  # of its folder; artifacts are counted by stage
    changed: float | None  # seconds since the epoch


@dataclass(frozen=True, kw_only=True)
class Overview:
    """A storage."""

    root: str
    runs: tuple[FolderContents, ...]
    sweeps: tuple[FolderContents, ...]
    stages: tuple[StageContents, ...]
    bytes: int
    leftover_bytes: int  # that `tskd storage gc` would remove now
    unused_bytes: int  # that its --unused would remove besides
    notes: tuple[str, ...]  # what else there is to know, a sentence each


def open_storage(root: str) -> ArtifactStore:
    """The storage of earlier commands.

    Raises:
        StorageError: If it holds nothing of theirs, or cannot be read.
    """
    store = ArtifactStore(root)
    if not any(store.storage.list(name) for name in ("artifacts", "runs", "sweeps")):
        raise StorageError(
            "A storage holds what `tskd run` wrote: artifacts/ and runs/. Got "
            f"{store.storage.root}, which has neither. Correct the path."
        )
    return store


def overview(store: ArtifactStore, *, older_than: float) -> Overview:
    """What is in a storage; touches nothing.

    Args:
        store: The storage.
        older_than: As of `find_garbage`, which says what could go.
    """
    contents, now = scan(store.storage), time.time()
    references = find_references(store, contents.manifests, now=now, active_seconds=older_than)
    stages = by_stage(contents, references)
    free, more = (
        find_garbage(contents, references, older_than=older_than, unused=unused, now=now).bytes
        for unused in (False, True)
    )
    finished = {manifest.key for manifest in contents.manifests}
    runs, sweeps = _runs(store, finished), _sweeps(store)
    held = sum(folder.usage.bytes for folder in contents.keys)
    return Overview(
        root=store.storage.root,
        runs=runs,
        sweeps=sweeps,
        stages=tuple(stages),
        bytes=held + sum(folder.bytes for folder in (*runs, *sweeps)),
        leftover_bytes=free,
        unused_bytes=more - free,
        notes=(
            *(f"{path} is a link, which is not followed." for path in contents.links),
            *(
                f"{folder.key.folder} has a damaged manifest. Delete the folder and run the "
                "same command again."
                for folder in contents.keys
                if folder.damaged
            ),
            *references.unclear,
        ),
    )


def _runs(store: ArtifactStore, finished: Collection[str]) -> tuple[FolderContents, ...]:
    usages = _usages(store.storage, "runs")
    found: list[FolderContents] = []
    for name in folders(store.storage, "runs"):
        try:
            files = read_run(store.storage, name)
            stages, state = files.stages, str(files.state)
        except StorageError:
            stages, state = (), "damaged"
        usage = usages.get(name, Usage())
        found.append(
            FolderContents(
                name=name,
                state=state,
                done=sum(stage.digest in finished for stage in stages),
                of=len(stages),
                bytes=usage.bytes,
                changed=usage.newest,
            )
        )
    return tuple(found)


def _sweeps(store: ArtifactStore) -> tuple[FolderContents, ...]:
    storage = store.storage
    usages = _usages(storage, "sweeps")
    found: list[FolderContents] = []
    for name in folders(storage, "sweeps"):
        try:
            status = sweep_status(store, name)
            done, of, state = status.done + status.stopped, status.begun, str(status.state)
        except StorageError:
            done, of, state = 0, 0, "damaged"
        usage = usages.get(name, Usage())
        found.append(
            FolderContents(
                name=name, state=state, done=done, of=of,
                bytes=usage.bytes, changed=usage.newest,
            )
        )  # fmt: skip
    return tuple(found)


def _usages(storage: Storage, path: str) -> dict[str, Usage]:
    """Of each folder directly below."""
    usages: dict[str, Usage] = {}
    for found in storage.tree(path):
        usages.setdefault(found.path.split("/")[1], Usage()).add(found)
    return usages
