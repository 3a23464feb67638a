from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tskd_ray.data.columnar import from_table, read_parquet, to_table, write_parquet
from tskd_ray.data.trajectories import EnvironmentSpec, Trajectories
from tskd_ray.errors import DataError, StorageError

Make = Callable[..., Trajectories]
Same = Callable[[Trajectories, Trajectories], None]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shard_rows", [1, 2, 512])
def test_round_trip_is_lossless(
    tmp_path: Path, make_trajectories: Make, assert_same: Same, dtype: type, shard_rows: int
) -> None:
    data = make_trajectories((5, 1, 9, 3), dtype=dtype)
    paths = write_parquet(data, tmp_path / "d", shard_rows=shard_rows)
    assert len(paths) == -(-4 // shard_rows)
    back = read_parquet(tmp_path / "d")
    assert_same(back, data)
    assert back.observations.flags.writeable


def test_half_precision_is_widened_for_kernels_that_do_not_know_it(
    make_trajectories: Make,
) -> None:
    data = make_trajectories(dtype=np.float16)
    columns = ("observations", "actions", "rewards")
    assert {getattr(data, name).dtype for name in columns} == {np.dtype(np.float32)}
    halves = replace(data, **{name: getattr(data, name).astype(np.float16) for name in columns})
    back = from_table(to_table(halves), path="memory")
    for name in columns:
        assert getattr(back, name).dtype == np.float32
        np.testing.assert_array_equal(getattr(back, name), getattr(halves, name))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_tables_are_lossless(
    make_trajectories: Make, assert_same: Same, lengths: list[int], seed: int
) -> None:
    data = make_trajectories(tuple(lengths), seed=seed)
    assert_same(from_table(to_table(data), path="memory"), data)


def test_nan_states_and_environment_arguments_survive(
    tmp_path: Path, make_trajectories: Make, assert_same: Same
) -> None:
    spec = EnvironmentSpec(id="Walker2d-v5", kwargs={"xml_file": "walker2d.xml"})
    for number, environment in enumerate((spec, None)):
        data = make_trajectories(environment=environment)
        data.observations[3] = np.nan
        write_parquet(data, tmp_path / str(number))
        assert_same(read_parquet(tmp_path / str(number)), data)


def test_same_trajectories_same_bytes(tmp_path: Path, make_trajectories: Make) -> None:
    (a,) = write_parquet(make_trajectories(), tmp_path / "a")
    (b,) = write_parquet(make_trajectories(), tmp_path / "b")
    assert a.read_bytes() == b.read_bytes()


def test_other_readers_see_one_row_per_episode(tmp_path: Path, make_trajectories: Make) -> None:
    data = make_trajectories((5, 2))
    (path,) = write_parquet(data, tmp_path / "d")
    rows = pq.read_table(path).to_pylist()
    assert [len(row["observations"]) for row in rows] == [6, 3]
    assert rows[1]["actions"][1] == data.actions[6].tolist()
    assert str(pq.read_schema(path).field("observations").type) == (
        "list<element: list<element: float>>"
    )


def test_a_foreign_table_needs_only_the_basics() -> None:
    table = pa.table(
        {
            "observations": [[[1, 2], [3, 4], [5, 6]]],
            "actions": pa.array([[[0.5], [0.25]]], pa.list_(pa.list_(pa.float32(), 1))),
            "rewards": [[1, 2]],
            "terminated": [True],
            "truncated": [False],
        }
    )
    data = from_table(table, path="memory")
    assert data.observations.tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    assert data.actions.dtype == np.float32
    assert data.source_step.tolist() == [0, 1]
    assert data.episode_id.tolist() == [0]


def good() -> dict[str, list[object]]:
    return {
        "observations": [[[1.0], [2.0], [3.0]]],
        "actions": [[[0.5], [0.25]]],
        "rewards": [[1.0, 2.0]],
        "terminated": [True],
        "truncated": [False],
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observations": [[[1.0], [2.0]]]}, "Episode 0 of memory has 2 rewards and 2 obs"),
        ({"actions": [[[0.5]]]}, "Episode 0 of memory has 2 rewards and 1 actions"),
        ({"observations": [[[1.0], [2.0, 3.0], [3.0]]]}, "Episode 0 of memory has one of 2"),
        ({"observations": [[1.0, 2.0, 3.0]]}, "observations must hold lists"),
        ({"rewards": [["a", "b"]]}, "rewards must hold numbers"),
        ({"rewards": [[1.0, None]]}, "rewards must not have nulls. memory has 1"),
        ({"actions": [None]}, "actions must not have nulls. memory has 1"),
        ({"source_step": [[1]]}, "2 rewards and 1 source_step"),
    ],
)
def test_bad_tables(changes: dict[str, list[object]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_table(pa.table(good() | changes), path="memory")


def test_missing_column_lists_what_is_there(tmp_path: Path) -> None:
    columns = good()
    del columns["actions"]
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"lacks actions; it has observations, rewards"):
        read_parquet(tmp_path)


def test_other_bad_folders(tmp_path: Path, make_trajectories: Make) -> None:
    with pytest.raises(DataError, match=r"has \*.parquet files"):
        read_parquet(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match="readable files"):
        read_parquet(tmp_path)
    mixed = tmp_path / "mixed"
    write_parquet(make_trajectories(), mixed)
    (mixed / "part-00000.parquet").rename(mixed / "other.parquet")
    pq.write_table(to_table(make_trajectories(environment=None)), mixed / "part.parquet")
    with pytest.raises(DataError, match="same columns and environment"):
        read_parquet(mixed)


def test_a_small_file_cannot_expand_without_bounds(tmp_path: Path) -> None:
    zeros = pa.ListArray.from_arrays([0, 2 * 10**7], pa.array(np.zeros(2 * 10**7, np.int8)))
    columns = {name: pa.array(values) for name, values in good().items()}
    table = pa.table(columns | {"origin": zeros})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    with pytest.raises(DataError, match="declares 160,000"):
        read_parquet(tmp_path)


def test_damaged_metadata(tmp_path: Path, make_trajectories: Make) -> None:
    for number, head in enumerate((b"{", b'{"format": 1, "environment": {"id": 3}}', b"[]")):
        table = to_table(make_trajectories()).replace_schema_metadata({b"tskd_ray": head})
        pq.write_table(table, tmp_path / f"{number}.parquet")
        with pytest.raises(DataError, match="metadata of a Parquet dataset must be intact"):
            read_parquet(tmp_path / f"{number}.parquet")


def test_stale_shards_are_not_joined(tmp_path: Path, make_trajectories: Make) -> None:
    write_parquet(make_trajectories(), tmp_path)
    with pytest.raises(StorageError, match=r"folder of its own\. .* holds part-00000"):
        write_parquet(make_trajectories(), tmp_path)
