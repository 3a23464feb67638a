from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tskd_ray.data.arrays import load_arrays, save_arrays
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.errors import DataError

Make = Callable[..., Trajectories]
Same = Callable[[Trajectories, Trajectories], None]


@pytest.mark.parametrize("mmap", [True, False])
def test_round_trip(
    tmp_path: Path, make_trajectories: Make, assert_same: Same, mmap: bool
) -> None:
    data = make_trajectories()
    save_arrays(data, tmp_path / "d")
    back = load_arrays(tmp_path / "d", mmap=mmap)
    assert_same(back, data)
    assert isinstance(back.observations, np.memmap) is mmap


def test_without_environment(
    tmp_path: Path, make_trajectories: Make, assert_same: Same
) -> None:
    data = make_trajectories(environment=None)
    save_arrays(data, tmp_path)
    assert_same(load_arrays(tmp_path), data)


@pytest.mark.parametrize("damage", ["missing", "truncated", "format"])
def test_damage_is_an_error(tmp_path: Path, make_trajectories: Make, damage: str) -> None:
    save_arrays(make_trajectories(), tmp_path)
    rewards, head = tmp_path / "rewards.npy", tmp_path / "trajectories.json"
    if damage == "missing":
        rewards.unlink()
    elif damage == "truncated":
        rewards.write_bytes(rewards.read_bytes()[:-8])
    else:
        head.write_text(head.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(DataError, match="Save the trajectories again"):
        load_arrays(tmp_path)
