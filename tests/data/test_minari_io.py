from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from tskd_ray.data import minari_io
from tskd_ray.data.load import load_trajectories
from tskd_ray.data.minari_io import read_minari, write_minari
from tskd_ray.data.trajectories import EnvironmentSpec, Trajectories
from tskd_ray.errors import DataError, StorageError

Make = Callable[..., Trajectories]
Same = Callable[[Trajectories, Trajectories], None]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip_is_lossless(
    tmp_path: Path, make_trajectories: Make, assert_same: Same, dtype: type
) -> None:
    data = make_trajectories((5, 2, 9), dtype=dtype)
    write_minari(data, tmp_path, dataset_id="tskd/hopper/test-v0")
    assert_same(read_minari(tmp_path), data)
    assert_same(read_minari(tmp_path / "data"), data)
    assert_same(load_trajectories(tmp_path), data)


def test_minari_opens_it(tmp_path: Path, make_trajectories: Make) -> None:
    data = make_trajectories((5, 2, 9))
    path = write_minari(data, tmp_path, dataset_id="tskd/hopper/test-v0", description="A test.")
    dataset = minari.MinariDataset(path)
    assert dataset.id == "tskd/hopper/test-v0"
    assert (dataset.total_episodes, dataset.total_steps) == (3, 16)
    assert dataset.env_spec is not None
    assert dataset.env_spec.id == "Hopper-v5"
    assert dataset.action_space == Box(-1, 1, (3,), np.float32)
    assert minari.get_normalized_score(dataset, np.array([3234.3])) == pytest.approx(1.0)
    for index, episode in enumerate(dataset.iterate_episodes()):
        ours = data.episode(index)
        assert len(episode.observations) == len(episode.rewards) + 1
        for name in ("origin", "source_episode", "source_step"):
            np.testing.assert_array_equal(episode.infos[name], ours[name])
        assert episode.terminations.tolist() == [False] * (len(episode) - 1) + [
            ours["terminated"]
        ]
    (note,) = dataset.storage.get_episode_metadata([1])
    assert note["episode_id"] == data.episode_id[1]
    assert (
        note["episode_origin"] == ["recorded", "generated", "stitched"][data.episode_origin[1]]
    )
    assert note["return"] == pytest.approx(data.returns[1])
    environment = dataset.recover_environment()
    assert environment.spec is not None
    environment.close()


def test_same_trajectories_same_bytes(tmp_path: Path, make_trajectories: Make) -> None:
    paths = [
        write_minari(make_trajectories(), tmp_path / name, dataset_id="x-v0") for name in "ab"
    ]
    for name in ("main_data.hdf5", "metadata.json"):
        assert (paths[0] / name).read_bytes() == (paths[1] / name).read_bytes()


def test_environment_arguments_and_unknown_environments_survive(
    tmp_path: Path, make_trajectories: Make, assert_same: Same
) -> None:
    bounds: dict[str, Any] = {
        "action_low": (-1.0,) * 3,
        "action_high": (1.0,) * 3,
        "observation_dim": 11,
    }
    specs = [
        EnvironmentSpec(id="Hopper-v5", kwargs={"healthy_reward": 0.5}, **bounds),
        EnvironmentSpec(id="NotHere-v3", kwargs={"a": [1]}, max_episode_steps=7, **bounds),
        None,
    ]
    for number, environment in enumerate(specs):
        data = make_trajectories(environment=environment)
        write_minari(data, tmp_path / str(number), dataset_id="x-v0")
        assert_same(read_minari(tmp_path / str(number)), data)


def test_nothing_is_written_outside_the_folder(
    tmp_path: Path, make_trajectories: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    write_minari(make_trajectories(), tmp_path / "d", dataset_id="x-v0")
    read_minari(tmp_path / "d")
    assert not (tmp_path / "minari").exists()


def test_a_relative_folder_is_written_too(
    tmp_path: Path,
    make_trajectories: Make,
    assert_same: Same,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert write_minari(make_trajectories(), "d", dataset_id="x-v0") == Path("d/data")
    assert_same(read_minari("d"), make_trajectories())


def test_a_full_folder_is_refused(tmp_path: Path, make_trajectories: Make) -> None:
    write_minari(make_trajectories(), tmp_path, dataset_id="x-v0")
    with pytest.raises(
        StorageError, match=r"A Minari dataset needs a folder of its own\. .* holds data\."
    ):
        write_minari(make_trajectories(), tmp_path, dataset_id="x-v0")


@pytest.mark.parametrize("dataset_id", ["no version", "x", "a/b/"])
def test_malformed_id_is_refused(
    tmp_path: Path, make_trajectories: Make, dataset_id: str
) -> None:
    with pytest.raises(DataError, match="A Minari id reads"):
        write_minari(make_trajectories(), tmp_path, dataset_id=dataset_id)


# -- datasets that others wrote --------------------------------------------------------


def foreign(
    folder: Path,
    *,
    observation: gymnasium.Space[Any] | None = None,
    action: gymnasium.Space[Any] | None = None,
    **changes: Any,
) -> Path:
    """A dataset of one episode of two steps, by Minari alone."""
    data = folder / "data"
    data.mkdir(parents=True)
    storage = MinariStorage.new(
        data,
        observation_space=observation or Box(-9, 9, (2,)),
        action_space=action or Box(-1, 1, (1,)),
        data_format="hdf5",
    )
    storage.update_metadata({"dataset_id": "x-v0", "minari_version": minari.__version__})
    episode: dict[str, Any] = {
        "observations": np.arange(6.0).reshape(3, 2),
        "actions": np.zeros((2, 1)),
        "rewards": np.ones(2),
        "terminations": np.array([False, True]),
        "truncations": np.array([False, False]),
        "infos": {},
    }
    storage.update_episodes([EpisodeBuffer(**(episode | changes))])
    return folder


def test_foreign_steps_are_recorded_ones(tmp_path: Path) -> None:
    # Minari's collector has L + 1 infos, the first of `reset`: not ours, though named alike.
    infos = {"origin": np.ones(3), "source_step": np.ones(3), "source_episode": np.ones(3)}
    data = read_minari(foreign(tmp_path / "d", infos=infos))
    assert data.origin.tolist() == [0, 0]
    assert data.source_step.tolist() == [0, 1]
    assert data.episode_id.tolist() == [0]
    assert data.terminated.tolist() == [True]


def test_dictionaries_are_flattened_by_key(tmp_path: Path) -> None:
    space = Dict(
        {"z": Box(-9, 9, (1,)), "a": Dict({"y": Box(-9, 9, (2,)), "b": Box(-9, 9, (1,))})}
    )
    observations = {
        "z": np.full((3, 1), 4.0),
        "a": {"y": np.tile([2.0, 3.0], (3, 1)), "b": np.full((3, 1), 1.0)},
    }
    folder = foreign(tmp_path / "d", observation=space, observations=observations)
    assert read_minari(folder).observations.tolist() == [[1.0, 2.0, 3.0, 4.0]] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": Discrete(3), "actions": np.zeros(2, int)}, "one-dimensional Box"),
        ({"observations": np.zeros((2, 2))}, "Episode 0 has 2, 2 and 2"),
        ({"actions": np.zeros((3, 1))}, "Episode 0 has 3, 3 and 2"),
        ({"rewards": np.array([1.0, np.nan])}, "rewards of episode 0, step 1"),
        ({"terminations": np.array([True, True])}, "Episode 0 of .* does so at step 0 of 2"),
        ({"terminations": np.zeros(2, bool)}, "At least one episode must end"),
    ],
)
def test_bad_datasets(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_trajectories(foreign(tmp_path / "d", **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no json", "is a folder that Minari .* can read"),
        ("empty json", "lacks observation_space and action_space"),
        ("version", "does not support the dataset generated by Minari 0.0.1"),
        ("no file", "No data found"),
        ("no episode", "counts 1 and holds 0"),
        ("other episode", "object 'episode_0' doesn't exist"),
    ],
)
def test_damaged_datasets(tmp_path: Path, damage: str, message: str) -> None:
    folder = foreign(tmp_path / "d")
    metadata, main = folder / "data/metadata.json", folder / "data/main_data.hdf5"
    head = json.loads(metadata.read_text())
    if damage == "no json":
        metadata.write_text("{")
    elif damage == "empty json":
        metadata.write_text("{}")
    elif damage == "version":
        metadata.write_text(json.dumps(head | {"minari_version": "0.0.1"}))
    elif damage == "no file":
        main.unlink()
    else:
        with h5py.File(main, "a") as file:
            if damage == "other episode":
                file.move("episode_0", "episode_1")
            else:
                del file["episode_0"]
    with pytest.raises(DataError, match=message) as caught:
        load_trajectories(folder)
    assert "\n" not in str(caught.value)


# -- ids -------------------------------------------------------------------------------


@pytest.fixture
def local(tmp_path: Path, make_trajectories: Make, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "minari"
    write_minari(make_trajectories(), root / "mujoco/hopper/medium-v0", dataset_id="x-v0")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    return root


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []

    def load_dataset(dataset_id: str, download: bool) -> None:
        asked.append(dataset_id)
        raise ConnectionError("the remote server does not answer\nlong story")

    monkeypatch.setattr(minari, "load_dataset", load_dataset)
    return asked


@pytest.mark.usefixtures("local")
def test_a_local_id_is_read_without_network(
    offline: list[str], make_trajectories: Make, assert_same: Same
) -> None:
    assert_same(load_trajectories("mujoco/hopper/medium-v0"), make_trajectories())
    assert offline == []


@pytest.mark.usefixtures("local")
def test_an_unknown_id_is_asked_for_and_names_the_nearest(offline: list[str]) -> None:
    with pytest.raises(
        DataError,
        match=r"does not answer\. Check .* into .*/minari/mujoco/hopper/expert-v0\. "
        r"Nearest on .*: mujoco/hopper/medium-v0",
    ):
        load_trajectories("mujoco/hopper/expert-v0")
    assert offline == ["mujoco/hopper/expert-v0"]


@pytest.mark.usefixtures("local")
def test_what_is_no_id_is_not_asked_for(offline: list[str]) -> None:
    with pytest.raises(
        DataError, match=r"no file or folder\. Nearest .* mujoco/hopper/medium-v0"
    ):
        load_trajectories("hopper medium")
    assert offline == []


@pytest.mark.usefixtures("local")
def test_retries_of_the_client_are_not_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = logging.getLogger("huggingface_hub.utils._http")

    def load_dataset(dataset_id: str, download: bool) -> None:
        client.warning("Retrying in 1s [Retry 1/5].")
        raise ConnectionError("no such host")

    monkeypatch.setattr(minari, "load_dataset", load_dataset)
    with pytest.raises(DataError, match="no such host"):
        load_trajectories("mujoco/hopper/expert-v0")
    assert not caplog.records
    assert client.isEnabledFor(logging.WARNING)  # as before


def test_a_download_is_read(
    tmp_path: Path,
    make_trajectories: Make,
    assert_same: Same,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))

    def load_dataset(dataset_id: str, download: bool) -> None:
        assert download
        print("Downloading")  # noqa: T201 - as Minari does
        write_minari(make_trajectories(), tmp_path / dataset_id, dataset_id=dataset_id)

    monkeypatch.setattr(minari, "load_dataset", load_dataset)
    assert_same(minari_io.read_minari_id("a/b-v1"), make_trajectories())
    assert capsys.readouterr().out == ""
