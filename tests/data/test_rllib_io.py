from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tskd_ray.data.rllib_io import write_rllib
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.errors import StorageError

Make = Callable[..., Trajectories]


def test_there_is_one_row_for_each_step_in_order(
    tmp_path: Path, make_trajectories: Make
) -> None:
    data = make_trajectories((5, 1, 9, 3))
    paths = write_rllib(data, tmp_path, shard_episodes=3)
    assert [path.name for path in paths] == ["steps-00000.parquet", "steps-00001.parquet"]
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    expected = [
        (episode, t) for episode in data.episodes() for t in range(len(episode["actions"]))
    ]
    assert len(rows) == len(expected)
    for row, (episode, t) in zip(rows, expected, strict=True):
        last = t == len(episode["actions"]) - 1
        assert row["eps_id"] == str(episode["episode_id"])
        assert row["t"] == t
        assert row["obs"] == episode["observations"][t].tolist()
        assert row["new_obs"] == episode["observations"][t + 1].tolist()
        assert row["actions"] == episode["actions"][t].tolist()
        assert row["rewards"] == episode["rewards"][t]
        assert row["terminateds"] == (last and episode["terminated"])
        assert row["truncateds"] == (last and not episode["terminated"])
        assert row["infos"] == {
            name: episode[name][t] for name in ("origin", "source_episode", "source_step")
        }


def test_dtypes_stay(tmp_path: Path, make_trajectories: Make) -> None:
    (path,) = write_rllib(make_trajectories(dtype=np.float64), tmp_path)
    assert str(pq.read_schema(path).field("obs").type.value_type) == "double"


def test_a_folder_that_holds_anything_is_refused(
    tmp_path: Path, make_trajectories: Make
) -> None:
    write_rllib(make_trajectories(), tmp_path)
    with pytest.raises(StorageError, match=r"holds steps-00000.parquet. Choose another folder"):
        write_rllib(make_trajectories(), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot: "):
        write_rllib(make_trajectories(), tmp_path / "file")
