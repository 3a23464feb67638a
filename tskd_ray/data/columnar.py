"""Parquet shards: one row per episode, plain list columns that every reader understands.

N steps · E episodes · S observation dim · A action dim

Lossless: dtypes, provenance, flags and the environment survive; only what others wrote in half
precision is widened. The environment travels as JSON in each shard's schema metadata, so that a
shard alone is a dataset.
"""

# pyarrow ships no types.
# pyright: reportUnknownParameterType=false

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tskd_ray.data.destination import new_folder
from tskd_ray.data.hostile import json_object, reading
from tskd_ray.data.limits import check_size
from tskd_ray.data.parquet_footer import declared_bytes
from tskd_ray.data.trajectories import EnvironmentSpec, Trajectories, floating
from tskd_ray.errors import DataError, reason
from tskd_ray.types import IntArray

FORMAT = 1
_KEY = b"tskd_ray"
_FLAT = ("rewards", "origin", "source_episode", "source_step")  # (N,) columns
_PER_EPISODE = ("episode_id", "episode_origin", "terminated", "truncated")
_COLUMNS = ("observations", "actions", *_FLAT, *_PER_EPISODE)
_REQUIRED = ("observations", "actions", "rewards", "terminated", "truncated")
_RULE = "A Parquet dataset has readable files."
_REMEDY = "Write it again or name another."


def write_parquet(
    trajectories: Trajectories,
    folder: str | Path,
    *,
    shard_rows: int = 512,
    compression_level: int = 3,
) -> list[Path]:
    """Write `part-00000.parquet` and so on; same trajectories, same bytes.

    Args:
        trajectories: What to write.
        folder: Made if absent; must be empty.
        shard_rows: Episodes per file.
        compression_level: zstd's.

    Raises:
        StorageError: If the folder holds anything or cannot be written.
    """
    folder = Path(folder)
    paths: list[Path] = []
    with new_folder(folder, "A Parquet dataset"):
        for number, first in enumerate(range(0, max(trajectories.n_episodes, 1), shard_rows)):
            stop = min(first + shard_rows, trajectories.n_episodes)
            table = to_table(trajectories.take(np.arange(first, stop)))
            paths.append(folder / f"part-{number:05d}.parquet")
            write_table(table, paths[-1], compression_level=compression_level)
    return paths


def write_table(table: pa.Table, path: Path, *, compression_level: int = 3) -> None:
    """One Parquet file, floats split by byte: a quarter smaller than plain for states."""
    floats = {
        f"{name}{'.list.element' * depth}": "BYTE_STREAM_SPLIT"
        for name, depth in (("observations", 2), ("actions", 2), ("rewards", 1))
    }
    dictionaries = [f"{name}.list.element" for name in ("origin", "source_episode")]
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=compression_level,
        use_dictionary=dictionaries,  # pyright: ignore[reportArgumentType] - a list is allowed
        column_encoding=floats | {"source_step.list.element": "DELTA_BINARY_PACKED"},
        write_statistics=False,
    )


def read_parquet(source: str | Path) -> Trajectories:
    """Read a folder of shards in name order, or one shard.

    Columns that only we write may be absent: steps then count as recorded, by position.

    Raises:
        DataError: If there is no Parquet file, a column is missing, has another type, nulls or
            ragged rows, or shards disagree about the environment.
    """
    source = Path(source)
    paths = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
    if not paths:
        raise DataError(
            f"A Parquet dataset has *.parquet files. {source} has none. Name another."
        )
    tables: list[pa.Table] = []
    declared = stored = 0
    for path in paths:
        with reading(_RULE, path, _REMEDY), pq.ParquetFile(path) as file:
            present = file.schema_arrow.names
            names = [name for name in present if name in _COLUMNS]
            _check_columns(names, present, path)
            declared += declared_bytes(path)
            stored += path.stat().st_size
            check_size(declared, stored, what=str(path))
            tables.append(file.read(columns=names))
    heads = [(table.schema.metadata or {}).get(_KEY) for table in tables]
    for path, table, head in zip(paths, tables, heads, strict=True):
        if head != heads[0] or table.schema.names != tables[0].schema.names:
            raise DataError(
                f"All shards of a dataset have the same columns and environment. {path.name} "
                f"and {paths[0].name} in {source} differ. Keep one dataset per folder."
            )
    try:
        table = pa.concat_tables(tables)
    except pa.ArrowException as error:
        raise DataError(
            f"All shards of a dataset have the same column types. Those of {source} differ: "
            f"{reason(error)} Keep one dataset per folder."
        ) from error
    table = table.replace_schema_metadata(tables[0].schema.metadata)
    with reading(_RULE, source, _REMEDY):
        return from_table(table, path=str(source))


def to_table(trajectories: Trajectories) -> pa.Table:
    """One row per episode."""
    steps = trajectories.offsets
    columns: dict[str, pa.Array] = {
        name: pa.array(getattr(trajectories, name)) for name in _PER_EPISODE
    }
    columns["observations"] = _nested(trajectories.observations, trajectories.state_offsets)
    columns["actions"] = _nested(trajectories.actions, steps)
    for name in _FLAT:
        columns[name] = _lists(pa.array(getattr(trajectories, name)), steps)
    environment = trajectories.environment
    head = {
        "format": FORMAT,
        "observation_dim": trajectories.observation_dim,
        "action_dim": trajectories.action_dim,
        "environment": None if environment is None else dataclasses.asdict(environment),
    }
    return pa.table(columns).replace_schema_metadata({_KEY: json.dumps(head, sort_keys=True)})


def from_table(table: pa.Table, *, path: str) -> Trajectories:
    """The inverse of `to_table`; `path` is for messages."""
    head = _head(table, path)
    rewards, lengths = _flat(table, "rewards", path)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    n, e = len(rewards), len(lengths)
    empty = np.flatnonzero(lengths == 0)
    if len(empty):
        raise DataError(
            f"Every episode needs at least one step. Episode {empty[0]} of {path} has 0 "
            f"({len(empty)} such in all). Remove it from the dataset."
        )
    values: dict[str, Any] = {"rewards": rewards, "offsets": offsets}
    for name, extra in (("observations", 1), ("actions", 0)):
        values[name], rows = _matrix(table, name, path, head.get(f"{name[:-1]}_dim"))
        _check_rows(name, rows, lengths, extra, path)
    ids = _scalars(table, "episode_id", np.arange(e, dtype=np.int64), path)
    per_step = {
        "origin": np.zeros(n, dtype=np.int8),
        "source_episode": np.repeat(ids, lengths),
        "source_step": np.arange(n, dtype=np.int64) - np.repeat(offsets[:-1], lengths),
    }
    for name, default in per_step.items():
        values[name] = default
        if name in table.column_names:
            values[name], rows = _flat(table, name, path)
            values[name] = _whole(values[name], default.dtype, name, path)
            _check_rows(name, rows, lengths, 0, path)
    return Trajectories(
        **values,
        terminated=_scalars(table, "terminated", np.zeros(e, dtype=bool), path),
        truncated=_scalars(table, "truncated", np.zeros(e, dtype=bool), path),
        episode_id=ids,
        episode_origin=_scalars(table, "episode_origin", np.zeros(e, dtype=np.int8), path),
        environment=head.get("environment"),
    )


def _head(table: pa.Table, path: str) -> dict[str, Any]:
    text = (table.schema.metadata or {}).get(_KEY)
    if text is None:
        return {}
    try:
        head = json_object(text)
        widths = (head.get(name) for name in ("observation_dim", "action_dim"))
        if not all(width is None or type(width) is int for width in widths):
            raise ValueError("a width is no whole number")
        if head.get("environment") is not None:
            head["environment"] = EnvironmentSpec.from_dict(head["environment"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            "The schema metadata of a Parquet dataset must be intact. "
            f"{path} has {text[:80]!r}. Export it again."
        ) from error
    if head.get("format") != FORMAT:
        raise DataError(
            f"This version reads Parquet datasets of format {FORMAT}. {path} has format "
            f"{str(head.get('format'))[:40]}. Export it again with this version."
        )
    return head


def _check_columns(names: Sequence[str], present: Sequence[str], path: Path) -> None:
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        raise DataError(
            f"A Parquet dataset has the columns {', '.join(_REQUIRED)}. {path} lacks "
            f"{', '.join(missing)}; it has {', '.join(present)[:300] or 'none'}. Rename or add "
            "what is missing."
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"A Parquet dataset has each column once. {path} has {twice[0]} twice. Remove one."
        )


def _check_rows(name: str, rows: IntArray, lengths: IntArray, extra: int, path: str) -> None:
    bad = np.flatnonzero(rows != lengths + extra)
    if len(bad):
        raise DataError(
            "An episode of L steps has L + 1 observations and L of everything else. Episode "
            f"{bad[0]} of {path} has {lengths[bad[0]]} rewards and {rows[bad[0]]} {name}. "
            "Remove it from the dataset."
        )


def _lists(values: pa.Array, offsets: IntArray) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)


def _nested(matrix: np.ndarray, offsets: IntArray) -> pa.Array:
    """(rows, width) as a list of lists per episode."""
    rows = np.arange(len(matrix) + 1, dtype=np.int64) * matrix.shape[1]
    return _lists(_lists(pa.array(np.ascontiguousarray(matrix).reshape(-1)), rows), offsets)


def _unlist(column: pa.Array, name: str, path: str) -> tuple[pa.Array, IntArray]:
    """The values of a list column one level down, and the length of each list."""
    if column.null_count:
        raise DataError(
            f"{name} must not have nulls. {path} has {column.null_count}. Fill them."
        )
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(is_kind(column.type) for is_kind in kinds):
        raise DataError(
            f"{name} must hold lists of numbers. In {path} it holds {column.type}. Convert it."
        )
    lengths = np.asarray(pc.call_function("list_value_length", [column]), dtype=np.int64)
    return column.flatten(), lengths


def _numbers(values: pa.Array, name: str, path: str) -> np.ndarray:
    kind = values.type
    kinds = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean)
    if not any(is_kind(kind) for is_kind in kinds):
        raise DataError(f"{name} must hold numbers. In {path} it holds {kind}. Convert it.")
    if values.null_count:
        raise DataError(
            f"{name} must not have nulls. {path} has {values.null_count}. Fill them."
        )
    return np.array(values.to_numpy(zero_copy_only=False))  # Arrow's own memory is read-only


def _column(table: pa.Table, name: str) -> pa.Array:
    return table.column(name).combine_chunks()


def _scalars(table: pa.Table, name: str, default: np.ndarray, path: str) -> np.ndarray:
    if name not in table.column_names:
        return default
    values = _numbers(_column(table, name), name, path)
    return values != 0 if default.dtype == bool else _whole(values, default.dtype, name, path)


def _whole(values: np.ndarray, dtype: Any, name: str, path: str) -> np.ndarray:
    """As integers of `dtype`, which must hold all of them."""
    limits = np.iinfo(dtype)
    fits = (values >= limits.min) & (values <= limits.max) & (values == np.floor(values))
    bad = np.flatnonzero(~fits)
    if len(bad):
        raise DataError(
            f"{name} must hold whole numbers from {limits.min} to {limits.max}. {path} has "
            f"{values[bad[0]]}. Correct the column."
        )
    return values.astype(dtype)


def _flat(table: pa.Table, name: str, path: str) -> tuple[np.ndarray, IntArray]:
    values, lengths = _unlist(_column(table, name), name, path)
    array = _numbers(values, name, path)
    return (floating(array) if name == "rewards" else array), lengths


def _matrix(
    table: pa.Table, name: str, path: str, width: int | None
) -> tuple[np.ndarray, IntArray]:
    rows, lengths = _unlist(_column(table, name), name, path)
    values, widths = _unlist(rows, name, path)
    array = floating(_numbers(values, name, path))
    if width is None:
        width = int(widths[0]) if len(widths) else 0
    if (widths != width).any():
        bad = int(np.flatnonzero(widths != width)[0])
        episode = int(np.searchsorted(np.cumsum(lengths), bad, side="right"))
        raise DataError(
            f"All {name} have the same width, {width} here. Episode {episode} of {path} has "
            f"one of {widths[bad]}. Remove it from the dataset."
        )
    return array.reshape(len(widths), width), lengths
