"""What of a storage nobody needs, and its removal: `tskd storage gc`.

What goes, if nothing of it changed for `older_than` seconds:

    leftover     an attempt that no manifest names; shards and scratch of a finished stage
    unfinished   shards and scratch of a stage that no run or sweep names       (only if asked)
    artifact     a finished artifact that no run or sweep names                 (only if asked)

An attempt's folder is renewed every minute while its writer lives (`heartbeat.py`), so that one
in progress is never taken, however long it takes. On an object store an attempt is there only
while it is uploaded. Ages are told by the storage's own clock; where the store does not tell
times, nothing goes. Who was suspended for longer than `older_than` finds the attempt gone at
the commit, and publishes nothing (`artifacts.py`).

A run writes plan.json before it looks for artifacts. So references are read again once all is
listed; then manifests go first, each of which takes a whole artifact away at once; then files.

Removal starts from the root's descriptor and opens each folder of the way without following
links, so that nothing outside is reached, even if somebody puts a link there meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import time
import uuid
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tskd_ray.errors import ConfigError, StorageError
from tskd_ray.pipeline.artifacts import ArtifactKey, ArtifactStore
from tskd_ray.pipeline.inventory import STATE, Contents, KeyFolder, Usage, scan, total
from tskd_ray.pipeline.references import References, find_references, recorded_references
from tskd_ray.pipeline.storage import Storage

LEAST_HOURS = 1.0
"""Below, the clocks and caches of a shared file system could matter."""

Kind = Literal["leftover", "unfinished", "artifact"]


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """Something to remove."""

    kind: Kind
    key: ArtifactKey
    names: tuple[str, ...]
    """What goes, directly in the key's folder; of an artifact, the manifest first."""
    bytes: int
    idle_seconds: float

    @property
    def path(self) -> str:
        """Below the root: of the one thing that goes, else of the folder that they are in."""
        one = len(self.names) == 1
        return f"{self.key.folder}/{self.names[0]}" if one else self.key.folder


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What may go, and why other things stay."""

    garbage: tuple[Garbage, ...]
    too_young: int  # bytes that changed lately: they may be in progress
    resumable: int  # bytes of unfinished stages, kept since a command can go on from them
    unused: int  # bytes of finished artifacts that no run or sweep names, kept unless asked
    undated: int  # bytes whose age the store does not tell
    unclear: tuple[str, ...]  # why nothing that is unused may go, a sentence each

    @property
    def bytes(self) -> int:
        """Of all garbage."""
        return sum(one.bytes for one in self.garbage)


def collect(
    store: ArtifactStore, *, older_than: float, unused: bool, remove: bool
) -> tuple[Collection, list[Garbage]]:
    """What nobody needs, and what of it was removed.

    Args:
        store: The storage.
        older_than: Seconds without a change; at least an hour.
        unused: Also artifacts and unfinished work that no run or sweep names.
        remove: Otherwise nothing is touched.

    Raises:
        ConfigError: If `older_than` is too short.
        StorageError: If the storage fails.
    """
    # A clock of this machine's may be off, but asking the storage's writes a file.
    now = storage_clock(store.storage) if remove else time.time()
    contents = scan(store.storage)
    references = find_references(store, contents.manifests, now=now, active_seconds=older_than)
    found = find_garbage(contents, references, older_than=older_than, unused=unused, now=now)
    removed = remove_garbage(store, found.garbage, before=now - older_than) if remove else []
    return found, removed


def find_garbage(
    contents: Contents,
    references: References,
    *,
    older_than: float,
    unused: bool,
    now: float,
) -> Collection:
    """What nobody needs; touches nothing.

    Args:
        contents: Of `scan`.
        references: What runs and sweeps name.
        older_than: Seconds without a change.
        unused: Also what is of use, but named by no run or sweep.
        now: Seconds since the epoch.

    Raises:
        ConfigError: If `older_than` is so short that something in progress could look old.
    """
    if not older_than >= LEAST_HOURS * 3600:  # nan is refused, too
        raise ConfigError(
            f"--older-than must be at least {LEAST_HOURS:g} hour, since clocks and caches of "
            "shared file systems may be late, and what is in progress must stay. Got "
            f"{older_than / 3600:g}. Raise it."
        )
    found = _Finder(
        users=references.users,
        unused=unused and not references.unclear,
        older_than=older_than,
        now=now,
    )
    for folder in contents.keys:
        found.look_at(folder)
    return Collection(
        garbage=tuple(found.garbage),
        too_young=found.too_young,
        resumable=found.resumable,
        unused=found.unused_bytes,
        undated=found.undated,
        unclear=tuple(references.unclear) if unused else (),
    )


@dataclass
class _Finder:
    users: Mapping[str, object]
    unused: bool
    older_than: float
    now: float
    garbage: list[Garbage] = field(default_factory=list[Garbage])
    too_young: int = 0
    resumable: int = 0
    unused_bytes: int = 0
    undated: int = 0

    def look_at(self, folder: KeyFolder) -> None:
        if folder.damaged:  # which attempt is the artifact's is not known
            return
        named = folder.key.digest in self.users
        if folder.manifest is not None and not named and self.unused:
            mine = folder.manifest.attempt
            rest = [name for name in folder.left() if name != mine]
            self._add("artifact", folder, ["manifest.json", mine, *rest], folder.usage)
            return
        for name in folder.left():
            self._add("leftover", folder, [name], folder.children[name])
        if folder.manifest is not None:
            self.unused_bytes += 0 if named else folder.kept_bytes
            return
        state = [name for name in STATE if name in folder.children]
        if named or not self.unused:
            self.resumable += folder.state.bytes
        elif state:
            # The attempt that uses it may be alive while it does not change.
            self._add("unfinished", folder, state, folder.usage)

    def _add(self, kind: Kind, folder: KeyFolder, names: list[str], age_of: Usage) -> None:
        there = [name for name in names if name in folder.children]
        size = total(folder.children[name] for name in there).bytes
        idle = age_of.idle(self.now)
        if idle is None:
            self.undated += size
        elif idle < self.older_than:
            self.too_young += size
        else:
            self.garbage.append(
                Garbage(
                    kind=kind,
                    key=folder.key,
                    names=tuple(there),
                    bytes=size,
                    idle_seconds=round(idle, 1),
                )
            )


# -- removal ---------------------------------------------------------------------------


def storage_clock(storage: Storage) -> float:
    """Seconds since the epoch by the clock that dates the storage's files."""
    probe = f"probe-{uuid.uuid4().hex}"
    try:
        storage.write(f"{probe}/now", b"now")
        times = [found.modified for found in storage.tree(probe) if found.kind == "file"]
    finally:
        storage.delete(probe)
    return next((known for known in times if known is not None), time.time())


def remove_garbage(
    store: ArtifactStore, garbage: Sequence[Garbage], *, before: float
) -> list[Garbage]:
    """Remove what `find_garbage` found, unless it is of use by now; what went.

    Args:
        store: The storage.
        garbage: What to remove.
        before: Seconds since the epoch, by the storage's clock; what changed later stays.

    Raises:
        StorageError: If something cannot be removed.
    """
    kept = store.storage
    references = recorded_references(store)
    known = not references.unclear
    wanted = [
        one
        for one in garbage
        if one.kind == "leftover" or (known and one.key.digest not in references.users)
    ]
    wanted = [one for one in wanted if one.kind == "leftover" or _unchanged(kept, one, before)]
    # Manifests first: from then on nobody finds the artifacts, and none is ever found in part.
    removed: list[Garbage] = []
    for one in wanted:
        if one.kind != "artifact" or _remove(kept, one.key.folder, one.names[0], before):
            removed.append(one)
    return [one for one in removed if _remove_rest(kept, one, before)]


def _remove_rest(storage: Storage, one: Garbage, before: float) -> bool:
    is_artifact = one.kind == "artifact"
    names = one.names[1:] if is_artifact else one.names
    gone = [_remove(storage, one.key.folder, name, before) for name in names]
    _remove_if_empty(storage, one.key.folder)
    return is_artifact or any(gone)


def _unchanged(storage: Storage, one: Garbage, before: float) -> bool:
    usage = Usage()
    for found in storage.tree(one.key.folder):
        usage.add(found)
    return usage.known and usage.newest is not None and usage.newest <= before


def _remove(storage: Storage, folder: str, name: str, before: float) -> bool:
    """Remove one thing below a key's folder, unless it changed; whether it went."""
    try:
        if storage.local is not None:
            with _opened(storage.local, folder) as parent:
                return _remove_local(storage, folder, name, before, parent)
    except (FileNotFoundError, NotADirectoryError):
        return False  # somebody else was faster, or put a link in its way
    except OSError as error:
        if error.errno == errno.ELOOP:  # as above, on other systems
            return False
        raise StorageError(
            f"Cannot remove {folder}/{name} in {storage.root}: {error.strerror}. Check the "
            "folder's rights, then run the same command again."
        ) from error
    path = f"{folder}/{name}"
    there = [one for one in storage.tree(folder) if f"{one.path}/".startswith(f"{path}/")]
    dates = [one.modified for one in there if one.kind == "file"]
    if not dates or any(date is None or date > before for date in dates):
        return False
    storage.delete(path)
    return True


def _remove_local(storage: Storage, folder: str, name: str, before: float, parent: int) -> bool:
    about = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if not stat.S_ISDIR(about.st_mode):
        if not stat.S_ISREG(about.st_mode) or about.st_mtime > before:
            return False
        os.unlink(name, dir_fd=parent)
        return True
    if _newest(storage, folder, name, parent) > before:
        return False
    # Taken away at once, then looked at again: a writer who is alive after all either renewed
    # the folder before, which shows here, or finds it gone at the commit.
    doomed = f"removed-{uuid.uuid4().hex}"
    os.rename(name, doomed, src_dir_fd=parent, dst_dir_fd=parent)
    if _newest(storage, folder, doomed, parent) > before:
        with contextlib.suppress(OSError):  # its owner made it anew
            os.rename(doomed, name, src_dir_fd=parent, dst_dir_fd=parent)
        return False
    shutil.rmtree(doomed, dir_fd=parent)
    return True


def _newest(storage: Storage, folder: str, name: str, parent: int) -> float:
    """When a folder or anything in it last changed."""
    own = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mtime
    return max([own, *(found.modified or 0.0 for found in storage.tree(f"{folder}/{name}"))])


def _remove_if_empty(storage: Storage, folder: str) -> None:
    above, _, name = folder.rpartition("/")
    if storage.local is not None:
        with contextlib.suppress(OSError), _opened(storage.local, above) as parent:
            os.rmdir(name, dir_fd=parent)


@contextlib.contextmanager
def _opened(root: Path, folder: str) -> Generator[int]:
    """The descriptor of a folder below the root, no link on the way."""
    flags = os.O_RDONLY | os.O_DIRECTORY
    descriptor = os.open(root, flags)
    try:
        for part in folder.split("/"):
            below = os.open(part, flags | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)
