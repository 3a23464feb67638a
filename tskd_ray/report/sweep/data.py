"""A sweep's folder: what was searched, what each trial gave, what it cost.

    sweep.json      `SweepRecord`: everything, and all that the report reads
    trials.parquet  one row per trial, one column per setting
    trials.csv      the same

The files can be read without this package. Not-a-number is the string "NaN" in the JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, with_config

from tskd_ray.errors import StorageError
from tskd_ray.report.documents import document_adapter, read_document

Value = bool | int | float | str | None
"""Of one setting; None where a trial does not have it, as with a conditional setting."""
Direction = Literal["maximize", "minimize"]
State = Literal["done", "stopped", "failed"]

_strings_for_nan = with_config(ConfigDict(ser_json_inf_nan="strings"))


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One trial.

    `score` and `offline` answer the same question by different means, in different units: the
    one by acting in the environment, the other from the recorded data alone. They are never
    drawn on one axis.
    """

    number: int
    settings: Mapping[str, Value]  # by dotted name: "generate.sampler.guidance"
    state: State
    score: float | None = None  # from environment rollouts: mean over student seeds
    score_error: float | None = None  # standard error of the mean over seeds
    offline: float | None = None  # estimated discounted return, from recorded data alone
    offline_low: float | None = None  # its bootstrap interval
    offline_high: float | None = None
    marginal_cpu_seconds: float = 0.0  # of the artifacts that this trial was the first to need
    full_cpu_seconds: float = 0.0  # of all artifacts it used: what it costs on its own
    wall_seconds: float = 0.0
    keys: Mapping[str, str] = field(default_factory=dict[str, str])  # stage → artifact


@dataclass(frozen=True, kw_only=True)
class FinalRow:
    """The best setting, trained again with fresh seeds and evaluated on fresh episodes."""

    settings: Mapping[str, Value]
    run_folder: str
    seeds: int
    episodes: int
    score: float | None = None
    score_error: float | None = None
    offline: float | None = None
    offline_low: float | None = None
    offline_high: float | None = None
    sweep_score: float | None = None  # of the same setting in the sweep: chosen, so optimistic


@_strings_for_nan
@dataclass(frozen=True, kw_only=True)
class SweepRecord:
    """sweep.json."""

    name: str
    objectives: tuple[tuple[str, Direction], ...]  # metric, direction; the first ranks
    rollout: str  # where generated states came from (D8)
    environment: str | None = None  # Gymnasium id
    environment_kwargs: Mapping[str, Any] | None = None  # of older versions' sweeps unknown
    base: Mapping[str, Any] = field(default_factory=dict[str, Any])  # all settings, as JSON
    space: Mapping[str, Any] = field(default_factory=dict[str, Any])  # as it was written
    trials: tuple[TrialRow, ...] = ()
    winner: int | None = None  # number of a trial
    final: FinalRow | None = None
    cpu_seconds: float = 0.0  # of the sweep, the final job not included
    wall_seconds: float = 0.0
    single_run_cpu_seconds: float = 0.0  # of one run of the base settings, on its own
    artifacts: Mapping[str, tuple[int, int]] = field(
        default_factory=dict[str, tuple[int, int]]
    )  # stage → (distinct artifacts, times used)

    @property
    def names(self) -> tuple[str, ...]:
        """The settings that trials differ in, in the order of the space."""
        used = dict.fromkeys(name for trial in self.trials for name in trial.settings)
        listed = [name for name in self.space if name in used]
        return tuple(dict.fromkeys([*listed, *used]))


def write_sweep(record: SweepRecord, folder: Path) -> Path:
    """Write sweep.json, trials.parquet and trials.csv, each as a whole; the path of the first.

    Raises:
        StorageError: If `folder` cannot be written.
    """
    import pyarrow.csv as csv
    import pyarrow.parquet as parquet

    table = trials_table(record)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table, folder / ".trials.parquet")
        csv.write_csv(table, folder / ".trials.csv")
        (folder / ".sweep.json").write_bytes(
            document_adapter(SweepRecord).dump_json(record, indent=1) + b"\n"
        )
        for name in ("trials.parquet", "trials.csv", "sweep.json"):
            (folder / f".{name}").replace(folder / name)
    except OSError as error:
        raise StorageError(
            f"A sweep's folder must be writable. Got {str(folder)!r}: {error.strerror}. Choose "
            "another with storage=FOLDER, or free it."
        ) from None
    return folder / "sweep.json"


def read_sweep(folder: Path) -> SweepRecord:
    """Read sweep.json.

    Raises:
        StorageError: If `folder` holds no sweep, or one that does not read as such.
    """
    path = folder / "sweep.json"
    if not path.is_file():
        raise StorageError(
            f"A sweep's folder holds sweep.json. Got {str(folder)!r}, which does not. Give the "
            "folder that `tskd sweep` named."
        )
    return read_document(path, SweepRecord, writer="tskd sweep")


def trials_table(record: SweepRecord) -> Any:
    """An Arrow table, one row per trial: number, state, settings, results, costs, keys."""
    import pyarrow as pa

    columns: dict[str, Sequence[Value]] = {
        "number": [trial.number for trial in record.trials],
        "state": [trial.state for trial in record.trials],
    }
    for name in record.names:
        columns[name] = _uniform([trial.settings.get(name) for trial in record.trials])
    for name in (
        "score", "score_error", "offline", "offline_low", "offline_high",
        "marginal_cpu_seconds", "full_cpu_seconds", "wall_seconds",
    ):  # fmt: skip
        values = [getattr(trial, name) for trial in record.trials]
        columns[name] = [None if value is None else float(value) for value in values]
    for stage in dict.fromkeys(stage for trial in record.trials for stage in trial.keys):
        columns[f"key:{stage}"] = [trial.keys.get(stage) for trial in record.trials]
    return pa.table({name: pa.array(values) for name, values in columns.items()})


def _uniform(values: Sequence[Value]) -> list[Value]:
    """Values of one type: whole and other numbers as numbers, other mixtures as text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1:
        return list(values)
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(value) for value in values]
