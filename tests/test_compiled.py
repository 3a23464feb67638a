"""Kernels are kept by what their source says, where nobody else can write."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tskd_ray.compiled import private_folder

KERNEL = """
from tskd_ray.compiled import compiled

@compiled
def kernel(x):
    return x + {}
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/tskd_ray/kernels"


def copy(folder: Path, number: int) -> Any:
    """The kernel of a module's copy in that folder."""
    folder.mkdir(exist_ok=True)
    path = folder / "module.py"
    path.write_text(KERNEL.format(number))
    spec = importlib.util.spec_from_file_location("module", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.kernel


def test_a_copy_of_the_package_finds_what_another_compiled(tmp_path: Path, cache: Path) -> None:
    one, other, changed = (
        copy(tmp_path / "a", 1),
        copy(tmp_path / "b", 1),
        copy(tmp_path / "c", 2),
    )
    assert [kernel(1) for kernel in (one, other, changed)] == [2, 2, 3]
    hits = [sum(kernel.stats.cache_hits.values()) for kernel in (one, other, changed)]
    assert hits == [0, 1, 0]
    assert len(list(cache.iterdir())) == 2
    assert not list(tmp_path.glob("[abc]/__pycache__/*.nbc"))


def link(cache: Path) -> None:
    (cache.parent / "elsewhere").mkdir(mode=0o700)
    cache.symlink_to(cache.parent / "elsewhere")


UNSAFE: dict[str, Callable[[Path], None]] = {
    "others may read it": lambda cache: cache.mkdir(mode=0o755),
    "others may write above it": lambda cache: cache.parent.chmod(0o777),
    "a link": link,
    "a file": lambda cache: cache.touch(),
}


@pytest.mark.parametrize("how", UNSAFE)
def test_nothing_is_unpickled_from_where_others_may_write(
    tmp_path: Path, cache: Path, how: str
) -> None:
    cache.parent.mkdir(parents=True)
    UNSAFE[how](cache)
    with pytest.raises(OSError, match=r"alone|exists"):
        private_folder()
    assert copy(tmp_path / "a", 1)(1) == 2
    assert cache.is_file() or not list(cache.iterdir())
    assert list(tmp_path.glob("a/__pycache__/*.nbc")), "numba's own place, beside the source"


def test_nothing_is_unpickled_from_another_users_folder(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    assert private_folder() == cache
    assert cache.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "geteuid", lambda: cache.stat().st_uid + 1)
    with pytest.raises(PermissionError):
        private_folder()
