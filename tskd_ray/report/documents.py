"""JSON files that commands wrote for later ones, read back."""

from __future__ import annotations

import os
import uuid
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tskd_ray.errors import StorageError

_ANEW = "Run the same command again to write it anew."


def read_document(path: Path, kind: type[Any], **options: str) -> Any:
    """`parse_document` of a file of this machine.

    Raises:
        StorageError: If it cannot be read, or is damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(
            f"{path.name} must be readable. Got {str(path)!r}: {error.strerror}. Check the "
            "folder's rights."
        ) from error
    return parse_document(data, kind, where=str(path), **options)


def parse_document(
    data: bytes, kind: type[Any], *, where: str, writer: str = "tskd run", remedy: str = _ANEW
) -> Any:
    """An instance of the dataclass `kind`.

    Args:
        data: The file's bytes.
        kind: What was written.
        where: Its path, for the error.
        writer: The command that wrote it.
        remedy: What to do if it is damaged.

    Raises:
        StorageError: If it is damaged.
    """
    try:
        return document_adapter(kind).validate_json(data)
    except ValidationError as error:
        first = " ".join(" ".join(str(error).splitlines()[:3]).split())
        raise StorageError(
            f"{where.rpartition('/')[2]} must be what `{writer}` wrote. Got {where}: {first}. "
            f"{remedy}"
        ) from None


def write_whole(path: Path, data: bytes) -> None:
    """Write a file of this machine so that a kill leaves the old one or the new one."""
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


@cache
def document_adapter(kind: type[Any]) -> TypeAdapter[Any]:
    """Reads and writes `kind` as JSON."""
    return TypeAdapter(kind)
