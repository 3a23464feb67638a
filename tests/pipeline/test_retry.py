"""Storage calls that fail now and then, and disks that are full."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem

import tskd_ray.pipeline.retry as retry
import tskd_ray.pipeline.room as room
from tskd_ray.errors import StageError, StorageError
from tskd_ray.pipeline.artifacts import ArtifactStore, artifact_key
from tskd_ray.pipeline.retry import PAUSES
from tskd_ray.pipeline.storage import Storage

KEY = artifact_key("ddr1", code_version="1", config={}, inputs={}, seed=0)


class Flaky(MemoryFileSystem):
    """Its next calls fail with these errors."""

    protocol = "flaky"
    store: dict[str, Any] = {}  # noqa: RUF012 - as in the class above, one for all instances
    pseudo_dirs = [""]  # noqa: RUF012
    errors: list[OSError] = []  # noqa: RUF012

    isfile = AbstractFileSystem.isfile  # takes any error for "no"

    def isdir(self, path: str) -> bool:
        return super().info(path)["type"] == "directory"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("flaky://"))

    def trip(self) -> None:
        if Flaky.errors:
            raise Flaky.errors.pop()

    def info(self, path: str, **options: Any) -> Any:
        self.trip()
        return super().info(path, **options)

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        self.trip()
        return super().ls(path, detail, **options)

    def _open(self, path: str, mode: str = "rb", *args: Any, **options: Any) -> Any:
        self.trip()
        return super()._open(path, mode, *args, **options)


fsspec.register_implementation("flaky", Flaky, clobber=True)

PASSING = [
    OSError(errno.ETIMEDOUT, "Connection timed out"),
    OSError(errno.ESTALE, "Stale file handle"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    OSError("When reading key 'a': AWS Error SLOW_DOWN during GetObject operation: Slow down"),
    OSError("AWS Error UNKNOWN (HTTP status 503) during PutObject operation: Unable to parse"),
    OSError("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7, no route"),
]
LASTING = [
    PermissionError(errno.EACCES, "Permission denied"),
    OSError("AWS Error ACCESS_DENIED during PutObject operation: Access Denied."),
    OSError("AWS Error NO_SUCH_BUCKET during ListObjectsV2 operation: no such bucket"),
    OSError("AWS Error UNKNOWN (HTTP status 400) during HeadObject operation: No response"),
    OSError(errno.EROFS, "Read-only file system"),
    OSError(errno.EINVAL, "Invalid argument"),
]


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def flaky(slept: list[float]) -> Iterator[Storage]:
    Flaky.store.clear()
    Flaky.errors.clear()
    storage = Storage("flaky://bucket/root")
    storage.write("folder/a", b"a")
    yield storage
    Flaky.errors.clear()


def download(storage: Storage, folder: Path) -> bytes:
    storage.download("folder/a", folder / "a")
    return (folder / "a").read_bytes()


def upload(storage: Storage, folder: Path) -> bytes | None:
    (folder / "b").write_bytes(b"b")
    storage.upload(folder / "b", "folder/b")
    return storage.read("folder/b")


def delete(storage: Storage, folder: Path) -> int | None:
    storage.delete("folder/a")
    return storage.size("folder/a")


def write(storage: Storage, folder: Path) -> bytes | None:
    storage.write("folder/b", b"b")
    return storage.read("folder/b")


CALLS: dict[str, tuple[Callable[[Storage, Path], Any], Any]] = {
    "read": (lambda storage, _: storage.read("folder/a"), b"a"),
    "read nothing": (lambda storage, _: storage.read("folder/b"), None),
    "size": (lambda storage, _: storage.size("folder/a"), 1),
    "list": (lambda storage, _: [entry.name for entry in storage.list("folder")], ["a"]),
    "tree": (lambda storage, _: [found.path for found in storage.tree("folder")], ["folder/a"]),
    "write": (write, b"b"),
    "create": (lambda storage, _: storage.create("folder/b", b"b"), True),
    "upload": (upload, b"b"),
    "download": (download, b"a"),
    "delete": (delete, None),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_fails_three_times_then_works(
    flaky: Storage, slept: list[float], tmp_path: Path, name: str
) -> None:
    call, expected = CALLS[name]
    Flaky.errors += PASSING[:3]
    assert call(flaky, tmp_path) == expected
    assert Flaky.errors == []
    assert 1 <= len(slept) <= 3  # `isfile` may have taken some
    assert sum(slept) <= sum(PAUSES[:3])


@pytest.mark.parametrize("error", PASSING, ids=str)
def test_what_may_pass_is_tried_a_bounded_number_of_times(
    flaky: Storage, slept: list[float], error: OSError
) -> None:
    Flaky.errors += [error] * 100
    with pytest.raises(StorageError, match="Cannot read folder/a in the storage"):
        flaky.size("folder/a")
    assert len(Flaky.errors) == 100 - 1 - len(PAUSES)
    assert len(slept) == len(PAUSES)
    assert all(
        pause / 2 <= waited <= pause for waited, pause in zip(slept, PAUSES, strict=True)
    )


@pytest.mark.parametrize("error", LASTING, ids=str)
def test_what_would_fail_again_is_told_at_once(
    flaky: Storage, slept: list[float], error: OSError
) -> None:
    Flaky.errors += [error] * 100
    with pytest.raises(StorageError, match="Cannot read folder/a in the storage"):
        flaky.size("folder/a")
    assert len(Flaky.errors) == 99
    assert slept == []


def test_a_manifest_whose_writing_was_reported_as_failed_is_still_ours(
    tmp_path: Path, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    link, failures = os.link, [OSError(errno.EIO, "Input/output error")]

    def link_and_fail(source: Path, target: str) -> None:
        link(source, target)
        if failures:
            raise failures.pop()

    monkeypatch.setattr(os, "link", link_and_fail)
    assert Storage(str(tmp_path)).create("folder/manifest.json", b"ours")
    assert not Storage(str(tmp_path)).create("folder/manifest.json", b"theirs")
    store = ArtifactStore(tmp_path)
    failures.append(OSError(errno.EIO, "Input/output error"))
    with store.attempt(KEY) as attempt:
        (attempt.folder / "part").write_bytes(b"part")
    assert attempt.artifact is not None
    assert (store.fetch(attempt.artifact) / "part").read_bytes() == b"part"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_and_the_same_call_works_once_there_is_room(
    tmp_path: Path, slept: list[float], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    storage = Storage(str(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing(OSError(number, os.strerror(number))))
        with pytest.raises(StorageError, match=r"must have room.*MiB left.*same command again"):
            storage.write("folder/a", b"a")
    assert slept == []
    assert list((tmp_path / "folder").iterdir()) == []
    storage.write("folder/a", b"a")
    assert storage.read("folder/a") == b"a"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        # NumPy's words; the free space then tells
        OSError("1000 requested and 512 written"),
    ],
    ids=str,
)
def test_a_disk_that_fills_while_a_stage_writes_leaves_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    store = ArtifactStore(tmp_path)
    if "requested" in str(error):
        monkeypatch.setattr(room, "_free", lambda folder: 4096)

    def stage(*errors: Exception) -> None:
        with store.attempt(KEY) as attempt:
            (attempt.folder / "part").write_bytes(b"part")
            for error in errors:
                raise error

    with pytest.raises(StorageError, match="must have room"):
        stage(error)
    monkeypatch.undo()
    assert list((tmp_path / KEY.folder).iterdir()) == []
    assert store.find(KEY) is None
    stage()
    assert store.find(KEY) is not None


def test_other_errors_of_a_stage_stay_what_they_are(tmp_path: Path) -> None:
    for error in (
        ZeroDivisionError("a bug"),
        StageError("no"),
        OSError(errno.EIO, "I/O error"),
    ):
        with pytest.raises(type(error)), ArtifactStore(tmp_path).attempt(KEY):
            raise error


def failing(error: OSError) -> Callable[..., None]:
    def fail(*arguments: Any) -> None:
        raise error

    return fail
