from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tskd_ray.data.d4rl import read_d4rl, write_d4rl
from tskd_ray.data.load import load_trajectories
from tskd_ray.data.trajectories import EnvironmentSpec, Trajectories
from tskd_ray.errors import DataError, StorageError

Make = Callable[..., Trajectories]
Arrays = dict[str, np.ndarray]


def flat(lengths: tuple[int, ...] = (4, 3, 5), *, last_is_cut: bool = False) -> Arrays:
    """A D4RL file of 2-d observations and 1-d actions: odd episodes time out."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[Any]] = {name: [] for name in ("o", "n", "terminals", "timeouts")}
    for number, length in enumerate(lengths):
        states = rng.normal(size=(length + 1, 2)).astype(np.float32)
        ended = np.arange(length) == length - 1
        ended &= not (last_is_cut and number == len(lengths) - 1)
        rows["o"].append(states[:-1])
        rows["n"].append(states[1:])
        rows["terminals"].append(ended & (number % 2 == 0))
        rows["timeouts"].append(ended & (number % 2 == 1))
    columns = {name: np.concatenate(parts) for name, parts in rows.items()}
    n = sum(lengths)
    return {
        "observations": columns["o"],
        "next_observations": columns["n"],
        "actions": rng.uniform(-1, 1, size=(n, 1)).astype(np.float32),
        "rewards": rng.normal(size=n).astype(np.float32),
        "terminals": columns["terminals"],
        "timeouts": columns["timeouts"],
    }


def stored(path: Path, arrays: Arrays, **attributes: str) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
        file.attrs.update(attributes)
    return path


def test_episodes_are_cut_at_ends(tmp_path: Path) -> None:
    arrays = flat((4, 3, 5))
    data = read_d4rl(stored(tmp_path / "d.hdf5", arrays))
    assert data.lengths.tolist() == [4, 3, 5]
    assert data.terminated.tolist() == [True, False, True]
    assert data.truncated.tolist() == [False, True, False]
    first = 0
    for episode in data.episodes():
        stop = first + len(episode["actions"])
        expected = [*arrays["observations"][first:stop], arrays["next_observations"][stop - 1]]
        np.testing.assert_array_equal(episode["observations"], expected)
        np.testing.assert_array_equal(episode["actions"], arrays["actions"][first:stop])
        np.testing.assert_array_equal(episode["rewards"], arrays["rewards"][first:stop])
        assert episode["source_step"].tolist() == list(range(stop - first))
        first = stop
    assert data.observations.dtype == np.float32
    assert data.environment is None


@pytest.mark.parametrize(
    ("named", "kwargs", "attributes", "told"),
    [
        ("Walker2d-v5", {}, {}, True),
        ("module:Walker2d-v5", {"healthy_reward": 2.0}, {}, True),
        ("Walker2d-v5", {"xml_file": "walker2d_v5.xml"}, {}, False),
        ("Walker2d-v4", {}, {}, False),
        ("Hopper-v5", {}, {}, False),
        ("Walker2d-v5", {}, {"env_id": "Walker2d-v5"}, False),
    ],
)
def test_who_names_walker2d_v5_for_a_file_that_does_not_is_told_of_its_physics(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    named: str,
    kwargs: dict[str, Any],
    attributes: dict[str, str],
    told: bool,
) -> None:
    path = stored(tmp_path / "d.hdf5", flat(), **attributes)
    with caplog.at_level(logging.WARNING):
        read_d4rl(path, environment=EnvironmentSpec(id=named, kwargs=kwargs))
    assert ("xml_file: walker2d.xml}" in caplog.text) == told


def test_a_trailing_piece_is_truncated(tmp_path: Path) -> None:
    data = read_d4rl(stored(tmp_path / "d.hdf5", flat((4, 3, 5), last_is_cut=True)))
    assert data.lengths.tolist() == [4, 3, 5]
    assert data.terminated.tolist() == [True, False, False]
    assert data.truncated.tolist() == [False, True, True]


def test_a_terminal_that_is_also_a_timeout_is_terminal(tmp_path: Path) -> None:
    arrays = flat((4, 3))
    arrays["timeouts"] = arrays["timeouts"] | arrays["terminals"]
    data = read_d4rl(stored(tmp_path / "d.hdf5", arrays))
    assert data.terminated.tolist() == [True, False]
    assert data.truncated.tolist() == [False, True]


def test_without_next_observations_last_steps_are_dropped_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arrays = flat((4, 3, 5))
    del arrays["next_observations"]
    with caplog.at_level(logging.WARNING):
        data = read_d4rl(stored(tmp_path / "d.hdf5", arrays))
    assert "last step of each of its 3 episodes is dropped" in caplog.text
    assert data.lengths.tolist() == [3, 2, 4]
    np.testing.assert_array_equal(data.observations, arrays["observations"])
    np.testing.assert_array_equal(
        data.actions, np.delete(arrays["actions"], [3, 6, 11], axis=0)
    )
    assert data.terminated.tolist() == [True, False, True]


def test_attributes_name_the_environment(tmp_path: Path, make_trajectories: Make) -> None:
    path = tmp_path / "d.hdf5"
    write_d4rl(make_trajectories(), path)
    assert read_d4rl(path).environment == make_trajectories().environment
    with h5py.File(path, "a") as file:
        file.attrs["env_kwargs"] = "[1]"
    with pytest.raises(DataError, match="env_kwargs must be a JSON object"):
        read_d4rl(path)


def test_written_files_come_back(tmp_path: Path, make_trajectories: Make) -> None:
    data = make_trajectories((5, 2, 9))
    write_d4rl(data, tmp_path / "d.hdf5")
    back = load_trajectories(tmp_path / "d.hdf5")
    for name in ("observations", "actions", "rewards", "offsets", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(back, name), getattr(data, name))
    with pytest.raises(StorageError, match="new file"):
        write_d4rl(data, tmp_path / "d.hdf5")


def test_integers_and_halves_become_floats_and_foreign_byte_order_native(
    tmp_path: Path,
) -> None:
    arrays = flat()
    arrays["observations"] = arrays["observations"].astype(np.float16)
    arrays["next_observations"] = arrays["next_observations"].astype(np.float16)
    arrays["rewards"] = np.arange(12, dtype=np.int32)
    arrays["actions"] = arrays["actions"].astype(">f4")
    data = read_d4rl(stored(tmp_path / "d.hdf5", arrays))
    assert data.rewards.dtype == np.float64
    assert data.observations.dtype == np.float32
    assert data.actions.dtype == np.dtype("=f4")


def without(name: str) -> Arrays:
    arrays = flat()
    del arrays[name]
    return arrays


def changed(**changes: np.ndarray) -> Arrays:
    return flat() | changes


def teleport() -> Arrays:
    arrays = flat((4, 3, 5))
    arrays["next_observations"][5] += 1  # episode 1, step 1
    return arrays


BAD: dict[str, tuple[Arrays, str]] = {
    "no actions": (
        without("actions"),
        "lacks actions; it has next_observations, observations,",
    ),
    "no timeouts": (without("timeouts"), "lacks timeouts; it has actions, next_observations"),
    "ragged": (changed(actions=np.zeros((11, 1))), "actions in .* has shape (11, 1)"),
    "flat actions": (
        changed(actions=np.zeros(12)),
        "actions in .* has shape (12,), expected 2",
    ),
    "deep rewards": (changed(rewards=np.zeros((12, 1))), "rewards in .* has shape (12, 1)"),
    "scalar rewards": (changed(rewards=np.array(3.0)), "one row per step"),
    "text": (changed(rewards=np.array([b"a"] * 12)), "rewards in .* holds |S1"),
    "no steps": ({name: array[:0] for name, array in flat().items()}, "has no steps"),
    "no end": (
        changed(terminals=np.zeros(12, bool), timeouts=np.zeros(12, bool)),
        "At least one episode must end, by terminal or timeout. None of the 12 steps",
    ),
    "other width": (changed(next_observations=np.zeros((12, 3))), "must have the shape of obs"),
    "teleport": (teleport(), "episode 1, step 1 differs (1 such steps in all)"),
    "one step": (flat((4, 1, 5)), "at least two steps. Episode 1 of"),
    "nan": (changed(rewards=np.full(12, np.nan)), "rewards of episode 0, step 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(tmp_path: Path, case: str) -> None:
    arrays, message = BAD[case]
    path = stored(tmp_path / "bad.hdf5", arrays)
    with pytest.raises(DataError) as caught:
        load_trajectories(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    for piece in message.split(" .* "):
        assert piece in text


def test_one_step_episode_without_next_observations(tmp_path: Path) -> None:
    arrays = flat((4, 1, 5))
    del arrays["next_observations"]
    with pytest.raises(
        DataError, match=r"Episode 1 of .* has 1, and without next_observations"
    ):
        read_d4rl(stored(tmp_path / "d.hdf5", arrays))


@pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n and then nothing"])
def test_what_is_no_hdf5(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "d.hdf5"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as one") as caught:
        load_trajectories(path)
    assert "\n" not in str(caught.value)


def test_a_small_file_cannot_claim_a_terabyte(tmp_path: Path) -> None:
    path = tmp_path / "d.hdf5"
    n = 10**11
    with h5py.File(path, "w") as file:
        for name, width in (("observations", 11), ("actions", 3)):
            file.create_dataset(
                name, (n, width), "f4", chunks=(1024, width), compression="gzip"
            )
        for name in ("rewards", "terminals", "timeouts"):
            file.create_dataset(name, (n,), "f4", chunks=(1024,), compression="gzip")
    with pytest.raises(DataError, match=r"declares 4,400,000,000,000 bytes and stores 0"):
        load_trajectories(path)


def test_an_unfinished_episode_cannot_be_written(
    tmp_path: Path, make_trajectories: Make
) -> None:
    data = make_trajectories()
    data.terminated[0] = data.truncated[0] = False
    with pytest.raises(DataError, match="Episode 0 is neither"):
        write_d4rl(data, tmp_path / "d.hdf5")
