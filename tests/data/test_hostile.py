"""Dataset files that are damaged or made to harm: refused in a line, before memory is taken."""

from __future__ import annotations

import json
import pickle
import re
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzing.targets import TARGETS, attempt, recorded
from tskd_ray.data.arrays import load_arrays, save_arrays
from tskd_ray.data.columnar import to_table, write_parquet
from tskd_ray.data.d4rl import write_d4rl
from tskd_ray.data.load import load_trajectories
from tskd_ray.data.minari_io import write_minari
from tskd_ray.data.parquet_footer import declared_bytes
from tskd_ray.errors import DataError

SHARED = settings(
    derandomize=True,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
BINARY = [
    "d4rl", "parquet", "minari-hdf5", "minari-json", "arrays-npy", "arrays-offsets",
    "arrays-json",
]  # fmt: skip


class Bomb:
    """What leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def refused(source: str | Path, **options: Any) -> str:
    """The message, having taken little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            load_trajectories(source, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200 * 2**20
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- any file --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    return {name: list(TARGETS[name].seeds(tmp_path_factory.mktemp(name))) for name in BINARY}


@pytest.mark.parametrize("name", BINARY)
def test_valid_files_are_read(name: str, seeds: dict[str, list[bytes]], tmp_path: Path) -> None:
    for seed in seeds[name]:
        assert attempt(TARGETS[name], seed, tmp_path) is None


@SHARED
@given(data=st.data())
@pytest.mark.parametrize("name", BINARY)
def test_truncated_files_and_flipped_bytes_are_read_or_refused(
    name: str, seeds: dict[str, list[bytes]], tmp_path: Path, data: st.DataObject
) -> None:
    damaged = bytearray(data.draw(st.sampled_from(seeds[name])))
    for _ in range(data.draw(st.integers(0, 4))):
        where = data.draw(st.integers(0, len(damaged) - 1))
        width = data.draw(st.sampled_from([1, 1, 8]))
        damaged[where : where + width] = data.draw(st.binary(min_size=width, max_size=width))
    kept = data.draw(st.one_of(st.just(len(damaged)), st.integers(0, len(damaged))))
    attempt(TARGETS[name], bytes(damaged[:kept]), tmp_path)


# -- HDF5 ------------------------------------------------------------------------------

WORDS = ("observations", "next_observations", "actions", "rewards", "terminals", "timeouts")
N = 9


def d4rl(path: Path, **changes: Callable[[h5py.File, str], object]) -> Path:
    """A valid file but for what `changes` put in place of arrays."""
    write_d4rl(replace(recorded(), environment=None), path)
    with h5py.File(path, "a") as file:
        for name, change in changes.items():
            change(file, name)
    return path


def put(value: Any, **options: Any) -> Callable[[h5py.File, str], object]:
    def change(file: h5py.File, name: str) -> None:
        del file[name]
        file.create_dataset(name, data=value, **options)

    return change


def linked(link: Any) -> Callable[[h5py.File, str], object]:
    def change(file: h5py.File, name: str) -> None:
        del file[name]
        file[name] = link(file) if callable(link) else link

    return change


def virtual(file: h5py.File, name: str) -> None:
    del file[name]
    layout = h5py.VirtualLayout((N,), "f4")
    layout[:] = h5py.VirtualSource("elsewhere.hdf5", "rewards", (N,))
    file.create_virtual_dataset(name, layout)


def stored_outside(file: h5py.File, name: str) -> None:
    del file[name]
    file.create_dataset(name, (N,), "f4", external=[("/etc/hostname", 0, 4 * N)])


def one_large_chunk(file: h5py.File, name: str) -> None:
    del file[name]
    options: dict[str, Any] = {"chunks": (2**29,), "maxshape": (None,), "compression": "gzip"}
    file.create_dataset(name, (N,), "f4", **options)


HDF5: dict[str, tuple[dict[str, Callable[[h5py.File, str], object]], str]] = {
    "a link to another file": (
        {"rewards": linked(h5py.ExternalLink("other.hdf5", "rewards"))},
        "rewards in .* is a link or is stored elsewhere",
    ),
    "a link within the file": ({"rewards": linked(h5py.SoftLink("/x"))}, "is a link or is"),
    "a link to itself": ({"rewards": linked(h5py.SoftLink("/rewards"))}, "is a link or is"),
    "an array of other files": ({"rewards": virtual}, "is a link or is stored elsewhere"),
    "an array stored outside": ({"rewards": stored_outside}, "is a link or is stored else"),
    "a group": ({"rewards": linked(lambda file: file.create_group("g"))}, "lacks rewards; it"),
    "the root": ({"rewards": linked(lambda file: file["/"])}, "lacks rewards; it has"),
    "a type": ({"rewards": linked(np.dtype("f4"))}, "lacks rewards; it has"),
    "text": ({"rewards": put(["a"] * N)}, "rewards in .* holds object"),
    "references": (
        {"rewards": linked(lambda file: file.create_dataset("r", (N,), h5py.ref_dtype))},
        "holds object",
    ),
    "lists": (
        {"rewards": linked(lambda file: file.create_dataset("v", (N,), h5py.vlen_dtype("i1")))},
        "holds object",
    ),
    "compound": ({"rewards": put(np.zeros(N, "f4,f4"))}, r"holds \[\('f0', '<f4'\)"),
    "complex": ({"rewards": put(np.zeros(N, complex))}, "holds complex128"),
    "void": ({"rewards": put(np.zeros(N, "V8"))}, r"holds \|V8"),
    "nothing": ({"rewards": put(h5py.Empty("f4"))}, "per step, 0 by its rewards"),
    "a huge chunk": (
        {"rewards": one_large_chunk},
        "rewards in .* declares 2,147,483,648 bytes and stores 0",
    ),
    "no width": (
        {"actions": put(np.zeros((N, 0)))},
        "Observations and actions need at least one dimension",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HDF5)
def test_odd_arrays_are_refused(case: str, tmp_path: Path) -> None:
    changes, message = HDF5[case]
    assert re.search(message, refused(d4rl(tmp_path / "d.hdf5", **changes)))


def test_an_array_that_lies_about_its_place_takes_no_memory(tmp_path: Path) -> None:
    """Contiguous, a terabyte by its own account, in a file of kilobytes."""
    n = 10**11
    with h5py.File(tmp_path / "d.hdf5", "w", libver="earliest") as file:
        for name in WORDS:
            shape = (n, 3) if "obs" in name else (n, 2) if name == "actions" else (n,)
            kind = h5py.h5p.create(h5py.h5p.DATASET_CREATE)  # type: ignore[attr-defined]
            kind.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)  # type: ignore[attr-defined]
            h5py.h5d.create(  # type: ignore[attr-defined]
                file.id, name.encode(), h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple(shape), kind
            )  # type: ignore[attr-defined]
    assert "declares 1,200,000,000,000 bytes" in refused(tmp_path / "d.hdf5")


def test_bool_long_double_and_huge_values_are_numbers(tmp_path: Path) -> None:
    path = d4rl(
        tmp_path / "d.hdf5",
        rewards=put(np.full(N, 1e308)),
        actions=put(np.ones((N, 2), np.longdouble)),
        terminals=put(np.arange(N) == 4),
    )
    assert attempt(TARGETS["d4rl"], path.read_bytes(), tmp_path) is None
    assert load_trajectories(path).actions.dtype == np.float64


DTYPES = st.sampled_from(
    ["f2", "f4", "f8", ">f4", "g", "i1", "u8", "?", "c8", "S3", "V4", "f4,i8"]
)


@SHARED
@given(data=st.data())
def test_any_arrays_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    rows, rng = (
        data.draw(st.integers(0, 6)),
        np.random.default_rng(data.draw(st.integers(0, 9))),
    )
    with h5py.File(tmp_path / "made.hdf5", "w") as file:
        for name in WORDS:
            if data.draw(st.integers(0, 9)) == 0:
                continue
            rank = 2 if name in ("observations", "next_observations", "actions") else 1
            width = data.draw(st.sampled_from([0, 1, 2, 2, 2])) if rank == 2 else 0
            shape = (rows, width)[:rank]
            shape = data.draw(st.sampled_from([shape] * 8 + [(), (2, 2, 2), (10,)]))
            dtype = np.dtype(data.draw(DTYPES) if data.draw(st.booleans()) else "?")
            bits = rng.bytes(int(np.prod(shape)) * dtype.itemsize)
            file.create_dataset(name, data=np.frombuffer(bits, dtype).reshape(shape))
    attempt(TARGETS["d4rl"], (tmp_path / "made.hdf5").read_bytes(), tmp_path)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"env_id": "evil:Env-v0"}, "imports nothing. .* names 'evil:Env-v0'. If you trust it"),
        ({"env_id": "a\nb"}, r"names 'a\\nb'"),
        ({"env_id": 3}, "env_id must be text"),
        (
            {"env_id": "Hopper-v5", "env_kwargs": "[" * 10**5},
            "env_kwargs must be a JSON object",
        ),
        ({"env_id": "Hopper-v5", "env_kwargs": 3}, "env_kwargs must be a JSON object"),
        ({"env_id": "Hopper-v5", "env_kwargs": '{"frame_skip": 0}'}, "must be makeable here"),
        ({"env_id": "Hopper-v5", "env_kwargs": '{"xml_file": 5}'}, "must be makeable here"),
    ],
)
def test_hostile_attributes(
    attributes: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "evil.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = d4rl(tmp_path / "d.hdf5")
    with h5py.File(path, "a") as file:
        file.attrs.update(attributes)
        # never looked at: a type that NumPy has no word for
        file.attrs["other"] = np.zeros(3, dtype="V7")
    assert re.search(message, refused(path))


# -- Minari ----------------------------------------------------------------------------


@pytest.fixture
def minari(tmp_path: Path) -> Path:
    return write_minari(recorded(), tmp_path / "m", dataset_id="toy-v0")


def change_head(data: Path, **changes: Any) -> None:
    head = json.loads((data / "metadata.json").read_text()) | changes
    kept = {name: value for name, value in head.items() if value is not ...}
    (data / "metadata.json").write_text(json.dumps(kept))


def test_a_dataset_cannot_name_a_function_to_call(minari: Path, tmp_path: Path) -> None:
    """Without its spaces Minari makes the environment, by whatever entry point it names."""
    spec = json.loads(json.loads((minari / "metadata.json").read_text())["env_spec"])
    spec |= {"entry_point": "os:system", "kwargs": {"command": f"touch {tmp_path}/called"}}
    change_head(minari, env_spec=json.dumps(spec), observation_space=..., action_space=...)
    assert "lacks observation_space and action_space" in refused(minari)
    assert not (tmp_path / "called").exists()


def test_a_dataset_cannot_name_a_module_to_import(minari: Path) -> None:
    spec = json.loads(json.loads((minari / "metadata.json").read_text())["env_spec"])
    change_head(minari, env_spec=json.dumps(spec | {"id": "evil:Env-v0"}))
    assert "names 'evil:Env-v0'. If you trust it, name it yourself" in refused(minari)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_episodes": 10**12}, "counts 1000000000000 and holds 3"),
        ({"total_episodes": "many"}, "total_episodes .* is a whole number"),
        ({"total_episodes": ...}, "total_episodes .* is a whole number"),
        ({"total_episodes": 0}, "needs at least one episode"),
        ({"total_episodes": -5}, "needs at least one episode"),
        ({"observation_space": "[" * 10**5}, "nested too deeply"),
        ({"observation_space": '{"type": "Nothing"}'}, "can read"),
        ({"observation_space": '{"type": "Discrete", "n": 3, "start": 0}'}, "can read|numbers"),
        ({"env_spec": "{}"}, "can read"),
        ({"env_spec": "3"}, "can read"),
        ({"env_spec": 3}, "can read"),
        ({"data_format": "pickle"}, "can read"),
        ({"data_format": "arrow"}, "can read"),
        ({"minari_version": None}, "can read"),
        ({"author": 5}, "can read"),
    ],
)
def test_metadata_that_lies(minari: Path, changes: dict[str, Any], message: str) -> None:
    change_head(minari, **changes)
    if changes.get("observation_space", "").startswith('{"type": "Disc'):
        load_trajectories(minari)  # the arrays tell, not the space
        return
    assert re.search(message, refused(minari))


def test_deep_metadata(minari: Path) -> None:
    (minari / "metadata.json").write_text("[" * 10**6)
    assert "nested too deeply" in refused(minari)


def test_episodes_may_not_share_arrays(minari: Path) -> None:
    """A thousand names of one array of a gigabyte would be a terabyte."""
    with h5py.File(minari / "main_data.hdf5", "a") as file:
        file["episode_3"] = file["episode_0"]
    change_head(minari, total_episodes=4)
    assert "linked twice" in refused(minari)


@pytest.mark.parametrize("case", ["cycle", "external", "soft", "deep", "huge"])
def test_odd_groups(minari: Path, case: str) -> None:
    with h5py.File(minari / "main_data.hdf5", "a") as file:
        infos = file["episode_1/infos"]
        assert isinstance(infos, h5py.Group)
        if case == "cycle":
            infos["again"] = file["episode_1"]
        elif case == "external":
            infos["x"] = h5py.ExternalLink("/etc/hostname", "x")
        elif case == "soft":
            infos["x"] = h5py.SoftLink("/episode_0/rewards")
        elif case == "deep":
            infos.create_group("/".join("g" * 200))
        else:
            infos.create_dataset("x", (10**12, 11), "f4", chunks=(1024, 11))
    message = {
        "cycle": "linked twice",
        "deep": "linked twice or lies deeper",
        "huge": "declares",
    }
    assert message.get(case, "is a link or is stored elsewhere") in refused(minari)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("infos/origin", np.array([b"a", b"b", b"c"])),
        ("infos/origin", np.zeros(3, "f4,f4")),
        ("actions", np.zeros((3, 2), complex)),
        ("observations", np.array([[b"a"] * 3] * 4)),
        ("rewards", np.array([b"a", b"b", b"c"])),
        ("terminations", np.zeros(3)),
        ("truncations", np.float32(1)),
    ],
)
def test_odd_arrays_of_an_episode(minari: Path, name: str, values: Any) -> None:
    with h5py.File(minari / "main_data.hdf5", "a") as file:
        del file[f"episode_0/{name}"]
        file[f"episode_0/{name}"] = values
    refused(minari)


@pytest.mark.parametrize("value", ["x", np.nan, [1, 2], 10**18, "9" * 5000])
def test_odd_notes_of_an_episode(minari: Path, value: Any) -> None:
    with h5py.File(minari / "main_data.hdf5", "a") as file:
        file["episode_0"].attrs["episode_id"] = value
    if value == 10**18:
        assert load_trajectories(minari).episode_id[0] == value
    else:
        refused(minari)


# -- Parquet ---------------------------------------------------------------------------


def parquet(folder: Path, **columns: Any) -> Path:
    table = to_table(recorded())
    for name, values in columns.items():
        position = table.column_names.index(name)
        table = table.set_column(position, name, values)
    pq.write_table(table, folder / "d.parquet")
    return folder / "d.parquet"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"rewards": pa.array(["a", "b", "c"])}, "must hold lists of numbers"),
        ({"rewards": pa.array([[[1.0]], [[2.0]], [[3.0]]])}, "must hold numbers"),
        ({"rewards": pa.array([[{"a": 1}]] * 3)}, "must hold numbers"),
        ({"rewards": pa.array([["a"]] * 3)}, "must hold numbers"),
        ({"terminated": pa.array(["a"] * 3).dictionary_encode()}, "must hold numbers"),
        ({"rewards": pa.nulls(3)}, "must not have nulls"),
        ({"observations": pa.array([[1.0]] * 3)}, "must hold lists of numbers"),
        ({"observations": pa.array([[[]] * 4, [[]] * 3, [[]] * 5])}, "must hold numbers|width"),
        ({"terminated": pa.array(["a", "b", "c"])}, "must hold numbers"),
        ({"episode_id": pa.array([0.5, 1, 2])}, "must hold whole numbers .* has 0.5"),
        ({"episode_id": pa.array([float("nan"), 1, 2])}, "must hold whole numbers .* has nan"),
        ({"episode_id": pa.array([2**63, 1, 2], pa.uint64())}, "must hold whole numbers"),
        ({"episode_id": pa.array([1e300, 1, 2])}, "must hold whole numbers"),
        ({"episode_id": pa.array([1, 1, 2])}, "Episode ids must be unique"),
        ({"episode_origin": pa.array([256, 0, 0])}, "from -128 to 127. .* has 256"),
    ],
)  # fmt: skip
def test_odd_columns(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert re.search(message, refused(parquet(tmp_path, **columns)))


def test_columns_that_are_not_ours_are_not_read(tmp_path: Path) -> None:
    """Nor unpickled, as old versions of Arrow did with types that Python defines."""
    called = tmp_path / "called"
    metadata = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickle.dumps(Bomb(called)),
    }
    field = pa.field("other", pa.int8(), metadata=metadata)
    table = to_table(recorded()).append_column(field, pa.array([1, 2, 3], pa.int8()))
    pq.write_table(table, tmp_path / "d.parquet")
    assert load_trajectories(tmp_path / "d.parquet").n_episodes == 3
    assert not called.exists()


def test_a_column_may_not_come_twice(tmp_path: Path) -> None:
    table = to_table(recorded())
    twice = table.append_column("rewards", table.column("rewards"))
    pq.write_table(twice, tmp_path / "d.parquet")
    assert "has rewards twice" in refused(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"observation_dim": "x"}, {"observation_dim": 1e300}, {"observation_dim": -1},
        {"environment": 3}, {"environment": {"id": 3, "action_low": [], "action_high": []}},
        {"environment": {"id": "a", "action_low": ["x"], "action_high": [1]}},
        {"environment": {"id": "a", "action_low": [1], "action_high": []}},
        {"environment": {"id": "e:A-v0", "action_low": [], "action_high": []}},
        {"environment": {"id": "a", "action_low": [], "action_high": [], "kwargs": [1]}},
        {"environment": {"id": "a", "action_low": [], "action_high": [], "evil": 1}},
        {"format": [9] * 10**5},
    ],
)  # fmt: skip
def test_odd_heads(change: dict[str, Any], tmp_path: Path) -> None:
    table = to_table(recorded())
    head = json.loads(table.schema.metadata[b"tskd_ray"]) | change
    table = table.replace_schema_metadata({"tskd_ray": json.dumps(head)})
    pq.write_table(table, tmp_path / "d.parquet")
    assert len(refused(tmp_path)) < 1000


@pytest.mark.parametrize("text", [b"[" * 10**5, b"3", b"\xff", b"9" * 5000])
def test_heads_that_are_no_object(text: bytes, tmp_path: Path) -> None:
    table = to_table(recorded()).replace_schema_metadata({"tskd_ray": text})
    pq.write_table(table, tmp_path / "d.parquet")
    assert "schema metadata of a Parquet dataset must be intact" in refused(tmp_path)


@pytest.mark.parametrize("dictionaries", [True, False])
def test_footers_are_read_as_arrow_does(dictionaries: bool, tmp_path: Path) -> None:
    table, path = to_table(recorded()), tmp_path / "d"
    pq.write_table(table, path, row_group_size=1, use_dictionary=dictionaries)
    groups = [pq.ParquetFile(path).metadata.row_group(i) for i in range(3)]
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    values = sum(8 * column.num_values for column in columns)
    most = sum(max(8 * column.num_values, column.total_uncompressed_size) for column in columns)
    declared = declared_bytes(path)
    assert most <= declared <= most + values if dictionaries else declared == most


def varint(value: int, width: int = 0) -> bytes:
    """Thrift's, padded to `width` bytes, which is legal."""
    value, out = 2 * value, bytearray()
    while value or len(out) < max(width, 1):
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out[:-1], out[-1] & 127])


def test_a_footer_cannot_hide_what_a_page_holds(tmp_path: Path) -> None:
    """A page of ten million equal values takes a few bytes, whatever the footer says."""
    n, path = 10**7, tmp_path / "d.parquet"
    zeros = pa.ListArray.from_arrays(
        pa.array([0, n, n, n], pa.int32()), pa.array(np.zeros(n, "i1"))
    )
    parquet(tmp_path, origin=zeros)
    content = path.read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    footer = content[start:]
    assert varint(n + 2) in footer
    path.write_bytes(content[:start] + footer.replace(varint(n + 2), varint(9, 4)))
    assert "declares 80,00" in refused(path)


# -- our own arrays --------------------------------------------------------------------


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    called = tmp_path / "called"
    save_arrays(recorded(), tmp_path / "a")
    rewards = tmp_path / "a/rewards.npy"
    write_parquet(recorded(), tmp_path / "p")
    for bomb in (Bomb(called), np.array([Bomb(called)], dtype=object)):
        pickled = pickle.dumps(bomb)
        rewards.write_bytes(pickled)
        if isinstance(bomb, np.ndarray):
            np.save(rewards, bomb, allow_pickle=True)
        for mmap in (True, False):
            with pytest.raises(DataError):
                load_arrays(tmp_path / "a", mmap=mmap)
        for name in ("d.hdf5", "d.parquet"):
            (tmp_path / name).write_bytes(pickled)
            refused(tmp_path / name)
    with zipfile.ZipFile(rewards, "w") as archive:
        archive.writestr("rewards.npy", pickled)
    with pytest.raises(DataError):
        load_arrays(tmp_path / "a")
    assert not called.exists()
    pickle.loads(pickle.dumps(Bomb(called)))  # noqa: S301 - the bomb works
    assert called.exists()


@pytest.mark.parametrize("mmap", [True, False])
def test_a_header_cannot_claim_a_terabyte(mmap: bool, tmp_path: Path) -> None:
    save_arrays(recorded(), tmp_path)
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 3)}
    with (tmp_path / "observations.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(DataError, match="cannot be read as one"):
        load_arrays(tmp_path, mmap=mmap)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("offsets", np.zeros(4)),
        ("offsets", np.array(3)),
        ("terminated", np.zeros(3, np.int8)),
        ("origin", np.zeros(9, np.int64)),
        ("observations", np.zeros((12, 3), complex)),
        ("observations", np.zeros((12, 3), "S1")),
        ("rewards", np.float32(1)),
        ("offsets", np.array([0, 2**62, -(2**62), 9])),
    ],
)
def test_columns_of_other_types(name: str, values: Any, tmp_path: Path) -> None:
    save_arrays(recorded(), tmp_path)
    np.save(tmp_path / f"{name}.npy", values)
    with pytest.raises(DataError) as caught:
        load_arrays(tmp_path)
    assert "\n" not in str(caught.value)


# -- names -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    ["a" * 5000, "a\0b", "../../etc/passwd", "~nobody-here/x", "builtin:../x", "a/../b-v0", ""],
)
def test_odd_names(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    assert len(refused(source)) < 6000
