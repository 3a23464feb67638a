from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tskd_ray.data.d3rlpy_io import write_d3rlpy
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.errors import StorageError

Make = Callable[..., Trajectories]


def test_each_episode_has_as_many_observations_as_actions(
    tmp_path: Path, make_trajectories: Make
) -> None:
    data = make_trajectories((5, 2, 9))
    write_d3rlpy(data, tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as opened:
        file: Any = opened
        assert file["num_episodes"][()] == 3
        assert file["version"][()] == b"2.1"
        columns = [name.decode() for name in file["columns"][()]]
        assert columns == ["observations", "actions", "rewards", "terminated"]
        for number, episode in enumerate(data.episodes()):
            np.testing.assert_array_equal(
                file[f"observations_{number}"], episode["observations"][:-1]
            )
            np.testing.assert_array_equal(file[f"actions_{number}"], episode["actions"])
            np.testing.assert_array_equal(
                file[f"rewards_{number}"], episode["rewards"].reshape(-1, 1)
            )
            assert file[f"terminated_{number}"][()] == episode["terminated"]
            np.testing.assert_array_equal(file[f"origin_{number}"], episode["origin"])


def test_a_file_that_exists_is_not_overwritten(tmp_path: Path, make_trajectories: Make) -> None:
    (tmp_path / "a.h5").write_text("mine")
    with pytest.raises(StorageError, match=r"a new file that can be written.*a\.h5 cannot"):
        write_d3rlpy(make_trajectories(), tmp_path / "a.h5")
    assert (tmp_path / "a.h5").read_text() == "mine"
