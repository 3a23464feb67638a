"""Reading files that may be damaged, or made to harm: what all readers refuse in common."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tskd_ray.data.limits import check_size
from tskd_ray.errors import DataError, InputError, reason

if TYPE_CHECKING:
    import h5py

_LARGEST_HEAD = 64 * 2**20  # bytes of JSON; each space of a Minari dataset is a few hundred
_DEEPEST = 50  # groups within groups


@contextmanager
def reading(rule: str, path: str | Path, remedy: str) -> Generator[None]:
    """Tell any failure of the block as a `DataError`: "rule. path cannot be read: why. remedy".

    The libraries that decode files raise by where the damage is: OSError, RuntimeError,
    KeyError, ValueError, OverflowError, MemoryError and errors of their own. No list of them
    is ever complete, so that all are told; our own messages pass.
    """
    try:
        yield
    except InputError:
        raise
    except RecursionError as error:
        why = "it is nested too deeply."
        raise DataError(f"{rule} {path} cannot be read as one: {why} {remedy}") from error
    except Exception as error:
        why = reason(error)
        why = why if len(why) <= 300 else f"{why[:300]}..."
        raise DataError(f"{rule} {path} cannot be read as one: {why} {remedy}") from error


def json_object(text: str | bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: If it is none.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"it holds a JSON {type(value).__name__}, no object")
    return value


def json_file(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it holds none, or is far larger than any that we know.
    """
    with path.open("rb") as file:
        text = file.read(_LARGEST_HEAD + 1)
    if len(text) > _LARGEST_HEAD:
        raise ValueError(f"{path.name} has more than {_LARGEST_HEAD:,} bytes")
    return json_object(text)


# -- HDF5 ------------------------------------------------------------------------------


def check_link(group: h5py.Group, name: str, what: str) -> None:
    """Refuse a link out of the file: its target could be any file of this machine.

    Raises:
        DataError: If `group` reaches `name` by a link that has a path of its own.
    """
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise _elsewhere(what)


def check_array(array: h5py.Dataset, file_bytes: int, what: str) -> int:
    """Bytes that reading an array takes, after looking that its file can hold them.

    Raises:
        DataError: If it lies in other files, or declares more than this one can hold.
    """
    if array.is_virtual or array.external:
        raise _elsewhere(what)
    # HDF5 reads chunk by chunk, and a chunk may be declared larger than the array.
    shapes = (array.shape or (), array.chunks or ())
    elements = max(int(np.prod(shape, dtype=object)) for shape in shapes)
    declared = elements * array.dtype.itemsize
    # What the array says to take of the file may lie too.
    check_size(declared, min(array.id.get_storage_size(), file_bytes), what=what)
    return declared


def check_tree(file: h5py.File, path: Path) -> None:
    """Look at all arrays of a file before any is read.

    Raises:
        DataError: If it links to other files, links an array or group twice (a few links can
            stand for any number of arrays), is nested too deeply, or declares more than it can
            hold.
    """
    import h5py
    from h5py import h5o  # pyright: ignore[reportAttributeAccessIssue]  compiled

    bytes_there = path.stat().st_size
    seen: set[int] = set()
    declared = 0
    left: list[tuple[Any, str, int]] = [(file, "", 0)]
    while left:
        group, above, depth = left.pop()
        for name in group:
            inside = f"{above}/{name}"
            what = f"{inside[:200]} in {path}"
            check_link(group, name, what)
            item = group[name]
            address = h5o.get_info(item.id).addr
            if address in seen or depth == _DEEPEST:
                raise DataError(
                    "Groups of an HDF5 dataset hold each array once, at most "
                    f"{_DEEPEST} levels deep. {what} is linked twice or lies deeper. Write the "
                    "file again."
                )
            seen.add(address)
            if isinstance(item, h5py.Dataset):
                declared += check_array(item, bytes_there, what)
            elif isinstance(item, h5py.Group):
                left.append((item, inside, depth + 1))
    check_size(declared, bytes_there, what=str(path))


def _elsewhere(what: str) -> DataError:
    return DataError(
        f"Arrays of an HDF5 dataset lie in its own file. {what} is a link or is stored "
        "elsewhere. Copy the array into the file."
    )
