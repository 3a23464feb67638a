"""Folders that a person opens: written by one command at a time, copied to a remote storage."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Generator
from pathlib import Path

from tskd_ray.pipeline.storage import Storage
from tskd_ray.report.films import FOLDER

PAGE = "report.html"
OUTPUTS = ("dataset", "policy", FOLDER)
"""What a finished run leaves besides its record."""

_LAST = ("results.json", "sweep.json", "run.json", PAGE)
"""Each tells of all before it, so that whoever finds it finds those."""


@contextlib.contextmanager
def alone(folder: Path) -> Generator[None]:
    """Two commands of one run write its folder one after the other; a killed one lets go."""
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: as good as it gets
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def publish(storage: Storage, folder: Path, to: str) -> None:
    """Make a remote folder say what this machine's copy says; a local storage has no copy.

    Outputs and the page that the copy lacks are of other settings and go. What commands wrote
    straight into the storage, such as a heartbeat, and what is hidden here, since half-written,
    are left alone.

    Raises:
        StorageError: If the storage fails.
    """
    if storage.local is not None:
        return
    here = {path.relative_to(folder).as_posix(): path for path in _visible(folder)}
    for found in storage.tree(to):
        name = found.path.removeprefix(f"{to}/")
        lacking = name.partition("/")[0] in OUTPUTS and name not in here
        if found.kind == "file" and (lacking or name == PAGE):
            storage.delete(found.path)
    for name in sorted(
        here, key=lambda name: (_LAST.index(name) if name in _LAST else -1, name)
    ):
        storage.upload(here[name], f"{to}/{name}")


def _visible(folder: Path) -> list[Path]:
    return [
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
