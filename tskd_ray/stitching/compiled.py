"""The decorator of the compiled kernels."""
# numba's decorators are untyped
# pyright: reportUntypedFunctionDecorator=false

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

_SHARED = ("cells", "lanes", "splits", "ellipsoids", "reach")
"""Modules whose parts are compiled into kernels of others."""

_VERSION = zlib.crc32(
    b"".join((Path(__file__).parent / f"{name}.py").read_bytes() for name in _SHARED)
)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call, without the interpreter lock, and keep the result on disk.

    Where neither the package's folder nor the user's cache can be written, as in a read-only
    container, numba refuses to cache: each process then compiles for itself.

    numba forgets what it kept when the function's own file changes. The name under which it is
    kept tells apart the versions of the others.
    """
    function.__qualname__ += f"_{_VERSION:08x}"
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile into its callers: a call counts references to each array of a tuple, atomically.

    For what is called in inner loops; a hundred such counts cost more than its work.
    """
    return numba.njit(nogil=True, inline="always")(function)
