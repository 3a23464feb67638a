"""Clean-up: what nobody needs goes, what anybody may need stays, nothing outside is touched."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import stores
from pipeline.stores import HOUR, abandon, age, begin, key, make, node, plan, record, trial
from tskd_ray.errors import ConfigError, StageError
from tskd_ray.pipeline import collect as module
from tskd_ray.pipeline import heartbeat
from tskd_ray.pipeline.artifacts import ArtifactStore
from tskd_ray.pipeline.collect import Collection, collect, find_garbage, remove_garbage
from tskd_ray.pipeline.inventory import scan
from tskd_ray.pipeline.references import find_references
from tskd_ray.pipeline.sweep.log import Entry, TrialLog

DAY = 24 * HOUR


@pytest.fixture
def local(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "root")


def gc(store: ArtifactStore, *, unused: bool = False, hours: float = 24) -> list[str]:
    """Kinds and paths of what was removed."""
    _, removed = collect(store, older_than=hours * HOUR, unused=unused, remove=True)
    return sorted(f"{one.kind} {one.path}" for one in removed)


def listed(store: ArtifactStore, *, unused: bool = False) -> Collection:
    contents = scan(store.storage)
    now = time.time()
    references = find_references(store, contents.manifests, now=now, active_seconds=DAY)
    return find_garbage(contents, references, older_than=DAY, unused=unused, now=now)


# -- leftovers -----------------------------------------------------------------------------


def test_what_a_kill_left_goes_and_the_artifact_stays(store: ArtifactStore) -> None:
    made = make(store, key())
    paths = [abandon(store, key()), abandon(store, key(seed=1), 1)]
    age(store, 25)
    assert gc(store) == sorted(f"leftover {path}" for path in paths)
    assert all(store.storage.tree(path) == [] for path in paths)
    assert store.find(key()) == made
    assert store.fetch(made, verify=True)
    assert gc(store) == []


def test_nothing_is_touched_unless_asked(local: ArtifactStore) -> None:
    make(local, key())
    abandon(local, key())
    age(local, 25)
    assert local.storage.local is not None
    before = {path: path.lstat().st_mtime for path in local.storage.local.rglob("*")}
    found, removed = collect(local, older_than=DAY, unused=True, remove=False)
    assert len(found.garbage) == 1
    assert removed == []
    assert before == {path: path.lstat().st_mtime for path in local.storage.local.rglob("*")}


def test_what_changed_lately_stays(store: ArtifactStore) -> None:
    path = abandon(store, key())
    age(store, 23)
    assert gc(store) == []
    assert gc(store, hours=22) == [f"leftover {path}"]


def test_shards_and_scratch_go_once_the_stage_is_finished(store: ArtifactStore) -> None:
    begun, made = begin(store, key(seed=1)), make(store, key())
    late = begin(store, key())  # of a second command that was killed after the first finished
    age(store, 25)
    removed = gc(store)
    assert f"leftover {late}" in removed
    assert not any(begun in path for path in removed)
    assert store.shards(key(seed=1)).kept() == {1}
    assert store.fetch(made, verify=True)


def test_half_a_manifest_and_half_a_removal_go(local: ArtifactStore) -> None:
    made = make(local, key())
    assert local.storage.local is not None
    folder = local.storage.local / key().folder
    (folder / f".manifest.json.{'0' * 32}.tmp").write_text("{")
    (folder / f"removed-{'1' * 32}").mkdir()
    age(local, 25)
    assert len(gc(local)) == 2
    assert sorted(os.listdir(folder)) == [made.manifest.attempt, "manifest.json"]  # noqa: PTH208


def test_what_is_not_ours_stays(local: ArtifactStore) -> None:
    root = local.storage.local
    assert root is not None
    stage = f"artifacts/ddr1/{'a' * 64}"
    names = (
        "artifacts/notes.txt", "artifacts/ddr1/README", "artifacts/ddr1/short/attempt-0/x",
        f"{stage}/attempt-12/x", f"{stage}/backup/x", f"{stage}/attempt-{'0' * 32}.txt",
        f"artifacts/DDR1/{'a' * 64}/attempt-{'0' * 32}/x", "runs/a/b", "sweeps/a/b", "mine/x",
    )  # fmt: skip
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    age(local, 1000)
    before = stores.files(root)
    gc(local)
    shutil.rmtree(root / "runs")  # else it is unclear what the run uses
    shutil.rmtree(root / "sweeps")
    gc(local, unused=True)
    assert stores.files(root).keys() == before.keys() - {"runs/a/b", "sweeps/a/b"}


def test_of_a_damaged_manifest_nothing_is_taken_away(local: ArtifactStore) -> None:
    made = make(local, key())
    abandon(local, key())
    begin(local, key())
    local.storage.write(f"{key().folder}/manifest.json", b"{}")
    age(local, 25)
    assert gc(local, unused=True) == []
    assert local.storage.tree(made.manifest.folder)


# -- what may be in progress -----------------------------------------------------------------


def test_an_attempt_whose_writer_lives_stays_however_long_it_takes(
    local: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "ATTEMPT_SECONDS", 0.01)
    with local.attempt(key()) as attempt:
        (attempt.folder / "half").write_text("x")
        age(local, 48)
        deadline = time.monotonic() + 10
        while time.time() - attempt.folder.stat().st_mtime > HOUR:
            assert time.monotonic() < deadline, "no sign of life"
            time.sleep(0.005)
        assert gc(local, unused=True) == []
        assert listed(local).too_young == 1
    assert local.find(key()) is not None


def test_an_attempt_that_has_written_nothing_yet_stays(local: ArtifactStore) -> None:
    with local.attempt(key()) as attempt:
        assert gc(local, unused=True) == []
        (attempt.folder / "part").write_text("x")
    assert local.find(key()) is not None


def test_an_attempt_that_shows_life_after_it_was_listed_stays(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = abandon(store, key())
    age(store, 25)
    found = listed(store)
    age(store, 0, path)
    monkeypatch.setattr(os, "rename", None)  # it is not even taken away for a moment
    assert remove_garbage(store, found.garbage, before=time.time() - DAY) == []
    assert store.storage.tree(path)


def test_work_that_is_taken_up_after_it_was_listed_stays(store: ArtifactStore) -> None:
    begun, made = begin(store, key()), make(store, key(seed=1))
    age(store, 25)
    found = listed(store, unused=True)
    assert {one.kind for one in found.garbage} == {"unfinished", "artifact"}
    for seed in range(2):  # by commands that have written no plan
        abandon(store, key(seed=seed))
    assert remove_garbage(store, found.garbage, before=time.time() - DAY) == []
    assert store.storage.tree(begun)
    assert store.fetch(made, verify=True)


def test_an_attempt_that_shows_life_while_it_is_taken_comes_back(
    local: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, path = os.rename, abandon(local, key())
    age(local, 25)
    assert local.storage.local is not None
    folder = local.storage.local / path

    def rename(*arguments: Any, **options: Any) -> None:
        monkeypatch.setattr(os, "rename", real)
        os.utime(folder)
        real(*arguments, **options)

    monkeypatch.setattr(os, "rename", rename)
    assert gc(local) == []
    assert (folder / "weights.bin").stat().st_size == 700


def test_who_was_suspended_too_long_publishes_nothing(
    local: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst case: the stage makes its folder anew and goes on, without its first part."""
    monkeypatch.setattr(heartbeat, "ATTEMPT_SECONDS", 1000.0)

    def stage(*, suspended: bool, goes_on: bool = True) -> None:
        with local.attempt(key()) as attempt:
            (attempt.folder / "first").write_text("x")
            if suspended:
                age(local, 25)
                assert len(gc(local)) == 1
            if goes_on:
                (attempt.folder / "more").mkdir(parents=True)
                (attempt.folder / "more" / "second").write_text("x")

    for goes_on in (False, True):
        with pytest.raises(StageError, match="removed while it was written"):
            stage(suspended=True, goes_on=goes_on)
    assert local.find(key()) is None
    stage(suspended=False)
    found = local.find(key())
    assert found is not None
    assert [part.name for part in found.manifest.parts] == ["first", "more/second"]


def test_an_upload_that_was_removed_is_not_published(tmp_path: Path) -> None:
    remote = ArtifactStore(f"dated://{tmp_path.name}", cache=tmp_path / "cache")
    real, uploaded = remote.storage.upload, []

    def upload(source: Path, path: str) -> None:
        real(source, path)
        uploaded.append(path)
        if len(uploaded) == 2:
            remote.storage.delete(uploaded[0])

    remote.storage.upload = upload
    with pytest.raises(StageError, match="removed while it was written"):
        make(remote, key())
    assert remote.find(key()) is None
    stores.DatedMemory.store.clear()


def test_ages_are_by_the_storages_clock(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = abandon(store, key()), time.time
    monkeypatch.setattr(module.time, "time", lambda: real() + 3 * DAY)
    assert gc(store) == []
    assert store.storage.tree(path)
    assert not any(entry.name.startswith("probe") for entry in _top(store))


def _top(store: ArtifactStore) -> list[Any]:
    filesystem, base = store.storage._opened
    from pyarrow import fs

    return [
        type("E", (), {"name": info.base_name})
        for info in filesystem.get_file_info(fs.FileSelector(base))
    ]


def test_without_times_nothing_goes(tmp_path: Path) -> None:
    import fsspec

    timeless = ArtifactStore(f"memory://{tmp_path.name}", cache=tmp_path / "cache")
    make(timeless, key())
    abandon(timeless, key())
    found, removed = collect(timeless, older_than=HOUR, unused=True, remove=True)
    assert removed == []
    assert found.undated > 700
    fsspec.filesystem("memory").rm("/", recursive=True)


def test_an_hour_is_the_least(local: ArtifactStore) -> None:
    with pytest.raises(ConfigError, match=r"at least 1 hour.*Got 0\.5\. Raise it"):
        collect(local, older_than=HOUR / 2, unused=False, remove=True)


def test_two_clean_ups_at_once_both_end_well(local: ArtifactStore) -> None:
    made = make(local, key())
    for number in range(30):
        abandon(local, key(seed=number % 3), number)
    age(local, 25)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            gc(local)
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [found.path for found in local.storage.tree("artifacts") if found.bytes == 700] == []
    assert local.fetch(made, verify=True)


# -- links -------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", range(1, 5), ids=["artifacts", "stage", "key", "attempt"])
def test_links_are_not_followed(local: ArtifactStore, tmp_path: Path, depth: int) -> None:
    path = abandon(local, key())
    root = local.storage.local
    assert root is not None
    link = root / "/".join(path.split("/")[:depth])
    elsewhere = tmp_path / "elsewhere"
    link.rename(elsewhere)
    link.symlink_to(elsewhere)
    age(local, 25)
    for one in elsewhere.rglob("*"):
        os.utime(one, (0, 0))
    before = stores.files(elsewhere)
    assert gc(local, unused=True) == []
    assert stores.files(elsewhere) == before != {}
    assert scan(local.storage).links == (link.relative_to(root).as_posix(),)


@pytest.mark.parametrize("depth", range(1, 5), ids=["artifacts", "stage", "key", "attempt"])
def test_links_put_there_after_the_listing_are_not_followed(
    local: ArtifactStore, tmp_path: Path, depth: int
) -> None:
    path = abandon(local, key())
    age(local, 25)
    found = listed(local)
    root = local.storage.local
    assert root is not None
    assert len(found.garbage) == 1
    link = root / "/".join(path.split("/")[:depth])
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(link, elsewhere)
    link.rename(tmp_path / "aside")
    link.symlink_to(elsewhere)
    for one in [elsewhere, *elsewhere.rglob("*")]:
        os.utime(one, (0, 0))
    assert remove_garbage(local, found.garbage, before=time.time() - DAY) == []
    assert stores.files(elsewhere) != {}
    assert link.is_symlink()


def test_a_link_inside_an_attempt_goes_and_what_it_names_stays(
    local: ArtifactStore, tmp_path: Path
) -> None:
    path = abandon(local, key())
    root = local.storage.local
    assert root is not None
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("x")
    (root / path / "link").symlink_to(tmp_path / "elsewhere")
    (root / path / "loop").symlink_to(root)
    age(local, 25)
    assert gc(local) == [f"leftover {path}"]
    assert not (root / path).exists()
    assert (tmp_path / "elsewhere" / "precious").read_text() == "x"


def test_the_root_itself_may_be_a_link(local: ArtifactStore, tmp_path: Path) -> None:
    path = abandon(local, key())
    age(local, 25)
    (tmp_path / "link").symlink_to(tmp_path / "root")
    assert gc(ArtifactStore(tmp_path / "link")) == [f"leftover {path}"]


# -- what nobody names -------------------------------------------------------------------------


def test_unused_artifacts_go_when_asked(store: ArtifactStore) -> None:
    kept, lost = make(store, key()), make(store, key(seed=1))
    plan(store, "mine", node("ddr1", key()))
    age(store, 25)
    assert gc(store) == []
    assert listed(store).unused > 1000
    assert gc(store, unused=True) == [f"artifact {key(seed=1).folder}"]
    assert store.find(key(seed=1)) is None
    assert store.storage.tree(lost.manifest.folder) == []
    assert store.fetch(kept, verify=True)
    assert make(store, key(seed=1))  # and can be made again


def test_unused_artifacts_that_are_young_stay(store: ArtifactStore) -> None:
    make(store, key())
    age(store, 23)
    assert gc(store, unused=True) == []


def test_unfinished_work_goes_only_when_nobody_names_it(store: ArtifactStore) -> None:
    mine, nobodys = begin(store, key(seed=1)), begin(store, key(seed=2))
    plan(store, "mine", node("ddr1", key(seed=1)))
    age(store, 25)
    assert gc(store) == []
    (removed,) = gc(store, unused=True)
    assert removed.startswith(f"unfinished {key(seed=2).folder}")
    assert store.storage.tree(mine)
    assert store.storage.tree(nobodys) == []


@pytest.mark.parametrize("by", ["plan", "record", "trial", "marked", "made from", "final run"])
def test_what_anybody_names_stays(local: ArtifactStore, tmp_path: Path, by: str) -> None:
    root = tmp_path / "root"
    mark = {"made_for": "small/0123"} if by == "marked" else {}
    made = make(local, key(), **mark)
    if by == "plan":
        plan(local, "a", node("ddr1", key()))
    elif by == "record":
        record(local, "a", ddr1=key())
        plan(local, "a", node("ddr1", key(seed=9)))  # of newer settings under the same name
    elif by == "final run":
        plan(local, "small", node("ddr1", key()))
    else:
        trial(local, "small", 0, [key()] if by == "trial" else None)
        if by == "made from":
            make(local, key("transition", ddr1=key().digest))
            between = key("transition", ddr1=key().digest).digest
            make(local, key("generate", transition=between), made_for="small/0123")
    age(local, 25)
    assert gc(local, unused=True) == []
    assert local.fetch(made, verify=True)
    for folder in ("runs", "sweeps"):
        shutil.rmtree(root / folder, ignore_errors=True)
    assert f"artifact {key().folder}" in gc(local, unused=True)


def test_on_an_object_store_what_its_sweeps_made_stays(tmp_path: Path) -> None:
    remote = ArtifactStore(f"dated://{tmp_path.name}", cache=tmp_path / "cache")
    make(remote, key())
    make(remote, key("generate", ddr1=key().digest), made_for="elsewhere/0123")
    make(remote, key(seed=1))
    point: dict[str, Any] = {"select.slack": "75%"}
    TrialLog(remote.storage, "elsewhere").write(Entry(number=0, point=point, identity=""))
    age(remote, 25)
    assert gc(remote, unused=True) == [f"artifact {key(seed=1).folder}"]
    stores.DatedMemory.store.clear()


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("runs/a/plan.json", b"{"),
        ("runs/a/run.json", b'{"name": 3}'),
        ("runs/a/notes.txt", b"neither plan nor record"),
        ("sweeps/a/sweep.json", b"[]"),
        ("sweeps/a/trials/0.json", b"{}"),
    ],
)
def test_where_it_is_unclear_who_uses_what_nothing_unused_goes(
    local: ArtifactStore, path: str, content: bytes
) -> None:
    make(local, key())
    left = abandon(local, key(seed=1))
    local.storage.write(path, content)
    age(local, 25)
    found, _ = collect(local, older_than=DAY, unused=True, remove=False)
    assert any("/".join(path.split("/")[:2]) in sentence for sentence in found.unclear)
    assert gc(local, unused=True) == [f"leftover {left}"]


def test_while_a_sweep_may_be_running_nothing_unused_goes(local: ArtifactStore) -> None:
    make(local, key())
    age(local, 25)
    trial(local, "small", 0, None)
    assert gc(local, unused=True) == []
    age(local, 25, "sweeps")  # it was killed
    assert gc(local, unused=True) == [f"artifact {key().folder}"]


def test_what_a_sweep_planned_stays_and_the_rest_goes_while_it_runs(
    local: ArtifactStore, tmp_path: Path
) -> None:
    for seed in range(3):
        make(local, key(seed=seed))
    age(local, 25)
    stores.outline(tmp_path / "root", "small", [key()])
    trial(local, "small", 0, None, digests=[key(seed=1).digest])
    assert gc(local, unused=True) == [f"artifact {key(seed=2).folder}"]


def test_while_the_next_trials_of_a_sweep_are_unknown_nothing_unused_goes(
    local: ArtifactStore, tmp_path: Path
) -> None:
    make(local, key())
    age(local, 25)
    stores.outline(tmp_path / "root", "small", [], whole=False)
    assert gc(local, unused=True) == []


def test_a_run_that_starts_meanwhile_keeps_what_it_is_about_to_use(
    store: ArtifactStore,
) -> None:
    made, begun = make(store, key()), begin(store, key(seed=1))
    age(store, 25)
    found = listed(store, unused=True)
    assert {one.kind for one in found.garbage} == {"artifact", "unfinished"}
    plan(store, "new", node("ddr1", key()), node("ddr1-b", key(seed=1)))
    assert remove_garbage(store, found.garbage, before=time.time() - DAY) == []
    assert store.fetch(made, verify=True)
    assert store.storage.tree(begun)


def test_killed_in_the_middle_it_leaves_no_half_artifact(
    local: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        make(local, key(seed=seed))
    age(local, 25)
    real = shutil.rmtree

    def killed(*arguments: Any, **options: Any) -> Any:
        if "dir_fd" not in options:
            return real(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        gc(local, unused=True)
    monkeypatch.setattr(shutil, "rmtree", real)
    assert [local.find(key(seed=seed)) for seed in range(3)] == [None] * 3
    age(local, 25)
    assert len(gc(local)) == 3
    assert [found.path for found in local.storage.tree("artifacts") if found.bytes] == []


def test_an_artifact_that_goes_while_it_is_looked_for_is_not_there(
    local: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, real = make(local, key()), local.storage.size

    def size(path: str) -> int | None:
        local.storage.delete(f"{key().folder}/manifest.json")
        local.storage.delete(made.manifest.folder)
        return real(path)

    monkeypatch.setattr(local.storage, "size", size)
    assert local.find(key()) is None


# -- against an oracle -------------------------------------------------------------------------

AGES = st.sampled_from([0.0, 20.0, 30.0])


@settings(max_examples=15)
@given(
    keys=st.lists(
        st.tuples(
            st.sampled_from(["nothing", "finished", "begun"]),
            st.booleans(),
            st.booleans(),
            AGES,
        ),
        max_size=4,
    ),
    unused=st.booleans(),
)
def test_exactly_what_the_rules_say_goes(
    keys: list[tuple[str, bool, bool, float]], unused: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = ArtifactStore(folder)
        expected: list[str] = []
        for seed, (what, named, left, hours) in enumerate(keys):
            made = key(seed=seed)
            path = abandon(store, made) if left else ""
            if what == "finished":
                make(store, made)
            if what == "begun":
                begin(store, made)
            if named:
                plan(store, f"run-{seed}", node("ddr1", made))
            if what != "nothing" or left:
                age(store, hours, made.folder)
            whole = what == "finished" and unused and not named
            if hours > 24 and whole:
                expected.append(f"artifact {made.folder}")
            if hours > 24 and left and not whole:
                expected.append(f"leftover {path}")
            if hours > 24 and what == "begun" and unused and not named:
                expected.append(f"unfinished {made.folder}")
        assert gc(store, unused=unused) == sorted(expected)
        there = {folder.key.digest for folder in scan(store.storage).keys if folder.manifest}
        gone = {path.rpartition("/")[2] for path in expected if path.startswith("artifact")}
        made = {key(seed=n).digest for n, (what, *_) in enumerate(keys) if what == "finished"}
        assert there == made - gone
