"""Parquet files that RLlib's offline API reads: one row per step, under RLlib's column names.

N steps · E episodes · S observation dim · A action dim

`config.offline_data(input_=[folder])` reads it without further settings (Ray 2.60). Provenance
travels in `infos`.

Reference: ray.rllib.core.columns.Columns; ray.rllib.offline.offline_prelearner.SCHEMA.
"""

# pyarrow ships no types.
# pyright: reportUnknownParameterType=false

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tskd_ray.data.destination import new_folder
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.types import BoolArray, FloatArray

INFOS = ("origin", "source_episode", "source_step")


def write_rllib(
    trajectories: Trajectories, folder: str | Path, *, shard_episodes: int = 512
) -> list[Path]:
    """Write `steps-00000.parquet` and so on; same trajectories, same bytes.

    Args:
        trajectories: What to write; dtypes are kept.
        folder: Made if absent; must be empty.
        shard_episodes: Episodes per file.

    Raises:
        StorageError: If the folder holds anything or cannot be written.
    """
    folder = Path(folder)
    paths: list[Path] = []
    with new_folder(folder, "A dataset for RLlib"):
        for number, first in enumerate(range(0, trajectories.n_episodes, shard_episodes)):
            stop = min(first + shard_episodes, trajectories.n_episodes)
            paths.append(folder / f"steps-{number:05d}.parquet")
            pq.write_table(step_table(trajectories.take(np.arange(first, stop))), paths[-1])
    return paths


def step_table(trajectories: Trajectories) -> pa.Table:
    """One row per step."""
    state = trajectories.step_state
    infos = [pa.array(getattr(trajectories, name)) for name in INFOS]
    return pa.table(
        {
            "eps_id": pa.array(trajectories.episode_id[trajectories.step_episode].astype(str)),
            "t": pa.array(
                np.arange(trajectories.n_steps)
                - trajectories.offsets[trajectories.step_episode]
            ),
            "obs": _lists(trajectories.observations[state]),
            "actions": _lists(trajectories.actions),
            "rewards": pa.array(trajectories.rewards),
            "new_obs": _lists(trajectories.observations[state + 1]),
            "terminateds": pa.array(_at_ends(trajectories, trajectories.terminated)),
            "truncateds": pa.array(
                _at_ends(trajectories, trajectories.truncated & ~trajectories.terminated)
            ),
            "infos": pa.StructArray.from_arrays(infos, names=INFOS),
        }
    )


def _at_ends(trajectories: Trajectories, flags: BoolArray) -> BoolArray:
    """(E,) flags at the last step of each episode, (N,)."""
    steps = np.zeros(trajectories.n_steps, dtype=np.bool_)
    steps[trajectories.offsets[1:] - 1] = flags
    return steps


def _lists(rows: FloatArray) -> pa.ListArray:
    """(N, D) as N lists."""
    starts = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
    return pa.ListArray.from_arrays(starts, np.ascontiguousarray(rows).ravel())
