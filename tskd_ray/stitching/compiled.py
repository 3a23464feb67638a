"""The decorator of the compiled kernels."""
# numba's decorators are untyped
# pyright: reportUntypedFunctionDecorator=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call, without the interpreter lock, and keep the result on disk.

    Where neither the package's folder nor the user's cache can be written, as in a read-only
    container, numba refuses to cache: each process then compiles for itself.
    """
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)
