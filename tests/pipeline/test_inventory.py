"""What is in a storage, counted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.stores import abandon, age, beat, begin, key, make, node, plan, record, trial
from tskd_ray.errors import StorageError
from tskd_ray.pipeline.artifacts import ArtifactStore
from tskd_ray.pipeline.collect import collect
from tskd_ray.pipeline.inventory import scan
from tskd_ray.pipeline.overview import Overview, open_storage, overview
from tskd_ray.pipeline.storage import Found

DAY = 24 * 3600.0


def look(store: ArtifactStore) -> Overview:
    return overview(store, older_than=DAY)


def test_artifacts_are_counted_by_stage(store: ArtifactStore) -> None:
    for seed in range(3):
        make(store, key(seed=seed))
    abandon(store, key())
    abandon(store, key(seed=7))
    begin(store, key("generate"))
    plan(store, "mine", node("a", key()), node("b", key(seed=1)))
    ddr1, generate = look(store).stages
    assert (ddr1.stage, ddr1.finished, ddr1.unused, ddr1.unfinished) == ("ddr1", 3, 1, 0)
    assert (ddr1.leftovers, ddr1.leftover_bytes) == (2, 1400)
    manifests = [
        len(store.storage.read(f"{key(seed=seed).folder}/manifest.json") or b"")
        for seed in range(3)
    ]
    assert ddr1.bytes == 3 * 1002 + sum(manifests)
    assert ddr1.unused_bytes == 1002 + manifests[2]
    assert (generate.finished, generate.unfinished, generate.leftovers) == (0, 1, 0)
    assert generate.unfinished_bytes == len(b"damaged") + len('{"cpu_seconds": 2.5}')


def test_runs_and_sweeps_have_state_and_size(store: ArtifactStore) -> None:
    make(store, key())
    record(store, "whole", ddr1=key())
    plan(store, "working", node("a", key()), node("b", key(seed=1)))
    beat(store, "working")
    store.storage.write("runs/broken/plan.json", b"{")
    trial(store, "small", 0, [key()], score=1.0)
    found = look(store)
    assert [(run.name, run.state, run.done, run.of) for run in found.runs] == [
        ("broken", "damaged", 0, 0), ("whole", "complete", 1, 1), ("working", "running", 1, 2)
    ]  # fmt: skip
    assert found.runs[0].bytes == 1
    (sweep,) = found.sweeps
    assert (sweep.name, sweep.state, sweep.done, sweep.of) == ("small", "running", 1, 1)
    assert any("runs/broken" in note for note in found.notes)


def test_it_tells_what_the_clean_up_would_free(store: ArtifactStore) -> None:
    make(store, key())
    abandon(store, key())
    age(store, 25)
    before = look(store)
    assert before.leftover_bytes == 700
    assert before.unused_bytes > 1002
    collect(store, older_than=DAY, unused=True, remove=True)
    after = look(store)
    assert (after.leftover_bytes, after.unused_bytes, after.bytes) == (0, 0, 0)
    assert before.bytes == before.leftover_bytes + before.unused_bytes


def test_links_and_damage_are_told(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "root")
    make(store, key())
    store.storage.write(f"{key().folder}/manifest.json", b"{}")
    (tmp_path / "root" / "artifacts" / "elsewhere").symlink_to(tmp_path)
    link, damage = look(store).notes
    assert link == "artifacts/elsewhere is a link, which is not followed."
    assert damage.startswith(f"{key().folder} has a damaged manifest. Delete the folder")


@pytest.mark.parametrize("content", [None, "other/file"])
def test_a_folder_that_is_no_storage_is_an_error(tmp_path: Path, content: str | None) -> None:
    if content:
        (tmp_path / content).parent.mkdir()
        (tmp_path / content).write_text("x")
    with pytest.raises(StorageError, match=r"which has neither\. Correct the path"):
        open_storage(str(tmp_path))
    with pytest.raises(StorageError, match="which has neither"):
        open_storage(str(tmp_path / "nowhere"))


# -- the tree ----------------------------------------------------------------------------------


def test_a_tree_has_everything_below(store: ArtifactStore) -> None:
    names = ("a/x", "a/b/c/y", "a/b/z", "ab/no")
    for number, name in enumerate(names):
        store.storage.write(name, b"1" * number)
    found = {one.path: one for one in store.storage.tree("a")}
    assert sorted(found) == ["a/b", "a/b/c", "a/b/c/y", "a/b/z", "a/x"]
    assert [found[name].bytes for name in names[:3]] == [0, 1, 2]
    assert {name for name, one in found.items() if one.kind == "folder"} == {"a/b", "a/b/c"}
    assert all(one.modified for one in found.values() if one.kind == "file")
    assert store.storage.tree("nowhere") == []


def test_a_tree_does_not_follow_links(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "root")
    store.storage.write("a/x", b"1")
    (tmp_path / "root" / "a" / "up").symlink_to(tmp_path)  # and round again
    (tmp_path / "root" / "a" / "x2").symlink_to(tmp_path / "root" / "a" / "x")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "root" / "a")
    os.mkfifo(tmp_path / "root" / "a" / "pipe")
    kinds = {one.path: (one.kind, one.bytes) for one in store.storage.tree("a")}
    assert kinds == {
        "a/x": ("file", 1), "a/up": ("link", 0), "a/x2": ("link", 0), "a/pipe": ("link", 0)
    }  # fmt: skip
    link = Found(path="link", kind="link", bytes=0, modified=None)
    assert store.storage.tree("link") == store.storage.tree("link/below") == [link]


def test_what_vanishes_while_it_is_listed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(tmp_path)
    for number in range(3):
        store.storage.write(f"a/{number}/x", b"1")
    real = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("/1"):
            os.unlink(f"{path}/x")  # noqa: PTH108
            os.rmdir(path)  # noqa: PTH106
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    files = {one.path for one in store.storage.tree("a") if one.kind == "file"}
    assert files == {"a/0/x", "a/2/x"}


def test_names_that_are_not_ours_are_no_artifacts(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    for name in ("short/manifest.json", f"{'g' * 64}/manifest.json"):
        store.storage.write(f"artifacts/ddr1/{name}", b"{}")
    assert scan(store.storage).keys == ()
