"""Disks that are full: what tells so, and how it is told."""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

from tskd_ray.errors import StorageError, TskdError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FULL_WORDS = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_LEAST_FREE = 1 << 20


def is_full(error: BaseException, folder: Path | None = None) -> bool:
    """Whether something failed for want of room.

    Args:
        error: What was raised, by whatever library: not all of them keep the number.
        folder: Where it wrote, if known: then its free space tells, too.
    """
    for cause in _causes(error):
        if getattr(cause, "errno", None) in _FULL or _FULL_WORDS.search(str(cause)):
            return True
    return folder is not None and 0 <= _free(folder) < _LEAST_FREE


def full(where: str, folder: Path | None, what: str) -> StorageError:
    """The error to raise then.

    Args:
        where: The storage, as the user named it.
        folder: The same as a local folder, if it is one.
        what: What did not fit.
    """
    free = -1 if folder is None else _free(folder)
    left = f", which has {free / 2**20:.1f} MiB left" if free >= 0 else ""
    return StorageError(
        f"The storage must have room. {what} did not fit into {where}{left}. Free some, as "
        "`tskd storage gc` may, then run the same command again: what is finished is kept."
    )


@contextlib.contextmanager
def told_if_full(folder: Path, where: str, what: str) -> Generator[None]:
    """Raise `full` for whatever libraries raise in the block if the disk is full.

    Args:
        folder: Where the block writes.
        where: Its name for the user.
        what: What it writes.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, TskdError) or not is_full(error, folder):
            raise
        raise full(where, folder, what) from error


def require_room(folder: Path, size: int, what: str) -> None:
    """Refuse to begin what would not fit, where failing in the middle is no error but a crash.

    Raises:
        StorageError: If the file system of `folder` has fewer than `size` bytes left.
    """
    if 0 <= _free(folder) < size:
        raise full(str(folder), folder, f"{what} of {size / 2**20:.1f} MiB")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return -1
