"""D4RL's HDF5 layout, in and out: flat arrays, one row per step.

N steps · S observation dim · A action dim · E episodes

`observations` (N, S), `actions` (N, A), `rewards` (N,), `terminals` (N,), `timeouts` (N,) and
optionally `next_observations` (N, S). An episode ends at a terminal or a timeout. Root
attributes `env_id` and `env_kwargs` (JSON), an addition of ours, may name the environment.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tskd_ray.data.environments import check_declared, environment_spec, tell_other_physics
from tskd_ray.data.hostile import check_array, check_link, json_object, reading
from tskd_ray.data.limits import check_size
from tskd_ray.data.trajectories import EnvironmentSpec, Trajectories, floating, ranges
from tskd_ray.errors import DataError, StorageError, reason
from tskd_ray.types import BoolArray, FloatArray, IntArray

if TYPE_CHECKING:
    import h5py

REQUIRED = ("observations", "actions", "rewards", "terminals", "timeouts")
_OPTIONAL = "next_observations"
_ATTRIBUTES = ("env_id", "env_kwargs")
_RANK = {"observations": 2, "next_observations": 2, "actions": 2}

# Files of D4RL itself agree exactly; some conversions passed through another dtype.
_RTOL, _ATOL = 1e-5, 1e-6

_log = logging.getLogger(__name__)


def read_d4rl(path: str | Path, *, environment: EnvironmentSpec | None = None) -> Trajectories:
    """Read a D4RL HDF5 file.

    With `next_observations`, each episode's final state is its last one. Without, the state
    after an episode's last action was never stored: the last transition is dropped, as D4RL's
    `qlearning_dataset` does at timeouts, and the state it left becomes the final one; the
    episode keeps its terminal or timeout. Steps after the last terminal or timeout are an
    episode that was cut: truncated.

    Args:
        path: The file.
        environment: Where it came from; default: what the root attributes say, if anything.

    Raises:
        DataError: If it is no HDF5 file, lacks an array, has ragged or non-numeric arrays, no
            complete episode, or successive states that disagree. Values are for `validate`.
    """
    import h5py

    path = Path(path)
    with (
        reading("A D4RL dataset is an HDF5 file.", path, "Name another file."),
        h5py.File(path, "r") as file,
    ):
        columns = _read_columns(file, path)
        attributes = {name: file.attrs[name] for name in _ATTRIBUTES if name in file.attrs}
    if environment is None and "env_id" in attributes:
        environment = _declared_environment(attributes, path)
    elif environment is not None and "env_id" not in attributes:
        tell_other_physics(environment, path)

    terminals, timeouts = columns["terminals"] != 0, columns["timeouts"] != 0
    ends = _episode_ends(terminals | timeouts, path)
    offsets = np.concatenate([[0], ends]).astype(np.int64)
    if "next_observations" in columns:
        _check_successors(columns["observations"], columns["next_observations"], offsets, path)
        states = _insert_finals(columns["observations"], columns["next_observations"], ends)
        kept = np.arange(len(columns["actions"]), dtype=np.int64)
    else:
        offsets, kept = _drop_last_steps(offsets, path)
        states = columns["observations"]
    terminated = terminals[ends - 1]
    n_episodes, lengths = len(ends), np.diff(offsets)
    ids = np.arange(n_episodes, dtype=np.int64)
    return Trajectories(
        observations=states,
        actions=columns["actions"][kept],
        rewards=columns["rewards"][kept],
        offsets=offsets,
        terminated=terminated,
        truncated=~terminated,
        origin=np.zeros(len(kept), dtype=np.int8),
        source_episode=np.repeat(ids, lengths),
        source_step=ranges(np.zeros(n_episodes, dtype=np.int64), lengths),
        episode_id=ids,
        episode_origin=np.zeros(n_episodes, dtype=np.int8),
        environment=environment,
    )


def write_d4rl(trajectories: Trajectories, path: str | Path) -> None:
    """Write a D4RL HDF5 file with `next_observations`; provenance has no place in it.

    Raises:
        DataError: If an episode has no end: D4RL marks episodes by their ends only.
        StorageError: If the file exists or cannot be written.
    """
    import h5py

    open_ended = np.flatnonzero(~(trajectories.terminated | trajectories.truncated))
    if len(open_ended):
        raise DataError(
            "D4RL's layout needs every episode terminated or truncated. Episode "
            f"{open_ended[0]} is neither. Mark its end or export to Parquet."
        )
    n = trajectories.n_steps
    last = trajectories.offsets[1:] - 1
    terminals, timeouts = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    terminals[last] = trajectories.terminated
    timeouts[last] = ~trajectories.terminated
    arrays: dict[str, Any] = {
        "observations": trajectories.observations[trajectories.step_state],
        "next_observations": trajectories.observations[trajectories.step_state + 1],
        "actions": trajectories.actions,
        "rewards": trajectories.rewards,
        "terminals": terminals,
        "timeouts": timeouts,
    }
    try:
        with h5py.File(path, "x") as file:
            for name, array in arrays.items():
                file.create_dataset(name, data=array, compression="gzip", shuffle=True)
            if trajectories.environment is not None:
                file.attrs["env_id"] = trajectories.environment.id
                file.attrs["env_kwargs"] = json.dumps(dict(trajectories.environment.kwargs))
    except OSError as error:
        raise StorageError(
            f"The export needs a new file that can be written. {path} cannot: "
            f"{reason(error)} Choose another path."
        ) from error


def _read_columns(file: h5py.File, path: Path) -> dict[str, Any]:
    """The arrays, shapes and types checked before any is read."""
    import h5py

    for name in (*REQUIRED, _OPTIONAL):
        if name in file:
            check_link(file, name, f"{name} in {path}")
    missing = [name for name in REQUIRED if not isinstance(file.get(name), h5py.Dataset)]
    if missing:
        raise DataError(
            f"A D4RL file has the arrays {', '.join(REQUIRED)}. {path} lacks "
            f"{', '.join(missing)}; it has {', '.join(sorted(file)) or 'nothing'}. Rename or "
            "add what is missing."
        )
    names = [*REQUIRED]
    if isinstance(file.get(_OPTIONAL), h5py.Dataset):
        names.append(_OPTIONAL)
    arrays: dict[str, Any] = {name: file[name] for name in names}
    shapes = {name: array.shape for name, array in arrays.items()}
    n = shapes["rewards"][0] if shapes["rewards"] else 0
    declared, bytes_there = 0, path.stat().st_size
    for name in names:
        shape, dtype = shapes[name], arrays[name].dtype
        rank = _RANK.get(name, 1)
        if shape is None or len(shape) != rank or shape[0] != n:
            raise DataError(
                f"All arrays of a D4RL file have one row per step, {n} by its rewards. {name} "
                f"in {path} has shape {shape}, expected {rank} dimension(s). Write the file "
                "again."
            )
        if dtype.kind not in "fiub":
            raise DataError(
                f"Arrays of a D4RL file hold numbers. {name} in {path} holds {dtype}. Convert "
                "it."
            )
        declared += check_array(arrays[name], bytes_there, f"{name} in {path}")
    check_size(declared, bytes_there, what=str(path))
    if n == 0:
        raise DataError(f"A dataset needs at least one episode. {path} has no steps.")
    if "next_observations" in shapes and shapes["next_observations"] != shapes["observations"]:
        raise DataError(
            "next_observations must have the shape of observations. Got "
            f"{shapes['next_observations']} and {shapes['observations']} in {path}. Write the "
            "file again."
        )
    return {
        name: array[()] if name in ("terminals", "timeouts") else floating(array[()])
        for name, array in arrays.items()
    }


def _declared_environment(attributes: Mapping[str, Any], path: Path) -> EnvironmentSpec:
    environment_id = attributes["env_id"]
    if not isinstance(environment_id, str):
        raise DataError(
            f"The attribute env_id must be text. Got a {type(environment_id).__name__} in "
            f"{path}. Correct it or name the environment."
        )
    check_declared(environment_id, path)
    try:
        kwargs = json_object(attributes.get("env_kwargs", "{}"))
    except (TypeError, ValueError) as error:
        raise DataError(
            "The attribute env_kwargs must be a JSON object. Got "
            f"{str(attributes['env_kwargs'])[:100]!r} in {path}. Correct it or name the "
            "environment."
        ) from error
    return environment_spec(environment_id, kwargs)


def _episode_ends(ended: BoolArray, path: Path) -> IntArray:
    """One past each episode's last step, (E,); a trailing piece counts as an episode."""
    ends = np.flatnonzero(ended) + 1
    if not len(ends):
        raise DataError(
            f"At least one episode must end, by terminal or timeout. None of the {len(ended)} "
            f"steps in {path} does. Mark the episode ends."
        )
    return ends if ends[-1] == len(ended) else np.append(ends, len(ended))


def _check_successors(
    states: FloatArray, successors: FloatArray, offsets: IntArray, path: Path
) -> None:
    agree = np.isclose(states[1:], successors[:-1], rtol=_RTOL, atol=_ATOL, equal_nan=True)
    close: BoolArray = np.asarray(agree.all(axis=1))
    close[offsets[1:-1] - 1] = True  # across an episode's end nothing needs to agree
    rows = np.flatnonzero(~close)
    if not len(rows):
        return
    episode = int(np.searchsorted(offsets, rows[0], side="right")) - 1
    raise DataError(
        "next_observations must be the next step's observations within an episode. In "
        f"{path}, episode {episode}, step {int(rows[0] - offsets[episode])} differs "
        f"({len(rows)} such steps in all). Mark the missing episode ends or drop "
        "next_observations."
    )


def _insert_finals(states: FloatArray, successors: FloatArray, ends: IntArray) -> FloatArray:
    """Each episode's states followed by its final one, (N + E, S)."""
    return np.insert(states, ends, successors[ends - 1], axis=0)


def _drop_last_steps(offsets: IntArray, path: Path) -> tuple[IntArray, IntArray]:
    """Offsets without each episode's last step, and the steps that stay."""
    lengths = np.diff(offsets) - 1
    if (lengths < 1).any():
        bad = int(np.flatnonzero(lengths < 1)[0])
        raise DataError(
            f"Every episode needs at least two steps. Episode {bad} of {path} has 1, and "
            "without next_observations its final state is unknown. Remove it from the dataset."
        )
    _log.warning(
        "%s has no next_observations: the last step of each of its %d episodes is dropped, "
        "since the state it leads to is unknown.",
        path,
        len(lengths),
    )
    kept = ranges(offsets[:-1], lengths)
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), kept
