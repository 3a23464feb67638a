"""The tasks of D4RL that the paper reports, by name, and where their recorded data are."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tskd_ray.data.commands import MixPart, data_mix
from tskd_ray.data.load import BUILTIN
from tskd_ray.errors import ConfigError, StorageError

_SUFFIXES = (".hdf5", ".h5", "")


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """One task's recorded data."""

    name: str  # "hopper-medium"
    source: str
    environment: str | None  # None: what the data say
    environment_kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def overrides(self) -> list[str]:
        """The `data` section of a configuration, as overrides."""
        found = [f"data.source={self.source}"]
        if self.environment is not None:
            found.append(f"data.environment={self.environment}")
        if self.environment_kwargs:
            found.append(f"data.environment_kwargs={json.dumps(dict(self.environment_kwargs))}")
        return found


_ENVIRONMENTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "halfcheetah": ("HalfCheetah-v5", {}),
    "hopper": ("Hopper-v5", {}),
    # v5's own file differs in friction from that of v2 to v4, which D4RL recorded with.
    "walker2d": ("Walker2d-v5", {"xml_file": "walker2d.xml"}),
    # D4RL's own rules, whatever the data say: each of a task's four subtasks pays once.
    # Minari's datasets name an environment that pays for all finished ones at every step.
    "kitchen-mixed": (
        "FrankaKitchen-v1",
        {"tasks_to_complete": ["microwave", "kettle", "bottom burner", "light switch"]},
    ),
    "kitchen-partial": (
        "FrankaKitchen-v1",
        {"tasks_to_complete": ["microwave", "kettle", "light switch", "slide cabinet"]},
    ),
}
_LEVELS = ("medium-expert", "medium", "medium-replay")
TASKS = (
    *(
        f"{robot}-{level}"
        for level in _LEVELS
        for robot in ("halfcheetah", "hopper", "walker2d")
    ),
    "kitchen-mixed",
    "kitchen-partial",
)
"""In the order of the paper's Table 1."""


def find_tasks(places: Sequence[str], wanted: Sequence[str], mixes: Path) -> list[TaskData]:
    """The tasks that have data, in the paper's order.

    Args:
        places: NAME=SOURCE, SOURCE as `load_trajectories` takes it, or folders that hold
            NAME.hdf5 or a folder NAME. Of medium and expert, medium-expert is mixed, anew when
            either has changed. None: the built-in data.
        wanted: Names to keep; none: all.
        mixes: Folder for mixed data.

    Raises:
        ConfigError: If a name is unknown, or a wanted one has no data.
        DataError: If data to be mixed cannot be read.
        StorageError: If the mix cannot be kept.
    """
    for name in wanted:
        _known(name)
    found: dict[str, str] = {}
    for place in places or [f"{name}=builtin:{name}" for name in BUILTIN]:
        name, equals, source = place.partition("=")
        if equals:
            found[_known(name)] = source
        else:
            found |= _in_folder(Path(place), wanted, mixes)
    missing = [name for name in wanted if name not in found]
    if missing or not found:
        raise ConfigError(
            f"Each task needs recorded data. {', '.join(places) or 'The built-in data'} has "
            f"none of {', '.join(missing or TASKS)}. Name it by --data NAME=SOURCE, or put "
            "NAME.hdf5 into the folder."
        )
    chosen = [name for name in TASKS if name in found and (not wanted or name in wanted)]
    return [_task(name, found[name]) for name in chosen]


def _known(name: str) -> str:
    if name not in TASKS:
        raise ConfigError(f"A task is one of {', '.join(TASKS)}. Got {name}. Correct the name.")
    return name


def _in_folder(folder: Path, wanted: Sequence[str], mixes: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise ConfigError(
            f"--data is NAME=SOURCE or a folder. Got {folder}, which is neither. Correct it."
        )
    found: dict[str, str] = {}
    for name in TASKS:
        source = _source(folder, name)
        if source is None and name.endswith("-expert") and (not wanted or name in wanted):
            source = _mixed(folder, name, mixes)
        if source is not None:
            found[name] = source
    return found


def _source(folder: Path, name: str) -> str | None:
    there = [folder / f"{name}{suffix}" for suffix in _SUFFIXES]
    return next((str(path) for path in there if path.exists()), None)


def _mixed(folder: Path, name: str, mixes: Path) -> str | None:
    """medium-expert, as D4RL makes it: the two one after the other."""
    robot = name.partition("-")[0]
    parts = [_source(folder, f"{robot}-{level}") for level in ("medium", "expert")]
    if None in parts:
        return None
    sources = [Path(str(part)) for part in parts]
    destination = mixes / f"{name}-{_stamp(sources)}"
    if not destination.exists():
        environment, kwargs = _ENVIRONMENTS[robot]
        with tempfile.TemporaryDirectory(dir=_made(mixes)) as begun:
            data_mix(
                [MixPart(source=str(part)) for part in sources],
                Path(begun) / name,
                environment=environment,
                environment_kwargs=kwargs or None,
            )
            _publish(Path(begun) / name, destination)
    return str(destination)


def _stamp(parts: Sequence[Path]) -> str:
    """Another one once a part is another place or file, or was written anew.

    By time and size, since hashing gigabytes at each command would cost more than mixing them
    once too often; the mix's own content decides what is computed from it.
    """
    digest = hashlib.sha256()
    for part in parts:
        files = sorted(part.rglob("*")) if part.is_dir() else [part]
        digest.update(f"{part.resolve()}\n".encode())
        for file in files:
            if file.is_file():
                about = file.stat()
                digest.update(f"{file.name} {about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _publish(mixed: Path, destination: Path) -> None:
    """There whole, or not at all; another command may have been faster with the same."""
    try:
        mixed.rename(destination)
    except OSError as error:
        if not destination.is_dir():
            raise StorageError(
                f"Mixed data must be kept beside results. {destination} cannot be made: "
                f"{error.strerror}. Free the folder, or choose another storage."
            ) from error


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _task(name: str, source: str) -> TaskData:
    # D4RL's files do not name their environment; all other formats do.
    if name not in _ENVIRONMENTS and not source.endswith((".hdf5", ".h5")):
        return TaskData(name=name, source=source, environment=None)
    robot = name.partition("-")[0]
    environment, kwargs = _ENVIRONMENTS.get(name) or _ENVIRONMENTS[robot]
    return TaskData(
        name=name, source=source, environment=environment, environment_kwargs=kwargs
    )
