"""What `tskd data info | import | export | mix` do; the command line prints their results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl

import numpy as np

from tskd_ray.data.environments import normalized_score, reference_scores
from tskd_ray.data.load import load_trajectories
from tskd_ray.data.trajectories import EnvironmentSpec, Origin, Trajectories
from tskd_ray.errors import ConfigError, DataError, StorageError, reason
from tskd_ray.types import IntArray

Format = Literal["parquet", "minari", "d4rl", "rllib", "d3rlpy"]
FORMATS: tuple[Format, ...] = ("parquet", "minari", "d4rl", "rllib", "d3rlpy")
ONE_FILE = ("d4rl", "d3rlpy")
"""Formats of one file; the others are folders."""

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, kw_only=True)
class MixPart:
    """One source of a mix, and which of its episodes to take: filtered first, then thinned."""

    source: str
    fraction: float = 1.0  # of the episodes that pass, evenly spaced
    min_return: float = -np.inf
    max_return: float = np.inf
    min_steps: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise DataError(
                f"fraction must lie in (0, 1]. Got {self.fraction} for {self.source}. Correct "
                "it."
            )


def parse_mix_part(text: str) -> MixPart:
    """Read `SOURCE?fraction=0.5&min_return=1000`; the part after `?` is optional.

    Raises:
        DataError: If a key is unknown or a value is no number.
    """
    source, _, query = text.partition("?")
    readers: dict[str, Callable[[str], float]] = {
        "fraction": float,
        "min_return": float,
        "max_return": float,
        "min_steps": int,
    }
    options: dict[str, Any] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in readers:
            raise DataError(
                f"A source of a mix takes {', '.join(readers)}. Got {key!r} in {text!r}. "
                "Correct the key."
            )
        try:
            options[key] = readers[key](value)
        except ValueError as error:
            raise DataError(
                f"{key} of a mix is a number. Got {value!r} in {text!r}. Correct the value."
            ) from error
    return MixPart(source=source, **options)


def data_info(
    source: str | Path,
    *,
    environment: str | None = None,
    environment_kwargs: Mapping[str, Any] | None = None,
    scores: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Statistics of a dataset, ready for JSON.

    Args:
        source: As `load_trajectories` takes it.
        environment: Overrides what the dataset says.
        environment_kwargs: Likewise.
        scores: (random, expert) returns; default: the table by environment.

    Raises:
        DataError: If the dataset breaks a rule, or the scores are one and the same.
    """
    if scores is not None and scores[0] == scores[1]:
        raise DataError(
            "Reference scores are two different returns, of a random and an expert policy. Got "
            f"{scores[0]:g} and {scores[1]:g}. Correct them."
        )
    trajectories = load_trajectories(
        source, environment=environment, environment_kwargs=environment_kwargs
    )
    return {"source": str(source), **describe(trajectories, scores=scores)}


def describe(
    trajectories: Trajectories, *, scores: tuple[float, float] | None = None
) -> dict[str, Any]:
    """Statistics of trajectories, ready for JSON; `normalized_score` is of the mean return."""
    spec = trajectories.environment
    if scores is None and spec is not None:
        scores = reference_scores(spec.id, spec.kwargs)
    terminated, truncated = trajectories.terminated, trajectories.truncated
    returns = _summary(trajectories.returns)
    score = None
    if scores is not None:
        score = float(normalized_score(np.array(returns["mean"]), scores))
    return {
        "environment": None if spec is None else _environment(spec),
        "episodes": trajectories.n_episodes,
        "steps": trajectories.n_steps,
        "observation_dim": trajectories.observation_dim,
        "action_dim": trajectories.action_dim,
        "dtype": str(trajectories.observations.dtype),
        "returns": returns,
        "lengths": _summary(trajectories.lengths),
        "terminated": int(terminated.sum()),
        "truncated": int((truncated & ~terminated).sum()),
        "unfinished": int((~terminated & ~truncated).sum()),
        "episodes_by_origin": _by_origin(trajectories.episode_origin),
        "steps_by_origin": _by_origin(trajectories.origin),
        "reference_scores": None if scores is None else [float(s) for s in scores],
        "normalized_score": score,
    }


def data_convert(
    source: str | Path,
    destination: str | Path,
    *,
    to: Format = "parquet",
    environment: str | None = None,
    environment_kwargs: Mapping[str, Any] | None = None,
    dataset_id: str | None = None,
) -> Path:
    """`tskd data import` (to Parquet) and `export` (to any format): load, check, write.

    Args:
        source: As `load_trajectories` takes it.
        destination: A folder; for `ONE_FILE` a file. Must not hold a dataset yet.
        to: Format to write.
        environment: Overrides what the dataset says.
        environment_kwargs: Likewise.
        dataset_id: Of a Minari dataset; default: the destination's name with `-v0`.

    Returns:
        What was written.
    """
    trajectories = load_trajectories(
        source, environment=environment, environment_kwargs=environment_kwargs
    )
    return write_dataset(trajectories, destination, to=to, dataset_id=dataset_id)


def data_upload(
    source: str | Path,
    destination: str | Path,
    *,
    dataset_id: str | None,
    to: Format = "minari",
    environment: str | None = None,
    environment_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """`tskd data export --upload`: write a Minari dataset, then have Minari upload it.

    Args:
        source: As `load_trajectories` takes it.
        destination: A folder that holds no dataset yet; it stays.
        dataset_id: Under which it is uploaded.
        to: Must be "minari".
        environment: Overrides what the dataset says.
        environment_kwargs: Likewise.

    Returns:
        The path, the id and the remote.

    Raises:
        ConfigError: If the format or id is missing, or the environment has no credential.
    """
    from tskd_ray.data.minari_upload import require_token, upload_minari

    if to != "minari" or dataset_id is None:
        raise ConfigError(
            "--upload goes with --to minari and --dataset-id, under which others will find it. "
            f"Got --to {to}{'' if dataset_id else ' and no id'}. Give both."
        )
    require_token()
    path = data_convert(
        source,
        destination,
        to=to,
        environment=environment,
        environment_kwargs=environment_kwargs,
        dataset_id=dataset_id,
    )
    remote = upload_minari(path, dataset_id)
    return {"path": str(path), "dataset_id": dataset_id, "remote": remote}


def data_mix(
    parts: Sequence[MixPart],
    destination: str | Path,
    *,
    to: Format = "parquet",
    environment: str | None = None,
    environment_kwargs: Mapping[str, Any] | None = None,
    dataset_id: str | None = None,
) -> dict[str, Any]:
    """Join datasets, such as medium and expert, each filtered and thinned.

    Episode ids of each source are shifted past those before; `<destination>/mix.json` (for
    `ONE_FILE` `<destination>.mix.json`) says which ids came from which source.

    Returns:
        What `mix.json` holds, and the destination.

    Raises:
        DataError: If sources differ in environment or widths, or one keeps no episode.
    """
    if not parts:
        raise DataError("A mix needs at least one source. Got none.")
    joined: list[Trajectories] = []
    rows: list[dict[str, Any]] = []
    shift = 0
    for part in parts:
        whole = load_trajectories(
            part.source, environment=environment, environment_kwargs=environment_kwargs
        )
        taken = whole.take(_chosen(whole, part))
        joined.append(_shifted(taken, shift))
        rows.append(
            _finite(asdict(part))
            | {
                "first_id": int(joined[-1].episode_id.min()),
                "last_id": int(joined[-1].episode_id.max()),
                "id_shift": shift,
                "episodes": taken.n_episodes,
                "episodes_in_source": whole.n_episodes,
                "steps": taken.n_steps,
                "mean_return": float(taken.returns.mean()),
            }
        )
        shift += 1 + int(max(whole.episode_id.max(), whole.source_episode.max()))
    _check_same_environment(joined, parts)
    mixed = Trajectories.concatenate(joined)
    path = write_dataset(mixed, destination, to=to, dataset_id=dataset_id)
    note = {"episodes": mixed.n_episodes, "steps": mixed.n_steps, "sources": rows}
    destination = Path(destination)
    beside = destination.with_name(f"{destination.name}.mix.json")
    (beside if to in ONE_FILE else destination / "mix.json").write_text(
        json.dumps(note, indent=1) + "\n", encoding="utf-8"
    )
    return {"path": str(path), **note}


def write_dataset(
    trajectories: Trajectories,
    destination: str | Path,
    *,
    to: Format,
    dataset_id: str | None = None,
) -> Path:
    """Write one of `FORMATS`; returns the folder or file.

    Raises:
        DataError: If the format is unknown.
        StorageError: If the destination holds a dataset or cannot be written.
    """
    destination = Path(destination).expanduser()
    if to == "parquet":
        from tskd_ray.data.columnar import write_parquet

        write_parquet(trajectories, destination)
    elif to == "minari":
        from tskd_ray.data.minari_io import write_minari

        dataset_id = dataset_id or f"{destination.name}-v0"
        write_minari(trajectories, destination, dataset_id=dataset_id)
    elif to == "rllib":
        from tskd_ray.data.rllib_io import write_rllib

        write_rllib(trajectories, destination)
    elif to in ONE_FILE:
        _write_file(trajectories, destination, to)
    else:
        raise DataError(
            f"A dataset is written as {', '.join(FORMATS)}. Got {to!r}. Choose one."
        )
    return destination


def _write_file(trajectories: Trajectories, destination: Path, to: Format) -> None:
    from tskd_ray.data.d3rlpy_io import write_d3rlpy
    from tskd_ray.data.d4rl import write_d4rl

    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"The export needs a folder that can be written. {destination.parent} cannot: "
            f"{reason(error)} Choose another."
        ) from error
    (write_d4rl if to == "d4rl" else write_d3rlpy)(trajectories, destination)


def _chosen(trajectories: Trajectories, part: MixPart) -> IntArray:
    """Episodes that pass the filters, of which `fraction` evenly spaced."""
    returns = trajectories.returns
    passing = np.flatnonzero(
        (returns >= part.min_return)
        & (returns <= part.max_return)
        & (trajectories.lengths >= part.min_steps)
    )
    if not len(passing):
        raise DataError(
            f"Every source of a mix must keep an episode. Of {part.source} none passes: "
            f"returns are {returns.min():.6g} to {returns.max():.6g}, lengths up to "
            f"{trajectories.lengths.max()}. Widen the filter."
        )
    count = max(1, round(part.fraction * len(passing)))
    return passing[np.arange(count) * len(passing) // count]


def _shifted(trajectories: Trajectories, shift: int) -> Trajectories:
    """Ids moved by `shift`, in episodes and in provenance alike."""
    return replace(
        trajectories,
        episode_id=trajectories.episode_id + shift,
        source_episode=trajectories.source_episode + shift,
    )


def _check_same_environment(joined: Sequence[Trajectories], parts: Sequence[MixPart]) -> None:
    named = [
        None if t.environment is None else (t.environment.id, dict(t.environment.kwargs))
        for t in joined
    ]
    if any(name != named[0] for name in named):
        listed = ", ".join(
            f"{part.source}: {'none' if name is None else name[0]}"
            f"{f' with {name[1]}' if name and name[1] else ''}"
            for part, name in zip(parts, named, strict=True)
        )
        raise DataError(
            f"All sources of a mix come from one environment. Got {listed}. Name the "
            "environment for all of them if they do."
        )


def _environment(spec: EnvironmentSpec) -> dict[str, Any]:
    return {
        "id": spec.id,
        "kwargs": dict(spec.kwargs),
        "action_low": list(spec.action_low),
        "action_high": list(spec.action_high),
        "max_episode_steps": spec.max_episode_steps,
    }


def _summary(values: np.ndarray) -> dict[str, Any]:
    quantiles = np.quantile(values, _QUANTILES)
    return {
        "mean": float(np.mean(values)),
        "sd": float(np.std(values)),
        "min": float(np.min(values)),
        "max": float(np.max(values)),
        "quantiles": {str(q): float(v) for q, v in zip(_QUANTILES, quantiles, strict=True)},
    }


def _by_origin(codes: np.ndarray) -> dict[str, int]:
    counts = {origin.name.lower(): int((codes == origin).sum()) for origin in Origin}
    return {name: count for name, count in counts.items() if count}


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: bounds that bind nothing are left out."""
    return {k: v for k, v in values.items() if isinstance(v, str) or np.isfinite(v)}
