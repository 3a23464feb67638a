"""One door for every format; what comes through it has been checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

from tskd_ray.data.environments import (
    check_declared,
    environment_spec,
    tell_other_physics,
)
from tskd_ray.data.extensions import DatasetFormat
from tskd_ray.data.hostile import reading
from tskd_ray.data.trajectories import EnvironmentSpec, Trajectories
from tskd_ray.data.validate import validate
from tskd_ray.entry_points import installed, load, nearest
from tskd_ray.errors import DataError

BUILTIN = ("hopper-medium-replay",)
_PREFIX = "builtin:"
_SUFFIXES = (".hdf5", ".h5", ".parquet")


def load_trajectories(
    source: str | Path,
    *,
    environment: str | None = None,
    environment_kwargs: Mapping[str, Any] | None = None,
) -> Trajectories:
    """Load and check a dataset.

    Args:
        source: `builtin:NAME`, a D4RL `.hdf5` file, a Minari folder or id (an id that is not on
            this machine is downloaded by Minari's own client), a Parquet file or folder, or
            `NAME:SOURCE`, which the extension NAME reads.
        environment: Gymnasium id; default: what the dataset says, which may be nothing.
        environment_kwargs: Keyword arguments of `environment`, or of the dataset's own.

    Raises:
        DataError: If there is no such dataset or it breaks a rule of `validate`.
    """
    source = str(source)
    spec = None
    if environment is not None:
        spec = environment_spec(environment, environment_kwargs)
    trajectories = _read(source, spec)
    if spec is None and trajectories.environment is not None:
        check_declared(trajectories.environment.id, source)
    if spec is not None:
        if trajectories.environment is None:  # D4RL's reader knows, and has told
            tell_other_physics(spec, source)
        trajectories = replace(trajectories, environment=spec)
    elif environment_kwargs:
        trajectories = replace(
            trajectories, environment=_with_kwargs(trajectories.environment, environment_kwargs)
        )
    validate(trajectories, path=source)
    return trajectories


def _read(source: str, environment: EnvironmentSpec | None) -> Trajectories:
    if source.startswith(_PREFIX):
        return _read_builtin(source.removeprefix(_PREFIX))
    name, colon, rest = source.partition(":")
    formats = installed("formats") if colon else []
    if name in formats:
        return _read_extension(name, rest)
    path, kind = _look(source)
    if kind == "neither" and (near := nearest(name, formats)):
        raise DataError(
            f"A dataset NAME:SOURCE is read by an extension, {', '.join(formats)}. Got "
            f"{source[:200]!r}{near}. Correct the name."
        )
    if kind == "folder":
        return _read_folder(path, environment)
    if kind == "file":
        if path.suffix == ".parquet":
            from tskd_ray.data.columnar import read_parquet

            return read_parquet(path)
        from tskd_ray.data.d4rl import read_d4rl

        return read_d4rl(path, environment=environment)
    if path.suffix in _SUFFIXES or path.is_absolute() or source.startswith((".", "~")):
        raise DataError(
            f"The dataset must exist. There is no file or folder {source}. Correct the path."
        )
    from tskd_ray.data.minari_io import read_minari_id

    return read_minari_id(source, environment=environment)


def _look(source: str) -> tuple[Path, Literal["folder", "file", "neither"]]:
    try:
        path = Path(source).expanduser()
        return path, "folder" if path.is_dir() else "file" if path.is_file() else "neither"
    except (OSError, RuntimeError, ValueError) as error:
        shown = source if len(source) <= 200 else f"{source[:200]}..."
        raise DataError(
            f"The dataset's name must be one that a file can have. Got {shown!r}: "
            f"{getattr(error, 'strerror', None) or error}. Correct the path."
        ) from error


def _read_folder(path: Path, environment: EnvironmentSpec | None) -> Trajectories:
    if any((path / name).is_file() for name in ("metadata.json", "data/metadata.json")):
        from tskd_ray.data.minari_io import read_minari

        return read_minari(path, environment=environment)
    if any(path.glob("*.parquet")):
        from tskd_ray.data.columnar import read_parquet

        return read_parquet(path)
    held = sorted(entry.name for entry in path.iterdir())[:5]
    raise DataError(
        "A dataset folder holds a Minari dataset (data/metadata.json) or Parquet shards "
        f"(*.parquet). {path} holds {', '.join(held) or 'nothing'}. Name another folder."
    )


def _read_extension(name: str, source: str) -> Trajectories:
    read = load("formats", name, DatasetFormat, {}).read
    with reading(f"A dataset {name}:SOURCE is read by that extension.", source, "Correct it."):
        trajectories = read(source)
        if not isinstance(trajectories, Trajectories):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"the extension returned {type(trajectories).__name__}")
    return trajectories


def _read_builtin(name: str) -> Trajectories:
    from tskd_ray.data.columnar import read_parquet

    if name not in BUILTIN:
        nearest = get_close_matches(name, BUILTIN, n=1, cutoff=0.0)[0]
        raise DataError(
            f"Built-in datasets are {', '.join(BUILTIN)}. Got {name!r}. Did you mean "
            f"{_PREFIX}{nearest}?"
        )
    with as_file(files("tskd_ray.data").joinpath("builtin", f"{name}.parquet")) as path:
        return read_parquet(path)


def _with_kwargs(
    environment: EnvironmentSpec | None, kwargs: Mapping[str, Any]
) -> EnvironmentSpec:
    if environment is None:
        raise DataError(
            "environment_kwargs need an environment. The dataset names none. Give its id too."
        )
    return environment_spec(environment.id, kwargs)
