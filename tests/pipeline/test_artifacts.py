"""A store that survives kills: whole artifacts or none, found again, never silently wrong."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tskd_ray.errors import StageError, StorageError
from tskd_ray.pipeline import retry, roots
from tskd_ray.pipeline.artifacts import Artifact, ArtifactKey, ArtifactStore, artifact_key
from tskd_ray.pipeline.inventory import scan
from tskd_ray.pipeline.manifest import Manifest
from tskd_ray.pipeline.storage import Storage


def key(seed: int = 0, **changes: object) -> ArtifactKey:
    settings = {"code_version": "1", "config": {"a": 1}, "inputs": {"data": "d"}, **changes}
    return artifact_key("teacher", seed=seed, **settings)  # type: ignore[arg-type]


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ArtifactStore]:
    """The same behaviour on a folder and on an object store without renames or links."""
    if request.param == "local":
        yield ArtifactStore(tmp_path / "root")
        return
    import fsspec

    root = f"memory://{tmp_path.name}"
    yield ArtifactStore(root, cache=tmp_path / "cache")
    fsspec.filesystem("memory").rm("/", recursive=True)


def make(store: ArtifactStore, artifact: ArtifactKey, text: str = "weights") -> Artifact:
    with store.attempt(artifact, ids=range(3)) as attempt:
        (attempt.folder / "deep").mkdir()
        (attempt.folder / "deep" / "part-0.bin").write_text(text)
        (attempt.folder / "empty.bin").write_bytes(b"")
        attempt.ids += [2, 0, 1]
        attempt.info["seconds"] = 1.5
    assert attempt.artifact is not None
    return attempt.artifact


def entries(store: ArtifactStore, path: str) -> list[str]:
    return [entry.name for entry in store.storage.list(path)]


def leftovers(store: ArtifactStore) -> list[str]:
    """What commits and failures should not leave."""
    keys = scan(store.storage).keys
    return [f"{folder.key.folder}/{name}" for folder in keys for name in folder.left()]


def begun(store: ArtifactStore) -> list[str]:
    keys = scan(store.storage).keys
    return [f"{folder.key.folder}/{name}" for folder in keys for name in folder.children]


# -- keys --------------------------------------------------------------------------------


def test_key_ignores_the_order_of_settings_and_sees_every_change() -> None:
    base = key(config={"a": 1, "b": [1.5, None]})
    assert base == key(config={"b": (1.5, None), "a": 1})
    others = [
        key(seed=1, config={"a": 1, "b": [1.5, None]}),
        key(config={"a": 1, "b": [1.5, 0]}),
        key(config={"a": 1, "b": [1.5, None]}, code_version="2"),
        key(config={"a": 1, "b": [1.5, None]}, inputs={"data": "e"}),
        key(config={"a": 1, "b": [1.5, None]}, inputs={"other": "d"}),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == 6


def test_key_refuses_values_that_json_cannot_tell_apart() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        key(config={"a": float("nan")})


# -- the life of an artifact -----------------------------------------------------------------


def test_found_and_fetched_after_the_commit_only(store: ArtifactStore) -> None:
    assert store.find(key()) is None
    made = make(store, key())
    again = ArtifactStore(store.storage.root, cache=store.cache.parent)
    found = again.find(key())
    assert found == made
    assert found is not None
    assert found.info == {"seconds": 1.5}
    assert found.manifest.ids == ((0, 3),)
    folder = again.fetch(found, verify=True)
    assert (folder / "deep" / "part-0.bin").read_text() == "weights"
    assert (folder / "empty.bin").read_bytes() == b""
    assert store.find(key(seed=1)) is None


def test_an_error_in_the_middle_leaves_no_trace(store: ArtifactStore) -> None:
    folders: list[Path] = []

    def stage() -> None:
        with store.attempt(key()) as attempt:
            folders.append(attempt.folder)
            (attempt.folder / "part").write_text("half")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        stage()
    assert store.find(key()) is None
    assert not folders[0].exists()
    assert leftovers(store) == []


def test_a_kill_before_the_manifest_leaves_an_artifact_that_does_not_exist(
    store: ArtifactStore,
) -> None:
    """All parts are there, the manifest is not: what `kill -9` leaves at the worst moment."""
    store.storage.write(f"{key().folder}/attempt-{'0' * 32}/part", b"x" * 7)
    assert store.find(key()) is None
    made = make(store, key())
    assert store.find(key()) == made
    assert leftovers(store) == [f"{key().folder}/attempt-{'0' * 32}"]


def test_second_writer_discards_its_attempt(store: ArtifactStore) -> None:
    with store.attempt(key()) as slow:
        (slow.folder / "part").write_text("slow")
        fast = make(store, key(), "fast")
    assert slow.artifact == fast
    assert (store.fetch(fast) / "deep" / "part-0.bin").read_text() == "fast"
    assert entries(store, key().folder) == [fast.manifest.attempt, "manifest.json"]


def test_second_writer_that_meets_the_first_at_the_manifest(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both saw no manifest; the exclusive creation decides."""
    fast = make(store, key(), "fast")
    real = store.find
    answers = iter([None])
    monkeypatch.setattr(store, "find", lambda k: next(answers, real(k)))
    with store.attempt(key()) as slow:
        (slow.folder / "part").write_text("slow")
    assert slow.artifact == fast
    assert entries(store, key().folder) == [fast.manifest.attempt, "manifest.json"]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ([0, 1], "1 are missing (first: [2])"),
        ([0, 1, 2, 2], "Id 2 occurs twice"),
        ([0, 1, 2, 7], "1 were not asked for (first: [7])"),
    ],
)
def test_commit_checks_that_ids_are_complete_and_unique(
    store: ArtifactStore, written: list[int], message: str
) -> None:
    def stage() -> None:
        with store.attempt(key(), ids=range(3)) as attempt:
            (attempt.folder / "part").write_text("x")
            attempt.ids += written

    with pytest.raises(StageError) as caught:
        stage()
    assert message in str(caught.value)
    assert store.find(key()) is None


def test_an_artifact_needs_a_part(store: ArtifactStore) -> None:
    with pytest.raises(StageError, match="wrote none"), store.attempt(key()):
        pass


@pytest.mark.parametrize("place", ["deep/part-0.bin", "deep", ""])
def test_parts_that_lead_out_of_the_storage_are_not_followed(
    tmp_path: Path, place: str
) -> None:
    store = ArtifactStore(tmp_path / "root")
    artifact = make(store, key())
    linked = store.fetch(artifact) / place
    moved = tmp_path / "elsewhere"
    linked.rename(moved)
    linked.symlink_to(moved)
    with pytest.raises(StorageError, match="is a link"):
        store.fetch(artifact)


def test_links_are_refused(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "root")
    with pytest.raises(StageError, match="link"), store.attempt(key()) as attempt:
        (attempt.folder / "part").symlink_to("/etc/hostname")


# -- damage ---------------------------------------------------------------------------------


def path_of(store: ArtifactStore, artifact: Artifact) -> Path:
    assert store.storage.local is not None
    return store.storage.local / artifact.manifest.folder / "deep" / "part-0.bin"


def test_damaged_parts_are_told_apart_and_named(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    made = make(store, key())
    path = path_of(store, made)
    path.write_text("w3ights")
    assert store.find(key()) == made  # the cheap check looks at sizes
    with pytest.raises(StorageError, match=r"part-0\.bin .* has other bytes"):
        store.fetch(made)
    path.write_text("short")
    with pytest.raises(StorageError, match=r"part-0\.bin .* has 5 bytes"):
        store.find(key())
    path.unlink()
    with pytest.raises(
        StorageError, match=r"part-0\.bin .* is missing.*Delete artifacts/teacher"
    ):
        store.find(key())


def test_damage_on_the_way_from_a_remote_store_leaves_no_cache(tmp_path: Path) -> None:
    import fsspec

    store = ArtifactStore(f"memory://{tmp_path.name}", cache=tmp_path)
    made = make(store, key())
    store.storage.write(f"{made.manifest.folder}/deep/part-0.bin", b"w3ights")
    with pytest.raises(StorageError, match="has other bytes"):
        store.fetch(made)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    fsspec.filesystem("memory").rm("/", recursive=True)


@pytest.mark.parametrize(
    "change",
    [
        {"attempt": "../../other"},
        {"attempt": f"attempt-{'0' * 32}/../.."},
        {"key": "0" * 64},
        {"format": 2},
        {"parts": [{"name": "../../secret", "bytes": 1, "sha256": "0" * 64}]},
        {"parts": [{"name": "/etc/passwd", "bytes": 1, "sha256": "0" * 64}]},
        {"parts": [{"name": "a", "bytes": -1, "sha256": "0" * 64}]},
        {"parts": "many"},
        {"surprise": 1},
    ],
)
def test_hostile_manifests_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    store = ArtifactStore(tmp_path)
    make(store, key())
    path = tmp_path / key().folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(StorageError):
        Manifest.from_bytes(path.read_bytes(), key=key())
    with pytest.raises(StorageError):
        store.find(key())


@given(st.binary(max_size=200))
def test_any_manifest_bytes_give_our_error_only(data: bytes) -> None:
    with pytest.raises(StorageError):
        Manifest.from_bytes(data, key=key())


@pytest.mark.parametrize(
    "name", ["..", "a/../b", "/a", "a//b", "", ".hidden", "a\\b", "a\n", "~", "a/.", "x" * 300]
)
def test_names_cannot_leave_the_root(store: ArtifactStore, name: str) -> None:
    for touch in (
        store.run_folder,
        store.storage.read,
        store.storage.delete,
        store.storage.list,
    ):
        with pytest.raises(StorageError, match="Names in the storage are plain"):
            touch(name)


def test_stage_names_cannot_leave_the_root() -> None:
    with pytest.raises(StorageError, match="stage is named"):
        artifact_key("../x", code_version="1", config={}, inputs={}, seed=0)


# -- the root -------------------------------------------------------------------------------


def test_unwritable_root_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = ArtifactStore(tmp_path / "file" / "root")
    with pytest.raises(
        StorageError, match=r"must be writable. Got .*file/root: .*storage=FOLDER"
    ):
        store.check_writable()
    with pytest.raises(StorageError, match="must be writable"):
        store.run_folder("a")


def test_writable_root_is_left_empty(store: ArtifactStore) -> None:
    store.check_writable()
    assert store.storage.local is None or list(store.storage.local.iterdir()) == []


@pytest.mark.parametrize(
    "root",
    [
        "nowhere://bucket/x",
        "s3://user:hidden@bucket/x",
        "abfss://c@acct.dfs.core.windows.net/p?tenant_id=t&client_id=i&client_secret=hidden",
        "s3://bucket/x?region=eu-west-1&SECRET_KEY=hidden",
        "gs://bucket/x?access_token=hidden",
        "abfs://c/x?sv=2024&sig=hidden",
        "memory://x?sas%5ftoken=hidden",
        "s3://[hidden/x",
    ],
)
def test_bad_uris_are_one_line_and_keep_secrets(root: str) -> None:
    with pytest.raises(StorageError) as caught:
        ArtifactStore(root)
    assert "\n" not in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_parameters_that_are_no_secrets_are_taken() -> None:
    root = "s3://bucket/x?region=eu-west-1&endpoint_override=localhost:9&scheme=http"
    assert Storage(f"{root}&allow_bucket_creation=true").root.startswith(root)


def test_a_bucket_that_nobody_finds_is_the_users_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries: list[str] = []

    class Nowhere:
        @staticmethod
        def from_uri(uri: str) -> None:
            tries.append(uri)
            text = "timed out" if len(tries) == 1 else "Bucket 'tskd' not found"
            raise OSError(f"When resolving region for bucket 'tskd': {text}")

    monkeypatch.setattr(retry, "PAUSES", (0.0,) * 4)
    monkeypatch.setattr(roots.fs, "FileSystem", Nowhere)
    with pytest.raises(StorageError, match=r"answer\. Got s3://tskd/x: .*not found\. Check"):
        Storage("s3://tskd/x")
    assert len(tries) == 2, "what may pass is tried again"


def test_relative_roots_mean_the_folder_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = ArtifactStore("here")
    monkeypatch.chdir("/")
    assert store.storage.local == tmp_path / "here"
    assert ArtifactStore(f"file://{tmp_path}/here").storage.local == tmp_path / "here"


def test_a_store_travels_to_workers(store: ArtifactStore) -> None:
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301 - our own bytes
    assert copy.storage.root == store.storage.root
    assert copy.cache == store.cache


def test_runs_are_published(store: ArtifactStore) -> None:
    folder = store.run_folder("first")
    (folder / "policy").mkdir()
    (folder / "policy" / "config.json").write_text("{}")
    where = store.publish_run("first")
    assert where == f"{store.storage.root}/runs/first"
    assert store.storage.read("runs/first/policy/config.json") == b"{}"


def test_all_parts_are_on_the_disk_before_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, sync, create = set[int](), os.fsync, Storage.create

    def note(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def check(storage: Storage, path: str, data: bytes) -> bool:
        (attempt,) = (tmp_path / path).parent.glob("attempt-*")
        written = [attempt.parent, attempt, *attempt.rglob("*")]
        assert len(written) == 5
        assert synced >= {one.stat().st_ino for one in written}
        return create(storage, path, data)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Storage, "create", check)
    with ArtifactStore(tmp_path).attempt(key()) as attempt:
        (attempt.folder / "deep").mkdir()
        for name in ("a", "deep/b"):
            (attempt.folder / name).write_bytes(b"part")
    assert attempt.artifact is not None


def test_publishing_again_leaves_no_outputs_of_other_settings(store: ArtifactStore) -> None:
    folder = store.run_folder("first")
    for path in ("run.json", "report.html", "dataset/x", "policy/old", "policy/model"):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text("first")
    store.storage.write("runs/first/heartbeat.json", b"written there")
    store.publish_run("first")
    for path in ("report.html", "dataset/x", "policy/old"):
        (folder / path).unlink()
    (folder / ".dataset").mkdir()
    (folder / ".dataset" / "x").write_text("half of it")
    (folder / "run.json").write_text("second")
    store.publish_run("first")
    found = {one.path for one in store.storage.tree("runs/first") if one.kind == "file"}
    shown = {path.removeprefix("runs/first/") for path in found} - {".dataset/x"}
    assert shown == {"run.json", "heartbeat.json", "policy/model"}
    assert store.storage.local is not None or len(found) == 3
    assert store.storage.read("runs/first/run.json") == b"second"


def test_a_part_is_published_by_itself(store: ArtifactStore) -> None:
    store.storage.write("runs/first/policy/model", b"of another machine")
    folder = store.run_folder("first")
    (folder / "sampler").mkdir()
    (folder / "sampler" / "page.html").write_text("page")
    (folder / "run.json").write_text("of an earlier command of this machine")
    store.publish_run("first", "sampler")
    assert store.storage.read("runs/first/sampler/page.html") == b"page"
    assert store.storage.read("runs/first/policy/model") == b"of another machine"
    if store.storage.local is None:
        assert store.storage.read("runs/first/run.json") is None


def test_record_and_report_are_published_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(f"memory://{tmp_path.name}", cache=tmp_path)
    folder = store.run_folder("a")
    for path in ("report.html", "run.json", "metrics.json", "policy/model", "a"):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text("")
    store.publish_run("a")
    order: list[str] = []

    def upload(storage: Storage, source: Path, path: str) -> None:
        assert storage.read("runs/a/report.html") is None, "the old one would tell of the new"
        order.append(path.removeprefix("runs/a/"))

    monkeypatch.setattr(Storage, "upload", upload)
    store.publish_run("a")
    assert order == ["a", "metrics.json", "policy/model", "run.json", "report.html"]


def test_creation_is_exclusive_even_between_look_and_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(str(tmp_path))
    monkeypatch.setattr(storage, "read", lambda path: None)  # nothing seen before writing
    assert storage.create("a", b"first")
    assert not storage.create("a", b"second")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"first")]


# -- shards and scratch -----------------------------------------------------------------------


def arrays(shard: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(shard)
    return {
        "observations": rng.normal(size=(4, 3)).astype(np.float32),
        "offsets": np.arange(shard + 1),
        "done": np.zeros(0, dtype=bool),
        "view": np.arange(6, dtype=np.int8).reshape(2, 3).T,
    }


def test_shards_come_back_in_order_whatever_order_they_were_written_in(
    store: ArtifactStore,
) -> None:
    shards = store.shards(key())
    for shard in (2, 0, 11):
        shards.write(shard, arrays(shard))
    assert store.shards(key()).finished() == {0, 2, 11}
    back = list(store.shards(key()).read_all([11, 0, 2]))
    assert [shard for shard, _ in back] == [0, 2, 11]
    for shard, found in back:
        for name, array in arrays(shard).items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype


def test_same_arrays_same_bytes(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        shards = ArtifactStore(tmp_path / name).shards(key())
        shards.write(1, dict(reversed(arrays(1).items())) if name == "b" else arrays(1))
        files.append({p.name: p.read_bytes() for p in (tmp_path / name).rglob("*.safetensors")})
    assert files[0] == files[1]


def test_damaged_shards_are_done_again(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    shards = store.shards(key())
    shards.write(0, arrays(0))
    shards.write(1, arrays(1))
    path = next(tmp_path.rglob("shard-00000001-*"))
    path.write_bytes(path.read_bytes()[:-1])
    (path.parent / "something.else").write_text("")
    # whole by its name, but no shard
    garbage = path.with_name(
        f"shard-00000002-{hashlib.sha256(b'?').hexdigest()[:16]}.safetensors"
    )
    garbage.write_bytes(b"?")
    for shard in (1, 2):
        with pytest.raises(StageError, match=f"Shard {shard}"):
            shards.read(shard)
    assert shards.finished() == {0}
    assert not path.exists()
    assert not garbage.exists()


def test_costs_lie_beside_the_shards_and_outlive_a_kill(store: ArtifactStore) -> None:
    shards = store.shards(key())
    assert shards.cpu_seconds() == 0
    for shard in (3, 0):
        shards.note_cost(shard, 1.25)
        shards.write(shard, arrays(shard))
    shards.note_cost(3, 2.0)  # made again by another command
    again = store.shards(key())
    assert again.cpu_seconds() == pytest.approx(3.25)
    assert again.finished() == {0, 3}
    for number, damaged in enumerate((b"[1]", b"{}", b"[", b'{"cpu_seconds": NaN}', b"\xff")):
        store.storage.write(f"{key().folder}/shards/cost-{7 + number:08d}.json", damaged)
    assert again.cpu_seconds() == pytest.approx(3.25)


def test_who_is_overtaken_ends_well(store: ArtifactStore) -> None:
    shards = store.shards(key())
    shards.write(0, arrays(0))
    with store.unless_finished(key()):
        make(store, key(), "theirs")
        shards.write(1, arrays(1))
        shards.read(0)  # cleared by the other's commit
    assert leftovers(store) == []
    with store.unless_finished(key()):
        (store.scratch(key()) / "state").write_text("x")
        mine = make(store, key(), "mine")
    assert (store.fetch(mine) / "deep" / "part-0.bin").read_text() == "theirs"
    assert leftovers(store) == []


def test_who_is_not_overtaken_is_told(store: ArtifactStore) -> None:
    with pytest.raises(StageError, match="Shard 0"), store.unless_finished(key()):
        store.shards(key()).read(0)


def test_shards_hold_no_objects(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="dtype object"):
        ArtifactStore(tmp_path).shards(key()).write(0, {"a": np.array([{}], dtype=object)})


def test_the_commit_clears_shards_and_scratch(store: ArtifactStore) -> None:
    store.shards(key()).write(0, arrays(0))
    (store.scratch(key()) / "state").write_text("x")
    assert f"{key().folder}/shards" in begun(store)
    make(store, key())
    assert store.shards(key()).finished() == set()
    assert leftovers(store) == []
    assert list(store.scratch(key()).iterdir()) == []
