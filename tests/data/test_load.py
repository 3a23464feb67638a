from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from tskd_ray.data.columnar import write_parquet
from tskd_ray.data.load import load_trajectories
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.errors import DataError

Make = Callable[..., Trajectories]
Same = Callable[[Trajectories, Trajectories], None]


def test_builtin_hopper() -> None:
    data = load_trajectories("builtin:hopper-medium-replay")
    assert (data.n_episodes, data.n_steps) == (383, 39_763)
    assert data.episode_id.tolist() == list(range(0, 765, 2))
    assert data.returns.max() == pytest.approx(2920.5, abs=0.1)
    assert data.observations.dtype == np.float32
    assert data.environment is not None
    assert data.environment.id == "Hopper-v5"
    size = files("tskd_ray.data").joinpath("builtin/hopper-medium-replay.parquet")
    assert len(size.read_bytes()) <= 2_000_000


def test_builtin_typo() -> None:
    with pytest.raises(DataError, match="Did you mean builtin:hopper-medium-replay"):
        load_trajectories("builtin:hopper-medum")


def test_parquet_folder_and_file(
    tmp_path: Path, make_trajectories: Make, assert_same: Same
) -> None:
    data = make_trajectories()
    (path,) = write_parquet(data, tmp_path / "d")
    assert_same(load_trajectories(tmp_path / "d"), data)
    assert_same(load_trajectories(str(path)), data)


def test_environment_is_overridden(
    tmp_path: Path, make_trajectories: Make, caplog: pytest.LogCaptureFixture
) -> None:
    write_parquet(make_trajectories(environment=None), tmp_path)
    assert load_trajectories(tmp_path).environment is None
    assert not caplog.records
    named = load_trajectories(tmp_path, environment="Hopper-v4").environment
    assert named is not None
    assert (named.id, named.action_high) == ("Hopper-v4", (1.0,) * 3)
    with pytest.raises(DataError, match="Give its id too"):
        load_trajectories(tmp_path, environment_kwargs={"healthy_reward": 1.0})
    with pytest.raises(DataError, match=r"width of Walker2d-v5's, 17\. .* has 11"):
        load_trajectories(tmp_path, environment="Walker2d-v5")
    assert "xml_file: walker2d.xml}" in caplog.text


def test_arguments_alone_apply_to_the_datasets_environment(
    tmp_path: Path, make_trajectories: Make
) -> None:
    write_parquet(make_trajectories(), tmp_path)
    spec = load_trajectories(tmp_path, environment_kwargs={"healthy_reward": 2.0}).environment
    assert spec is not None
    assert (spec.id, spec.kwargs) == ("Hopper-v5", {"healthy_reward": 2.0})


def test_values_are_checked(tmp_path: Path, make_trajectories: Make) -> None:
    data = make_trajectories((5, 2, 9))
    data.actions[6] = 7
    write_parquet(data, tmp_path)
    with pytest.raises(DataError, match="Episode 1, step 1"):
        load_trajectories(tmp_path)


@pytest.mark.parametrize(
    "source", ["/nowhere/d.hdf5", "./nowhere", "~/nowhere.parquet", "d.h5"]
)
def test_missing_files(source: str) -> None:
    with pytest.raises(DataError, match="There is no file or folder"):
        load_trajectories(source)


def test_other_folders_say_what_they_hold(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds nothing"):
        load_trajectories(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"holds notes\.txt"):
        load_trajectories(tmp_path)
