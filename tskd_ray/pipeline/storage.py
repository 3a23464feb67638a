"""One root folder or URI, and the few operations that hold on every file system.

Nothing here renames across a store: object stores "move" by copy and delete (decision 001).
What is atomic everywhere is that a *single file* appears whole or not at all; artifacts are
built on that alone. Paths are posix paths relative to the root, checked never to leave it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow as pa
from pyarrow import fs

from tskd_ray.errors import StorageError
from tskd_ray.pipeline.retry import reason, retried
from tskd_ray.pipeline.room import full, is_full
from tskd_ray.pipeline.roots import check_no_secret, is_uri, open_root

T = TypeVar("T")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=-]{0,199}")
_HASH_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file or folder directly below a listed one."""

    name: str
    bytes: int  # 0 for a folder
    is_folder: bool
    modified: float  # seconds since the epoch; 0 where the store does not tell


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file, folder or symbolic link at any depth below a folder."""

    path: str  # below the root; any name, also hidden
    kind: Literal["file", "folder", "link"]
    bytes: int  # 0 unless a file
    modified: float | None  # seconds since the epoch; None where the store does not tell


def safe_path(path: str) -> str:
    """`path` itself, if every component is a plain name: it cannot leave the root.

    Raises:
        StorageError: For absolute paths, `..`, empty or hidden components, odd characters.
    """
    if not path or not all(NAME.fullmatch(part) for part in path.split("/")):
        raise StorageError(
            "Names in the storage are plain: letters, digits and ._=- in each component, no "
            f"leading dot, no '..'. Got {path[:200]!r}. Rename it."
        )
    return path


class Storage:
    """The root and what may be done below it. Cheap to make, and to pickle to a worker.

    A call that fails for what may pass, such as a lost connection, is made again after a pause;
    all of them may be. Those that fail for good raise StorageError.
    """

    def __init__(self, root: str) -> None:
        """Name a root without touching it.

        Args:
            root: A folder, or a URI that pyarrow.fs or fsspec knows: `file://`, `s3://`, `gs://`
                and so on. Credentials come from the environment, never from the URI.

        Raises:
            StorageError: If nothing knows the scheme, the URI holds a secret, or an object
                store does not tell where its bucket is.
        """
        if is_uri(root):
            check_no_secret(root)
            self.root = root.rstrip("/")
        else:
            # absolute, since workers and later commands run in other folders
            self.root = str(Path(root).expanduser().absolute())
        self._opened  # noqa: B018 - an unknown scheme fails here, where the user wrote it

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self.root,)

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        return open_root(self.root)

    @property
    def local(self) -> Path | None:
        """The root as a folder of this machine, or None if it is elsewhere."""
        filesystem, base = self._opened
        return Path(base) if isinstance(filesystem, fs.LocalFileSystem) else None

    def check_writable(self) -> None:
        """Write and delete a probe file.

        Raises:
            StorageError: If the root cannot be written, before any work was done.
        """
        probe = f"probe-{uuid.uuid4().hex}"
        try:
            self.write(probe, b"probe")
            self.delete(probe)
        except StorageError as error:
            if error.__cause__ is not None and is_full(error.__cause__):
                raise
            raise StorageError(
                f"The storage must be writable. Got {self.root}: {reason(error.__cause__)}. "
                "Choose another with storage=FOLDER, or free it."
            ) from error.__cause__

    # -- files -------------------------------------------------------------------------

    def read(self, path: str) -> bytes | None:
        """The bytes of one file, or None if it does not exist."""
        filesystem, place = self._at(path)

        def read() -> bytes | None:
            try:
                # not a stream, which asks an object store for a hundred kilobytes at a time
                with filesystem.open_input_file(place) as file:
                    return file.read()
            except FileNotFoundError:
                if _is_there(filesystem, place):
                    raise ConnectionError("it is there but was not found") from None
                return None

        return self._done("read", path, read)

    def write(self, path: str, data: bytes) -> None:
        """Write one file so that it appears whole or not at all."""
        filesystem, place = self._at(path)

        def write() -> None:
            if self.local is not None:
                temporary = _beside(Path(place))
                try:
                    _write_synced(temporary, data)
                    temporary.replace(place)
                finally:
                    temporary.unlink(missing_ok=True)
                return
            with filesystem.open_output_stream(place) as stream:
                stream.write(data)

        self._done("write", path, write)

    def create(self, path: str, data: bytes) -> bool:
        """Write one file unless it exists; True if the bytes there are now ours.

        Exact on a local file system. On an object store two writers may both write; the last
        one stays, and both are told by reading back.
        """
        if self.read(path) is not None:
            return False
        if self.local is None:
            self.write(path, data)
            return self.read(path) == data
        place = self._at(path)[1]

        def link() -> bool:
            temporary = _beside(Path(place))
            try:
                _write_synced(temporary, data)
                os.link(temporary, place)  # fails if the name exists, unlike a rename
            except FileExistsError:
                # by an earlier try, perhaps: a network file system may lose its answer
                return Path(place).read_bytes() == data
            finally:
                temporary.unlink(missing_ok=True)
            return True

        return self._done("write", path, link)

    def upload(self, source: Path, path: str) -> None:
        """Copy a local file to `path`."""
        filesystem, place = self._at(path)

        def upload() -> None:
            if self.local is not None:
                Path(place).parent.mkdir(parents=True, exist_ok=True)
            fs.copy_files(str(source), place, fs.LocalFileSystem(), filesystem)

        self._done("write", path, upload)

    def download(self, path: str, target: Path) -> None:
        """Copy `path` to a local file."""
        filesystem, place = self._at(path)

        def download() -> None:
            target.parent.mkdir(parents=True, exist_ok=True)
            fs.copy_files(place, str(target), filesystem, fs.LocalFileSystem())

        self._done("read", path, download)

    def size(self, path: str) -> int | None:
        """Bytes of one file, or None if it is not there."""
        filesystem, place = self._at(path)
        info = self._done("read", path, lambda: filesystem.get_file_info(place))
        return int(info.size) if info.type == fs.FileType.File else None

    def list(self, path: str) -> list[Entry]:
        """What is directly below a folder, by name; nothing if it does not exist."""
        filesystem, place = self._at(path)
        selector = fs.FileSelector(place, allow_not_found=True, recursive=False)
        found = self._done("read", path, lambda: filesystem.get_file_info(selector))
        entries = [
            Entry(
                name=info.base_name,
                bytes=int(info.size or 0),
                is_folder=info.type == fs.FileType.Directory,
                modified=info.mtime.timestamp() if info.mtime is not None else 0.0,
            )
            for info in found
            if NAME.fullmatch(info.base_name)  # half-written files start with a dot
        ]
        return sorted(entries, key=lambda entry: entry.name)

    def tree(self, path: str) -> list[Found]:
        """All that is below a folder, at any depth; nothing if it does not exist.

        Local symbolic links are told but not followed; if `path` itself is one or leads through
        one, it is all that is told. What vanishes meanwhile is left out.
        """
        filesystem, place = self._at(path)
        local = self.local
        if local is not None:
            return self._done("read", path, lambda: _local_found(local, place, path))
        selector = fs.FileSelector(place, allow_not_found=True, recursive=True)
        found = self._done("read", path, lambda: filesystem.get_file_info(selector))
        start = len(place) - len(path)
        return [
            Found(
                path=info.path[start:],
                kind="folder" if info.type == fs.FileType.Directory else "file",
                bytes=int(info.size or 0),
                modified=None if info.mtime is None else info.mtime.timestamp(),
            )
            for info in found
        ]

    def delete(self, path: str) -> None:
        """Remove a file or a folder with all below it; nothing happens if it is not there."""
        filesystem, place = self._at(path)

        def delete() -> None:
            if self.local is not None:
                if Path(place).is_dir() and not Path(place).is_symlink():
                    shutil.rmtree(place)
                else:
                    Path(place).unlink(missing_ok=True)
                return
            kind = filesystem.get_file_info(place).type
            if kind == fs.FileType.Directory:
                filesystem.delete_dir(place)
            elif kind == fs.FileType.File:
                filesystem.delete_file(place)

        self._done("delete", path, delete)

    # -- inside ------------------------------------------------------------------------

    def _at(self, path: str) -> tuple[Any, str]:
        filesystem, base = self._opened
        return filesystem, f"{base}/{safe_path(path)}"

    def _done(self, verb: str, path: str, call: Callable[[], T]) -> T:
        """What `call()` returns."""
        try:
            return retried(call, f"Storage: {verb} {path}")
        except (OSError, pa.ArrowException) as error:
            if is_full(error):
                written = self.root if verb == "write" else "the disk of this machine"
                raise full(written, self.local, path) from error
            raise StorageError(
                f"Cannot {verb} {path} in the storage {self.root}: {reason(error)}. "
                "Check the folder's rights, then run the same command again."
            ) from error


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a local file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_link(root: Path, path: str) -> str | None:
    """The path below `root` of the first component of `path` that is a symbolic link."""
    parts = path.split("/")
    names = ("/".join(parts[:count]) for count in range(1, len(parts) + 1))
    return next((name for name in names if (root / name).is_symlink()), None)


def _local_found(root: Path, folder: str, name: str) -> list[Found]:
    link = first_link(root, name)
    if link is not None:
        return [Found(path=link, kind="link", bytes=0, modified=None)]
    return list(_local_tree(folder, name))


def _local_tree(folder: str, name: str) -> Iterator[Found]:
    left = [(folder, name)]
    while left:
        folder, name = left.pop()
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                found = _found(entry, f"{name}/{entry.name}")
                if found is not None:
                    yield found
                    if found.kind == "folder":
                        left.append((entry.path, found.path))


def _found(entry: os.DirEntry[str], path: str) -> Found | None:
    try:
        about = entry.stat(follow_symlinks=False)
    except FileNotFoundError:  # it vanished while we looked
        return None
    is_file = stat.S_ISREG(about.st_mode)
    return Found(
        path=path,
        kind="file" if is_file else "folder" if stat.S_ISDIR(about.st_mode) else "link",
        bytes=about.st_size if is_file else 0,
        modified=about.st_mtime,
    )


def _is_there(filesystem: Any, place: str) -> bool:
    """Asked again where it is fsspec that did not find it: that may have been any error."""
    if not isinstance(filesystem, fs.PyFileSystem):
        return False
    return filesystem.get_file_info(place).type == fs.FileType.File


def _beside(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # a manifest that survives a power cut must not be empty
