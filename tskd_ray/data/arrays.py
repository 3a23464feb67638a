"""Trajectories as raw arrays on local disk, which workers map instead of reading."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from tskd_ray.data.trajectories import EnvironmentSpec, Trajectories
from tskd_ray.errors import DataError, reason

_COLUMNS = tuple(f.name for f in dataclasses.fields(Trajectories) if f.name != "environment")
_HEAD = "trajectories.json"
_FORMAT = 1


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
    try:
        head: dict[str, Any] = json.loads((folder / _HEAD).read_text(encoding="utf-8"))
        columns: dict[str, Any] = {
            name: np.load(
                folder / f"{name}.npy", mmap_mode="r" if mmap else None, allow_pickle=False
            )
            for name in _COLUMNS
        }
    except (OSError, ValueError) as error:
        raise DataError(
            f"A folder of arrays has {_HEAD} and one .npy file per column. {folder} is not "
            f"readable: {reason(error)} Save the trajectories again."
        ) from error
    if head.get("format") != _FORMAT:
        raise DataError(
            f"This version reads arrays of format {_FORMAT}. {folder} has format "
            f"{head.get('format')}. Save the trajectories again."
        )
    environment = head["environment"]
    return Trajectories(
        **columns,
        environment=None if environment is None else EnvironmentSpec.from_dict(environment),
    )
