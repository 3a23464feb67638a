"""Minari datasets, in and out.

L steps of an episode · S observation dim · A action dim

Written episodes carry where each step came from in `infos/origin` (the codes of `Origin`),
`infos/source_episode` and `infos/source_step`, L rows each and aligned with the actions, and
`episode_id`, `episode_origin` and `return` in their metadata.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tskd_ray.data.destination import new_folder
from tskd_ray.data.environments import reference_scores, register
from tskd_ray.data.hostile import check_tree, json_file, reading
from tskd_ray.data.observations import flatten_observations
from tskd_ray.data.trajectories import EnvironmentSpec, Origin, Trajectories
from tskd_ray.errors import DataError, reason

if TYPE_CHECKING:
    import minari
    from gymnasium.envs.registration import EnvSpec
    from gymnasium.spaces import Box

_ID = re.compile(r"([-\w]+/)*[-\w]+-v\d+")
_SPACES = ("observation_space", "action_space")
_INFOS = ("origin", "source_episode", "source_step")


def read_minari(
    path: str | Path, *, environment: EnvironmentSpec | None = None
) -> Trajectories:
    """Read a Minari dataset from its folder, or from the `data` folder inside.

    Structured observations are flattened (`flatten_observations`). Provenance is restored where
    the dataset carries ours; other steps count as recorded.

    Raises:
        DataError: If Minari cannot read it, actions are not vectors, or episodes are ragged.
    """
    import minari

    path = Path(path)
    data = path if (path / "metadata.json").is_file() else path / "data"
    rule = f"A Minari dataset is a folder that Minari {minari.__version__} can read."
    with reading(rule, path, "Download or write it again."):
        _check_stored(data)
        dataset = minari.MinariDataset(data)
        _check_actions(dataset, path)
        episodes = [_episode(episode, path) for episode in dataset.iterate_episodes()]
        metadata = list(dataset.storage.get_episode_metadata(dataset.episode_indices))
        if not episodes:
            raise DataError(f"A dataset needs at least one episode. {path} has none.")
        width = episodes[0]["observations"].shape[1]
        trajectories = Trajectories.from_episodes(
            episodes, environment=environment or _environment(dataset, width)
        )
        return _with_provenance(trajectories, episodes, metadata)


def read_minari_id(
    dataset_id: str, *, environment: EnvironmentSpec | None = None
) -> Trajectories:
    """Read a Minari dataset by id: a local one, else downloaded by Minari's own client.

    Raises:
        DataError: If there is none of that id; names the nearest local ids.
    """
    root = _local_root()
    if not _ID.fullmatch(dataset_id):
        raise DataError(
            "A dataset is builtin:NAME, a file, a folder or a Minari id such as "
            f"mujoco/hopper/medium-v0. Got {dataset_id!r}, which is no file or folder. "
            f"{_nearest(dataset_id, root)}"
        )
    if not (root / dataset_id / "data").is_dir():
        _download(dataset_id, root)
    return read_minari(root / dataset_id, environment=environment)


def write_minari(
    trajectories: Trajectories,
    folder: str | Path,
    *,
    dataset_id: str,
    description: str | None = None,
    author: str = "tskd_ray",
    algorithm: str = "TSKD",
    scores: tuple[float, float] | None = None,
) -> Path:
    """Write `folder/data`, which `minari.MinariDataset` opens; same trajectories, same bytes.

    Args:
        trajectories: What to write; dtypes are kept.
        folder: Made if absent; must be empty. Minari's own collection is not touched.
        dataset_id: `(namespace/)name-vN`.
        description: One paragraph for readers.
        author: Who made it.
        algorithm: What made it.
        scores: (random, expert) returns; default: the table by environment.

    Returns:
        The `data` folder.

    Raises:
        DataError: If the id is not of Minari's form.
        StorageError: If the folder holds anything or cannot be written.
    """
    import minari
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    if not _ID.fullmatch(dataset_id):
        raise DataError(
            "A Minari id reads (namespace/)name-vN, such as tskd/hopper/stitched-v0. Got "
            f"{dataset_id!r}. Choose another."
        )
    environment = trajectories.environment
    if scores is None and environment is not None:
        scores = reference_scores(environment.id, environment.kwargs)
    metadata: dict[str, Any] = {
        "dataset_id": dataset_id,
        "minari_version": minari.__version__,
        "author": {author},
        "algorithm_name": algorithm,
        "description": description or f"{trajectories.n_episodes} episodes by {algorithm}.",
        "origin_codes": {str(int(origin)): origin.name.lower() for origin in Origin},
    }
    if scores is not None:
        metadata |= {"ref_min_score": float(scores[0]), "ref_max_score": float(scores[1])}
    folder = Path(folder)
    data = folder / "data"
    with new_folder(folder, "A Minari dataset"):
        data.mkdir()
        storage = MinariStorage.new(
            data.absolute(),  # a relative one it applies twice
            observation_space=_space(trajectories.observations, (), ()),
            action_space=_space(
                trajectories.actions,
                () if environment is None else environment.action_low,
                () if environment is None else environment.action_high,
            ),
            env_spec=None if environment is None else _env_spec(environment),
            data_format="hdf5",
        )
        storage.update_metadata(metadata)
        storage.update_episodes(
            EpisodeBuffer(**_buffer(episode)) for episode in trajectories.episodes()
        )
        storage.update_episode_metadata(_episode_metadata(trajectories))
    return data


# -- reading ---------------------------------------------------------------------------


def _check_stored(data: Path) -> None:
    """Look before Minari does, which believes what a dataset says of itself."""
    head = json_file(data / "metadata.json")
    lacking = [name for name in _SPACES if not isinstance(head.get(name), str)]
    if lacking:
        # It would make the environment instead, by calling any function that env_spec names.
        raise DataError(
            f"The metadata of a Minari dataset has {' and '.join(_SPACES)}. {data} lacks "
            f"{' and '.join(lacking)}. Write it again with Minari, which stores them."
        )
    claimed = head.get("total_episodes")
    if type(claimed) is not int:
        raise DataError(
            f"total_episodes in the metadata of a Minari dataset is a whole number. {data} has "
            f"{str(claimed)[:40]!r}. Download or write it again."
        )
    present = _episodes_stored(data)
    if claimed > present:
        raise DataError(
            f"A Minari dataset holds the episodes that its metadata counts. {data} counts "
            f"{claimed} and holds {present}. Download or write it again."
        )


def _episodes_stored(data: Path) -> int:
    """At most as many as there are; arrays of an HDF5 file are checked on the way."""
    import h5py

    main = data / "main_data.hdf5"
    if not main.is_file():
        return sum(1 for _ in data.iterdir())
    with h5py.File(main, "r") as file:
        check_tree(file, main)
        return len(file)


def _check_actions(dataset: minari.MinariDataset, path: Path) -> None:
    from gymnasium.spaces import Box

    space = dataset.action_space
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise DataError(
            f"Actions must be vectors of real numbers (a one-dimensional Box). {path} has "
            f"{space}. Choose a continuous-control dataset."
        )


def _episode(episode: minari.EpisodeData, path: Path) -> dict[str, Any]:
    try:
        observations = flatten_observations(episode.observations)
    except DataError as error:
        raise DataError(f"Episode {episode.id} of {path}: {error}") from error
    ended = episode.terminations | episode.truncations
    if ended[:-1].any():
        raise DataError(
            "Only an episode's last step may terminate or truncate it. Episode "
            f"{episode.id} of {path} does so at step {int(np.flatnonzero(ended)[0])} of "
            f"{len(ended)}. Split the episode there."
        )
    return {
        "observations": observations,
        "actions": episode.actions,
        "rewards": episode.rewards,
        "terminated": bool(episode.terminations[-1:].any()),
        "truncated": bool(episode.truncations[-1:].any()),
        "infos": episode.infos or {},
    }


def _environment(dataset: minari.MinariDataset, width: int) -> EnvironmentSpec | None:
    spec: EnvSpec | None = dataset.env_spec
    if spec is None:
        return None
    return EnvironmentSpec.from_dict(
        {
            "id": spec.id,
            "kwargs": dict(spec.kwargs),
            "action_low": dataset.action_space.low,
            "action_high": dataset.action_space.high,
            "max_episode_steps": spec.max_episode_steps,
            "observation_dim": width,
        }
    )


def _with_provenance(
    trajectories: Trajectories,
    episodes: Sequence[Mapping[str, Any]],
    metadata: Sequence[Mapping[str, Any]],
) -> Trajectories:
    """Ours where every episode carries it, else as recorded."""
    columns: dict[str, Any] = {}
    names = {origin.name.lower() for origin in Origin}
    if all("episode_id" in m and m.get("episode_origin") in names for m in metadata):
        columns["episode_id"] = np.array([int(m["episode_id"]) for m in metadata], np.int64)
        columns["episode_origin"] = np.array(
            [Origin[str(m["episode_origin"]).upper()] for m in metadata], np.int8
        )
    infos = [episode["infos"] for episode in episodes]
    lengths = trajectories.lengths
    if all(
        name in info and np.shape(info[name]) == (length,)
        for info, length in zip(infos, lengths, strict=True)
        for name in _INFOS
    ):
        for name in _INFOS:
            dtype = getattr(trajectories, name).dtype
            columns[name] = np.concatenate([info[name] for info in infos]).astype(dtype)
    return replace(trajectories, **columns)


def _local_root() -> Path:
    # As Minari finds it, without making the folder as Minari's own function does.
    root = os.environ.get("MINARI_DATASETS_PATH", "~/.minari/datasets")
    return Path(root).expanduser()


def _nearest(dataset_id: str, root: Path) -> str:
    local = sorted(
        entry.parent.parent.relative_to(root).as_posix()
        for entry in root.glob("**/data/metadata.json")
    )
    nearest = get_close_matches(dataset_id, local, n=3, cutoff=0.0)
    if not nearest:
        return "No Minari dataset is on this machine."
    return f"Nearest on this machine: {', '.join(nearest)}."


def _download(dataset_id: str, root: Path) -> None:
    import minari

    try:
        # Its progress is not our output.
        with contextlib.redirect_stdout(sys.stderr), _retries_untold():
            minari.load_dataset(dataset_id, download=True)
    except Exception as error:  # the clients of several hosts raise what they like
        raise DataError(
            f"A Minari dataset must be on this machine or downloadable. {dataset_id} is not: "
            f"{reason(error)} Check the id and the connection, or download it elsewhere into "
            f"{root / dataset_id}. {_nearest(dataset_id, root)}"
        ) from error


@contextlib.contextmanager
def _retries_untold() -> Generator[None]:
    """The client of Minari's usual host warns at each retry; its last error says it all."""
    from huggingface_hub.utils import logging as client

    before = client.get_verbosity()
    client.set_verbosity_error()
    try:
        yield
    finally:
        client.set_verbosity(before)


# -- writing ---------------------------------------------------------------------------


def _space(rows: np.ndarray, low: tuple[float, ...], high: tuple[float, ...]) -> Box:
    """The Box of a column's rows; unbounded where no bounds are known."""
    from gymnasium.spaces import Box

    dtype: Any = rows.dtype
    if not low:
        return Box(-np.inf, np.inf, rows.shape[1:], dtype=dtype)
    return Box(np.array(low, dtype=dtype), np.array(high, dtype=dtype), dtype=dtype)


def _env_spec(environment: EnvironmentSpec) -> EnvSpec:
    """Gymnasium's registered entry with our arguments, so that Minari can make it again."""
    import gymnasium
    from gymnasium.envs.registration import EnvSpec

    limit = environment.max_episode_steps
    try:
        register(environment.id)
        registered = gymnasium.spec(environment.id)
    except (gymnasium.error.Error, ModuleNotFoundError, DataError):
        registered = None
    if registered is None or not isinstance(registered.entry_point, str):
        return EnvSpec(environment.id, kwargs=dict(environment.kwargs), max_episode_steps=limit)
    return replace(
        registered,
        kwargs=dict(registered.kwargs) | dict(environment.kwargs),
        max_episode_steps=limit,
    )


def _buffer(episode: Mapping[str, Any]) -> dict[str, Any]:
    length = len(episode["rewards"])
    terminations, truncations = np.zeros(length, dtype=bool), np.zeros(length, dtype=bool)
    terminations[-1], truncations[-1] = episode["terminated"], episode["truncated"]
    return {
        "observations": episode["observations"],
        "actions": episode["actions"],
        "rewards": episode["rewards"],
        "terminations": terminations,
        "truncations": truncations,
        "infos": {name: episode[name] for name in _INFOS},
    }


def _episode_metadata(trajectories: Trajectories) -> list[dict[str, Any]]:
    return [
        {
            "episode_id": int(trajectories.episode_id[index]),
            "episode_origin": Origin(int(trajectories.episode_origin[index])).name.lower(),
            "return": float(trajectories.returns[index]),
        }
        for index in range(trajectories.n_episodes)
    ]
