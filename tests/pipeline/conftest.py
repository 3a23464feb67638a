"""Storages that tests of several files look into."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.stores import DatedMemory
from tskd_ray.pipeline.artifacts import ArtifactStore


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ArtifactStore]:
    """A folder, and what is like an object store that dates its files."""
    if request.param == "local":
        yield ArtifactStore(tmp_path / "root")
        return
    yield ArtifactStore(f"dated://{tmp_path.name}", cache=tmp_path / "cache")
    DatedMemory.store.clear()
