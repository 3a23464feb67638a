"""The decorator of the compiled kernels, and where what was compiled is kept."""
# numba is untyped
# pyright: reportUntypedFunctionDecorator=false, reportIncompatibleMethodOverride=false

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numba
from numba.core import config as settings
from numba.core.caching import _CacheLocator

_SHARED = (
    "llvm",
    "models/tiles",
    "stitching/cells",
    "stitching/ellipsoids",
    "stitching/lanes",
    "stitching/reach",
    "stitching/splits",
)
"""Modules whose parts are compiled into kernels of others."""

_VERSION = b"".join((Path(__file__).parent / f"{name}.py").read_bytes() for name in _SHARED)


class ByContent(_CacheLocator):
    """Tells numba to keep kernels by what their source says, wherever it lies.

    Each job has a copy of the package of its own, and numba's own places go by its path: every
    job would compile for half a minute what the one before compiled. What is kept is pickled,
    so it lies in a folder that nobody else can write or read; if that is in doubt, elsewhere.
    """

    def __init__(self, function: Callable[..., Any], file: str, folder: Path) -> None:
        self._line = function.__code__.co_firstlineno
        self._py_file = file  # numba's name for it, in warnings
        self._stamp = hashlib.sha256(Path(file).read_bytes() + _VERSION).hexdigest()
        self._folder = folder / self._stamp[:32]

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> ByContent | None:
        """For numba: None if there is no safe folder, and it tries its next place."""
        try:
            locator = cls(py_func, py_file, private_folder())
            locator.ensure_cache_path()
        except (OSError, RuntimeError):
            return None
        return locator

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> str:
        return self._stamp

    def get_disambiguator(self) -> str:
        return str(self._line)


def private_folder() -> Path:
    """`$XDG_CACHE_HOME/tskd_ray/kernels`, which this user alone can write and read.

    Raises:
        OSError: If it cannot be made, or is not so.
        RuntimeError: If this user has no home.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "tskd_ray" / "kernels"
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    # whoever can write the folder above could put another in its place
    for place, forbidden in ((folder, 0o077), (folder.parent, 0o022)):
        about = place.lstat()
        ours = stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid()
        if not ours or about.st_mode & forbidden:
            raise PermissionError(f"{place} must be a folder of this user alone")
    return folder


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call, without the interpreter lock, and keep the result on disk.

    Kept are `NUMBA_CACHE_DIR`, if it is set, else `private_folder`, else the package's own
    folder. Where none can be written, as in a read-only container, numba refuses to cache: each
    process then compiles for itself.
    """
    try:
        with _places():
            return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile into its callers: a call counts references to each array of a tuple, atomically.

    For what is called in inner loops; a hundred such counts cost more than its work.
    """
    return numba.njit(nogil=True, inline="always")(function)


@contextlib.contextmanager
def _places() -> Generator[None]:
    """Where numba looks for kernels of this package, and for no others."""
    told: Any = settings
    before = told.CACHE_LOCATOR_CLASSES
    told.CACHE_LOCATOR_CLASSES = before or ",".join(
        ("UserProvidedCacheLocator", f"{__name__}.{ByContent.__name__}", "InTreeCacheLocator")
    )
    try:
        yield
    finally:
        told.CACHE_LOCATOR_CLASSES = before
