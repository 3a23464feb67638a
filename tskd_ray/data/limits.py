"""Refuse a file that declares more data than this machine could hold, before reading it."""

from __future__ import annotations

import os

from tskd_ray.errors import DataError

# Deflate, the densest filter in use, shrinks by at most 1032; small arrays may be unwritten.
_LARGEST_RATIO = 1100
_ALWAYS_ALLOWED = 64 * 2**20  # bytes


def check_size(declared: int, stored: int, *, what: str) -> None:
    """Compare what a file says it holds with what it can hold.

    Args:
        declared: Bytes that reading would take.
        stored: Bytes on disk.
        what: Names the array or file in the message.

    Raises:
        DataError: If the file is too small for its claim, or memory too small for the data.
    """
    if declared > max(_ALWAYS_ALLOWED, _LARGEST_RATIO * stored):
        raise DataError(
            f"A file must hold what it declares. {what} declares {declared:,} bytes and stores "
            f"{stored:,}. Write the file again."
        )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if declared > memory:
        raise DataError(
            f"A dataset must fit into memory. {what} takes {declared:,} bytes and this machine "
            f"has {memory:,}. Use a larger machine or a part of the dataset."
        )
