"""Trajectories as raw arrays on local disk, which workers map instead of reading."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from tskd_ray.data.hostile import json_file, reading
from tskd_ray.data.trajectories import EnvironmentSpec, Trajectories
from tskd_ray.errors import DataError

_COLUMNS = tuple(f.name for f in dataclasses.fields(Trajectories) if f.name != "environment")
_HEAD = "trajectories.json"
_FORMAT = 1
_RULE = f"A folder of arrays has {_HEAD} and one .npy file per column."
_REMEDY = "Save the trajectories again."
_DTYPES = {
    "offsets": np.int64,
    "terminated": np.bool_,
    "truncated": np.bool_,
    "origin": np.int8,
    "source_episode": np.int64,
    "source_step": np.int64,
    "episode_id": np.int64,
    "episode_origin": np.int8,
}
"""Of columns that are not floating."""


def save_arrays(trajectories: Trajectories, folder: str | Path) -> None:
    """Write one `.npy` file per column, then `trajectories.json`, the mark of completeness."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in _COLUMNS:
        np.save(folder / f"{name}.npy", getattr(trajectories, name), allow_pickle=False)
    environment = trajectories.environment
    head = {
        "format": _FORMAT,
        "environment": None if environment is None else dataclasses.asdict(environment),
    }
    (folder / _HEAD).write_text(json.dumps(head, sort_keys=True, indent=1), encoding="utf-8")


def load_arrays(folder: str | Path, *, mmap: bool = True) -> Trajectories:
    """Open what `save_arrays` wrote.

    Args:
        folder: A local folder.
        mmap: Map files into memory, read-only and shared between processes; else read copies.

    Raises:
        DataError: If the folder is incomplete or of another format.
    """
    folder = Path(folder)
    with reading(_RULE, folder, _REMEDY):
        head = json_file(folder / _HEAD)
        if head.get("format") != _FORMAT:
            raise DataError(
                f"This version reads arrays of format {_FORMAT}. {folder} has format "
                f"{str(head.get('format'))[:40]}. {_REMEDY}"
            )
        # Mapped first even if copied then: a header cannot claim more than its file holds.
        columns: dict[str, Any] = {name: _mapped(folder / f"{name}.npy") for name in _COLUMNS}
        environment = head["environment"]
        return Trajectories(
            **(columns if mmap else {name: np.array(value) for name, value in columns.items()}),
            environment=None if environment is None else EnvironmentSpec.from_dict(environment),
        )


def _mapped(path: Path) -> np.memmap[Any, Any]:
    # Not `np.load`, which opens archives and, by their first bytes, pickles too.
    array = np.lib.format.open_memmap(path, mode="r")
    dtype = _DTYPES.get(path.stem)
    if array.dtype.kind != "f" if dtype is None else array.dtype != dtype:
        raise ValueError(f"{path.name} holds {array.dtype}")
    return array
