"""Content-addressed artifacts: a stage's result, found by what it is a function of.

Reasons: docs/decisions/001.

    <root>/artifacts/<stage>/<key>/manifest.json          written last; names one attempt
                                   attempt-<uuid>/...     the parts
                                   shards/...             finished units of an unfinished stage
                                   scratch/...            training state of an unfinished stage
    <root>/runs/<name>/...                                what a person opens

A stage is done when its manifest exists, so a kill at any moment leaves either a whole artifact
or none, and the same command finds or redoes it. Two writers of one key both work; the second
to finish finds the manifest and throws its attempt away.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tskd_ray.errors import StageError, StorageError
from tskd_ray.pipeline.heartbeat import beating, renew
from tskd_ray.pipeline.manifest import ArtifactKey, Manifest, Part, artifact_key, id_ranges
from tskd_ray.pipeline.publish import alone, publish
from tskd_ray.pipeline.room import told_if_full
from tskd_ray.pipeline.shards import ShardStore
from tskd_ray.pipeline.storage import Storage, first_link, safe_path, sha256_file

__all__ = ["Artifact", "ArtifactKey", "ArtifactStore", "Attempt", "artifact_key"]

# Larger parts are checked by size when opened and by hash when asked: reading 2 GB to open it
# would cost more than most stages that read it.
_HASHED_ON_FETCH = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A finished stage."""

    key: ArtifactKey
    manifest: Manifest

    @property
    def info(self) -> dict[str, Any]:
        """What the stage noted about its making."""
        return self.manifest.info


@dataclass(kw_only=True)
class Attempt:
    """A folder that becomes an artifact when its `with` block ends without an error."""

    key: ArtifactKey
    folder: Path
    """Where the stage writes its parts: any files, in sub-folders or not."""
    info: dict[str, Any] = field(default_factory=dict[str, Any])
    """JSON figures for the manifest: counts, seconds."""
    ids: list[int] = field(default_factory=list[int])
    """Items written so far; compared with those asked for at the commit."""
    artifact: Artifact | None = None
    """Set by the commit: ours, or that of a writer who was faster."""


class ArtifactStore:
    """Artifacts and runs below one root. Holds nothing but the root, so workers may have it."""

    def __init__(self, root: str | Path, *, cache: Path | None = None) -> None:
        """Name the store; nothing is touched until used.

        Args:
            root: Folder or URI, as the configuration's `storage`.
            cache: Folder of this machine for copies of a remote store's artifacts, and for the
                scratch of its stages; default `$XDG_CACHE_HOME/tskd_ray`. Unused if local.

        Raises:
            StorageError: If nothing knows the URI's scheme.
        """
        self.storage = Storage(str(root))
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        name = hashlib.sha256(self.storage.root.encode()).hexdigest()[:16]
        self.cache = (cache or base / "tskd_ray") / name

    def __reduce__(self) -> tuple[type[ArtifactStore], tuple[str], dict[str, Any]]:
        return ArtifactStore, (self.storage.root,), {"cache": self.cache}

    def check_writable(self) -> None:
        """Raise StorageError unless a probe file can be written; call before any work."""
        self.storage.check_writable()

    # -- reading -----------------------------------------------------------------------

    def find(self, key: ArtifactKey) -> Artifact | None:
        """The finished artifact of `key`, or None if it is still to be made.

        Raises:
            StorageError: If its manifest is damaged, or a part is missing or has another size.
        """
        data = self.storage.read(f"{key.folder}/manifest.json")
        if data is None:
            return None
        manifest = Manifest.from_bytes(data, key=key)
        for part, size in self._sizes(manifest):
            if size != part.bytes:
                if self.storage.size(f"{key.folder}/manifest.json") is None:
                    return None  # `tskd storage gc` took it away while we looked
                raise _damaged(
                    manifest, part, "is missing" if size is None else f"has {size} bytes"
                )
        return Artifact(key=key, manifest=manifest)

    def _sizes(self, manifest: Manifest) -> Iterator[tuple[Part, int | None]]:
        """Bytes of each part as they are in the storage; None if it is not there."""
        listed: dict[str, int] = {}
        if self.storage.local is None:  # one request instead of one or two per part
            found = self.storage.tree(manifest.folder)
            listed = {one.path: one.bytes for one in found if one.kind == "file"}
        for part in manifest.parts:
            path = f"{manifest.folder}/{part.name}"
            size = listed.get(path)
            # asked anew, since some file systems remember what they listed
            yield part, size if size == part.bytes else self.storage.size(path)

    def finished(self, stage: str) -> Iterator[Artifact]:
        """All finished artifacts of a stage."""
        for folder in self._folders(f"artifacts/{stage}"):
            artifact = self.find(ArtifactKey(stage=stage, digest=folder.rsplit("/", 1)[-1]))
            if artifact is not None:
                yield artifact

    def fetch(self, artifact: Artifact, *, verify: bool = False) -> Path:
        """A local folder with the artifact's parts: its own if local, else a verified copy.

        Args:
            artifact: From `find` or an attempt.
            verify: Check the SHA-256 of every part, not only of those below 16 MiB.

        Raises:
            StorageError: If a part does not have the manifest's bytes, or is a link.
        """
        manifest = artifact.manifest
        root = self.storage.local
        if root is not None:
            folder = root / manifest.folder
            for part in manifest.parts:
                if first_link(folder.parent, f"{folder.name}/{part.name}"):
                    raise _damaged(manifest, part, "is a link, which may lead anywhere")
                if verify or part.bytes <= _HASHED_ON_FETCH:
                    _check_part(folder, part, manifest)
            return folder
        folder = self.cache / manifest.folder
        if not folder.exists():
            self._download(manifest, folder)
        return folder

    def _download(self, manifest: Manifest, folder: Path) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
        try:
            for part in manifest.parts:
                self.storage.download(f"{manifest.folder}/{part.name}", partial / part.name)
                _check_part(partial, part, manifest)
            with contextlib.suppress(OSError):  # another process of this node was faster
                partial.replace(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    # -- writing -----------------------------------------------------------------------

    @contextlib.contextmanager
    def attempt(
        self, key: ArtifactKey, *, ids: Sequence[int] | None = None
    ) -> Generator[Attempt]:
        """A folder to write parts into; committed when the block ends, removed if it raises.

        Args:
            key: What is being made.
            ids: Items that must be in it, each once; the block adds what it writes to
                `attempt.ids`. Default: not checked.

        Raises:
            StageError: If the block wrote nothing, a link, or not exactly `ids`.
            StorageError: If the storage fails, or is full, also where the block writes itself.
        """
        name = f"attempt-{uuid.uuid4().hex}"
        root = self.storage.local
        if root is None:
            folder = Path(tempfile.mkdtemp(prefix="tskd-attempt-"))
        else:
            folder = root / key.folder / name
            _make_folder(folder, self.storage)
        attempt = Attempt(key=key, folder=folder)
        kept = False
        try:
            where = str(folder) if root is None else self.storage.root
            full = told_if_full(folder, where, f"The result of {key.stage}")
            with full, beating(folder) as descriptor:
                yield attempt
                attempt.artifact, kept = self._commit(attempt, name, ids, descriptor)
        finally:
            if root is None or not kept:
                shutil.rmtree(folder, ignore_errors=True)

    def _commit(
        self, attempt: Attempt, name: str, ids: Sequence[int] | None, descriptor: int
    ) -> tuple[Artifact, bool]:
        """The artifact now in the store, and whether it is this attempt's."""
        key = attempt.key
        what = f"artifact {key.stage}/{key.digest[:12]}"
        # From here on nobody takes it for abandoned, however long its process was suspended.
        renew(descriptor)
        _check_same(attempt.folder, descriptor, what)
        manifest = Manifest(
            stage=key.stage,
            key=key.digest,
            made_from=dict(key.made_from),
            attempt=name,
            parts=tuple(_parts(attempt.folder, what)),
            ids=tuple(id_ranges(attempt.ids, ids, what)),
            info=attempt.info,
        )
        existing = self.find(key)
        if existing is not None:
            self._tidy(key)
            return existing, False
        if self.storage.local is None:
            for part in manifest.parts:
                target = f"{manifest.folder}/{part.name}"
                self.storage.upload(attempt.folder / part.name, target)
            if any(size != part.bytes for part, size in self._sizes(manifest)):
                raise _removed(what)
        else:
            _sync(attempt.folder)
        _check_same(attempt.folder, descriptor, what)
        if not self.storage.create(f"{key.folder}/manifest.json", manifest.to_bytes()):
            self.storage.delete(manifest.folder)
            existing = self.find(key)
            if existing is None:
                raise StorageError(
                    f"The manifest of {what} vanished while it was written. Is another command "
                    "deleting it? Run the same command again."
                )
            return existing, False
        self._tidy(key)
        return Artifact(key=key, manifest=manifest), True

    @contextlib.contextmanager
    def unless_finished(self, key: ArtifactKey) -> Generator[None]:
        """Forgive a failure of the block if another command finished the artifact meanwhile.

        Its commit removed the shards and the scratch that the block was working with.
        """
        try:
            yield
        except Exception:
            if self.find(key) is None:
                raise
            self._tidy(key)

    def _tidy(self, key: ArtifactKey) -> None:
        """Remove what a finished stage needs no more."""
        # best effort: another command may be writing there, and will find the manifest
        with contextlib.suppress(StorageError):
            self.shards(key).clear()
        shutil.rmtree(self._scratch_folder(key), ignore_errors=True)

    # -- resuming ----------------------------------------------------------------------

    def shards(self, key: ArtifactKey) -> ShardStore:
        """Finished units of work of a stage that is not finished; emptied by the commit."""
        return ShardStore(self.storage, f"{key.folder}/shards")

    def scratch(self, key: ArtifactKey) -> Path:
        """A local folder that outlives a kill, for training state; removed by the commit.

        With a remote root it lies in this machine's cache: resuming needs the same machine.
        """
        folder = self._scratch_folder(key)
        _make_folder(folder, self.storage)
        return folder

    def _scratch_folder(self, key: ArtifactKey) -> Path:
        return (self.storage.local or self.cache) / key.folder / "scratch"

    # -- runs --------------------------------------------------------------------------

    def run_folder(self, name: str) -> Path:
        """The local folder of a run; with a remote root a staging copy, see `publish_run`."""
        folder = (self.storage.local or self.cache) / "runs" / safe_path(name)
        _make_folder(folder, self.storage)
        return folder

    def publish_run(self, name: str, part: str = "") -> str:
        """Copy a run's folder to a remote root, if it is one; the folder's URI or path.

        Args:
            name: The run's.
            part: A sub-folder to copy; default: all, with outputs of other settings removed.
        """
        folder = self.run_folder(name)
        below = f"/{part}" if part else ""
        with alone(folder):
            publish(self.storage, folder / part, f"runs/{name}{below}")
        return f"{self.storage.root}/runs/{name}"

    def _folders(self, path: str) -> Iterable[str]:
        return (f"{path}/{entry.name}" for entry in self.storage.list(path) if entry.is_folder)


def _parts(folder: Path, what: str) -> Iterator[Part]:
    paths = sorted(_files(folder), key=lambda path: path.relative_to(folder).as_posix())
    if not paths:
        raise StageError(f"A stage must write at least one part. {what} wrote none.")
    for path in paths:
        name = safe_path(path.relative_to(folder).as_posix())
        yield Part(name=name, bytes=path.stat().st_size, sha256=sha256_file(path))


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise StageError(
                f"Artifacts hold plain files, since links do not survive copying. Got the link "
                f"{path.relative_to(folder)}. Copy the file."
            )
        if path.is_file():
            yield path


def _sync(folder: Path) -> None:
    """Have the disk hold all of it: after a power cut a manifest must not name empty parts."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError:
            if not path.is_dir():  # some file systems sync files alone
                raise
        finally:
            os.close(descriptor)


def _check_part(folder: Path, part: Part, manifest: Manifest) -> None:
    path = folder / part.name
    if not path.is_file():
        raise _damaged(manifest, part, "is missing")
    if path.stat().st_size != part.bytes:
        raise _damaged(manifest, part, f"has {path.stat().st_size} bytes")
    if sha256_file(path) != part.sha256:
        raise _damaged(manifest, part, "has other bytes than when it was written")


def _damaged(manifest: Manifest, part: Part, what: str) -> StorageError:
    key_folder = manifest.folder.rpartition("/")[0]
    return StorageError(
        f"Every part of an artifact must have the {part.bytes} bytes that its manifest lists. "
        f"{part.name} of {manifest.folder} {what}. Delete {key_folder} and run the same "
        "command again."
    )


def _check_same(folder: Path, descriptor: int, what: str) -> None:
    """Refuse to publish an attempt that was taken for abandoned and removed.

    A stage that makes its folders anew would go on in another one of the same name, and leave
    out what it wrote before.
    """
    try:
        same = os.path.samestat(folder.stat(), os.fstat(descriptor))
    except OSError:
        same = False
    if not same:
        raise _removed(what)


def _removed(what: str) -> StageError:
    return StageError(
        f"An attempt must stay in the storage until it is whole. That at {what} was removed "
        "while it was written. Did `tskd storage gc` run while this process was suspended? Run "
        "the same command again."
    )


def _make_folder(folder: Path, storage: Storage) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"The storage must be writable. Got {storage.root}: {error.strerror}. "
            "Choose another with storage=FOLDER, or free it."
        ) from error
