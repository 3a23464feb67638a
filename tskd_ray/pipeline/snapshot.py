"""The frozen snapshot of a hop search, on whatever node a worker is.

On a shared folder workers map the driver's files. With a remote store the driver sends them
there, and each node gets a copy of its own, once.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tskd_ray.errors import StorageError
from tskd_ray.pipeline.artifacts import ArtifactStore

_OLD_SECONDS = 24 * 3600.0
"""Copies of that age are left from runs that have ended, or were killed."""


@dataclass(frozen=True)
class Snapshot:
    """Files of one folder; may be sent to workers."""

    store: ArtifactStore
    folder: Path
    """Where the driver made it."""
    path: str
    """Where a remote store has it, below the root: in the scratch of its stage."""

    def send(self) -> None:
        """Make it reachable for other nodes, if it is not: called before any worker asks."""
        if self.store.storage.local is None:
            for file in sorted(self.folder.rglob("*")):
                if file.is_file():
                    name = file.relative_to(self.folder).as_posix()
                    self.store.storage.upload(file, f"{self.path}/{name}")

    def here(self) -> Path:
        """The folder, or this node's copy of it.

        Raises:
            StorageError: If the copy is not whole.
        """
        if self.folder.is_dir():
            return self.folder
        copies = self.store.cache / "snapshots"
        target = copies / self.folder.name
        copies.mkdir(parents=True, exist_ok=True)
        # One worker of a node fetches it, the others wait.
        with (copies / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.is_dir():
                _remove_old(copies)
                self._download(target)
        return target

    def _download(self, target: Path) -> None:
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
        try:
            found = [
                entry for entry in self.store.storage.tree(self.path) if entry.kind == "file"
            ]
            for entry in found:
                file = partial / Path(entry.path).relative_to(self.path)
                file.parent.mkdir(parents=True, exist_ok=True)
                self.store.storage.download(entry.path, file)
                if file.stat().st_size != entry.bytes:
                    raise StorageError(
                        f"A copy must have all bytes. {entry.path} has {entry.bytes}, the copy "
                        f"{file.stat().st_size}. Run the same command again."
                    )
            if not found:
                raise StorageError(
                    f"The hop search's snapshot must be in the storage. {self.path} is empty: "
                    "another command has ended this stage. Run the same command again."
                )
            partial.replace(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def drop(self) -> None:
        """Remove it where the driver made it and in the store; nodes' copies go with time."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.store.storage.local is None:
            self.store.storage.delete(self.path)


def _remove_old(copies: Path) -> None:
    for folder in copies.iterdir():
        if folder.is_dir() and time.time() - folder.stat().st_mtime > _OLD_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
