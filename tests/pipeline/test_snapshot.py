"""The hop search's snapshot: where the driver made it, or a copy fetched once by each node."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.stores import key
from tskd_ray.errors import StorageError
from tskd_ray.pipeline.artifacts import ArtifactStore
from tskd_ray.pipeline.snapshot import Snapshot

FILES = {"problem.json": b"{}", "shard-0/cells.npy": os.urandom(5000)}


def made(store: ArtifactStore) -> Snapshot:
    folder = store.scratch(key()) / "problem-1"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return Snapshot(store, folder, f"{key().folder}/scratch/problem-1")


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def elsewhere(snapshot: Snapshot, cache: Path) -> Snapshot:
    """As a worker of another node has it: with a cache of its own, and no such folder."""
    root = snapshot.store.storage.root
    return Snapshot(ArtifactStore(root, cache=cache), cache / "nowhere-1", snapshot.path)


def test_the_driver_and_its_node_use_the_folder_itself(store: ArtifactStore) -> None:
    snapshot = made(store)
    snapshot.send()
    assert snapshot.here() == snapshot.folder
    snapshot.drop()
    assert not snapshot.folder.exists()
    assert not [found for found in store.storage.tree(snapshot.path) if found.kind == "file"]


@pytest.fixture
def remote(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(f"dated://{tmp_path.name}", cache=tmp_path / "cache")


def test_another_node_fetches_it_once_for_all_of_its_workers(
    remote: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = made(remote)
    snapshot.send()
    there = elsewhere(snapshot, tmp_path / "other")
    fetched: list[str] = []
    download = there.store.storage.download

    def counting(path: str, target: Path) -> None:
        fetched.append(path)
        download(path, target)

    monkeypatch.setattr(there.store.storage, "download", counting)
    with ThreadPoolExecutor(4) as pool:
        (folder,) = set(pool.map(lambda _: there.here(), range(4)))
    assert contents(folder) == FILES
    assert len(fetched) == len(FILES)
    assert not list(folder.parent.glob(".partial-*"))


def test_copies_of_yesterday_are_removed(remote: ArtifactStore, tmp_path: Path) -> None:
    snapshot = made(remote)
    snapshot.send()
    there = elsewhere(snapshot, tmp_path / "other")
    first = there.here()
    os.utime(first, (0, 0))
    again = Snapshot(there.store, tmp_path / "nowhere-2", snapshot.path)
    assert contents(again.here()) == FILES
    assert not first.exists()


def test_what_is_gone_or_cut_off_is_told(
    remote: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = made(remote)
    there = elsewhere(snapshot, tmp_path / "other")
    with pytest.raises(StorageError, match="another command has ended this stage"):
        there.here()
    snapshot.send()
    monkeypatch.setattr(
        there.store.storage, "download", lambda path, target: target.write_bytes(b"cut")
    )
    with pytest.raises(StorageError, match="must have all bytes"):
        there.here()
    monkeypatch.undo()
    assert contents(there.here()) == FILES
    shutil.rmtree(there.here())
    assert contents(there.here()) == FILES
