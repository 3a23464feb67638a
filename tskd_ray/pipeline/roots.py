"""What a storage's root may be, and the file system that it names."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
from pyarrow import fs

from tskd_ray.errors import StorageError
from tskd_ray.pipeline.retry import reason, retried

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SECRET = re.compile(r"secret|token|passw|pwd|sas|sig|key|credential(?!_kind)", re.IGNORECASE)
"""In the name of a URI's parameter: what it holds must not be written into reports."""


def is_uri(root: str) -> bool:
    """Whether a root is no folder of this machine, or one as `file://`."""
    return _SCHEME.match(root) is not None


def check_no_secret(uri: str) -> None:
    """Refuse a URI with a password, or a parameter whose name says that it is a secret.

    Raises:
        StorageError: Then, without any of its values, or if it cannot be read.
    """
    try:
        parts = urlsplit(uri)
        names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
        host = parts.hostname
    except ValueError as error:  # whose text may hold a part of the URI
        raise StorageError(
            "The storage must be a folder or a URI such as s3://bucket/folder. Got one that "
            "cannot be read. Correct it."
        ) from error
    found = [name for name in names if _SECRET.search(name)]
    if parts.password is not None:
        found.insert(0, "a password")
    if found:
        raise StorageError(
            "A storage URI must not hold secrets, since it is written into reports. Got "
            f"{', '.join(found)[:100]} for host {host!r}. Use environment variables."
        )


def open_root(root: str) -> tuple[Any, str]:
    """The file system of a root, and where the root is on it.

    Raises:
        StorageError: If nothing knows the scheme, or the file system does not answer.
    """
    if not is_uri(root):
        return fs.LocalFileSystem(), root
    try:
        # asks the network for a bucket's region
        filesystem, base = retried(
            lambda: fs.FileSystem.from_uri(root), "Storage: open the root"
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        filesystem, base = _fsspec(root)
    except OSError as error:
        raise StorageError(
            f"The storage must be there and answer. Got {root}: {reason(error)}. Check its "
            "name, the network and the credentials, or choose another with storage=FOLDER."
        ) from error
    return filesystem, base.rstrip("/")


def _fsspec(root: str) -> tuple[Any, str]:
    import fsspec

    try:
        filesystem, base = fsspec.url_to_fs(root)
    except (ValueError, ImportError) as error:
        raise StorageError(
            "The storage must be a folder or a URI that pyarrow or fsspec can open, such as "
            f"s3://bucket/folder. Got {root!r}: {reason(error)}. Correct the scheme."
        ) from error
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), str(base)
