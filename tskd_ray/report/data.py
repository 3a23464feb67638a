"""What a run's folder tells about the run: three JSON files, and all that the report reads.

    run.json      `RunRecord`: what was asked, with what, where the time went
    metrics.json  `Metrics`: scores, counts, vital signs; the numbers worth comparing
    plots.json    `PlotData`: the arrays behind the report's pictures

Each file is the JSON of one dataclass below and can be read without this package. Not-a-number
is written as the string "NaN", so that the files stay valid JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, with_config

from tskd_ray.errors import StorageError
from tskd_ray.report.agreement import Agreement
from tskd_ray.report.documents import document_adapter, read_document, write_whole

Group = Literal["recorded", "generated", "stitched", "selected"]
_strings_for_nan = with_config(ConfigDict(ser_json_inf_nan="strings"))


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What one stage took in this run."""

    name: str
    wall_seconds: float
    cpu_seconds: float  # of all its processes
    rate: float | None = None  # of what its progress counts, such as training steps; 1/s
    flop_per_second: float | None = None  # of networks in training
    cached: bool = False  # found finished; the seconds are those of the run that computed it
    key: str = ""  # of its artifact


@_strings_for_nan
@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """run.json: what ran."""

    name: str
    created: str  # ISO 8601, UTC
    source: str  # `data.source`
    environment: str | None  # Gymnasium id
    rollout: Literal["model", "dynamics", "environment", "extension", "none"]
    seed: int
    config: Mapping[str, Any]  # all settings, as JSON
    versions: Mapping[str, str]  # of python, tskd_ray and what it stands on
    stages: tuple[StageCost, ...] = ()
    compute: str = ""  # e.g. "local, 2 CPUs" or "Ray, 3 workers"
    wall_seconds: float = 0.0  # of this command, by the clock
    environment_kwargs: Mapping[str, Any] | None = None  # of older versions' runs unknown


@dataclass(frozen=True, kw_only=True)
class Score:
    """Mean over student seeds, each over the same evaluation episodes."""

    mean_return: float
    return_error: float | None = None  # standard error of the mean over seeds
    normalized: float | None = None  # 100 (R - random) / (expert - random)
    normalized_error: float | None = None  # its standard error
    per_seed: tuple[float, ...] = ()  # normalized where known, else returns


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """One row of the results table."""

    name: str  # "TSKD student"
    final: Score  # of the last checkpoint: the claim
    best: Score | None = None  # of the best checkpoint: optimistic, labelled as such
    seeds: int = 0  # 0: not a policy but the dataset itself
    episodes: int | None = None  # that it was trained on
    detail: str = ""  # "96 recorded, 31 stitched episodes"


@dataclass(frozen=True, kw_only=True)
class OfflineRow:
    """A student's discounted return as estimated from recorded data alone: not a score.

    The interval tells what another draw of the same recorded episodes would have changed. The
    method's own error is larger.
    """

    name: str  # as of its `ScoreRow`
    value: float  # mean over student seeds
    low: float  # 90% bootstrap interval over recorded episodes
    high: float
    per_seed: tuple[float, ...] = ()
    best_recorded: float = 0.0  # largest discounted return of a recorded episode
    mean_recorded: float = 0.0
    share_of_best: float | None = None  # value / best_recorded
    discount: float = 0.99
    episodes: int = 0  # recorded ones that it rests on


@dataclass(frozen=True, kw_only=True)
class EpochCounts:
    """What one stitching epoch did (D18, D19, D21)."""

    epoch: int
    transitions: int
    decided: int | None = None  # of them; None in records older than this field, or by walks
    argmax_recall: float | None = None  # of an approximate search, on a sample; None if exact
    radius: float | None  # None: an extension decided the walks, not each transition
    neighbours: Mapping[str, float]  # quantile such as "50%" → states within the radius
    hops_accepted: int
    refused: Mapping[str, int]  # test that said no, such as "value" → transitions
    hops_used: int  # distinct accepted hops that a walk took
    trajectories: int
    replaced: int
    replaced_by_cycle_or_clock: int = 0  # a cyclic walk, or another trajectory's time limit
    ends: Mapping[str, int] = field(default_factory=dict[str, int])  # how walks ended


@dataclass(frozen=True, kw_only=True)
class VitalSign:
    """One measured symptom and the threshold beyond which it warns (D23)."""

    name: str
    value: float | None  # None: could not be measured in this run
    threshold: str = ""  # in words: "below 0.3"
    warns: bool = False
    meaning: str = ""  # what it says, and what to do when it warns


@_strings_for_nan
@dataclass(frozen=True, kw_only=True)
class Metrics:
    """metrics.json: what came out."""

    rollout: str = "none"  # where the generated states came from (D8)
    replan_every: int = 1  # environment steps taken from one plan (D11)
    scores: tuple[ScoreRow, ...] = ()
    offline: tuple[OfflineRow, ...] = ()
    offline_agreement: Agreement | None = None  # with the scores, over students
    epochs: tuple[EpochCounts, ...] = ()
    vital_signs: tuple[VitalSign, ...] = ()
    survivors: Mapping[str, int] = field(default_factory=dict[str, int])  # origin → selected
    warnings: tuple[str, ...] = ()
    extra: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a panel."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    error: tuple[float, ...] = ()  # half width of a band around y; empty: no band


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Curves that share their axes."""

    title: str
    x_label: str = "gradient step"
    y_label: str = "loss"
    log_y: bool = False
    curves: tuple[Curve, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Projection:
    """States on the first two principal axes of the recorded ones, and hops between them."""

    points: tuple[tuple[float, float], ...] = ()
    origins: tuple[int, ...] = ()  # `Origin` of each point
    hops: tuple[tuple[float, float, float, float], ...] = ()  # from x, y to x, y
    explained: tuple[float, float] = (0.0, 0.0)  # share of the variance of each axis


@dataclass(frozen=True, kw_only=True)
class WalkPart:
    """A stretch of a stitched trajectory: consecutive steps of one source episode."""

    episode: int  # id of that recorded or generated episode
    origin: int  # its `Origin`
    first: int  # step of the stitched trajectory that it begins with
    source_step: int  # the same step in the source episode
    steps: int  # with the hop that ends it, if one does


@_strings_for_nan
@dataclass(frozen=True, kw_only=True)
class Walk:
    """One stitched trajectory of L steps, to step through; n of its L + 1 states are kept."""

    rank: int  # by claimed return among the stitched, from 1
    of: int  # how many there are
    before: float | None  # return of the episode that it began as
    parts: tuple[WalkPart, ...]
    hops: tuple[int, ...]  # steps that leave their episode
    steps: tuple[int, ...]  # (n,) step that leaves each kept state; L: the final state
    values: tuple[float, ...]  # (n,) V of the last epoch
    claimed: tuple[float, ...]  # (n,) sum of predicted and recorded rewards until there
    places: tuple[tuple[float, float], ...] = ()  # (n,) on the axes of the projection


@_strings_for_nan
@dataclass(frozen=True, kw_only=True)
class PlotData:
    """plots.json: what to draw."""

    returns: Mapping[Group, tuple[float, ...]] = field(default_factory=dict[Group, Any])
    panels: tuple[Panel, ...] = ()
    projection: Projection | None = None
    walks: tuple[Walk, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """All three files."""

    run: RunRecord
    metrics: Metrics = field(default_factory=Metrics)
    plots: PlotData = field(default_factory=PlotData)


_FILES: dict[str, tuple[str, type[Any]]] = {
    "metrics": ("metrics.json", Metrics),
    "plots": ("plots.json", PlotData),
    "run": ("run.json", RunRecord),  # last: by it a run is known
}


def save_report_data(data: ReportData, folder: Path) -> None:
    """Write metrics.json, plots.json and run.json into `folder`, each whole or not at all."""
    for name, (file, kind) in _FILES.items():
        indent = None if name == "plots" else 2
        text = document_adapter(kind).dump_json(getattr(data, name), indent=indent)
        write_whole(folder / file, text + b"\n")


def load_report_data(folder: Path) -> ReportData:
    """Read the three files of a run's folder; without metrics or plots, those stay empty.

    Raises:
        StorageError: If `folder` holds no run, or a file in it does not read as one.
    """
    found: dict[str, Any] = {}
    for name, (file, kind) in _FILES.items():
        path = folder / file
        if path.is_file():
            found[name] = read_document(path, kind)
    if "run" not in found:
        raise StorageError(
            f"A run's folder holds run.json. Got {str(folder)!r}, which does not. "
            "Give the folder that `tskd run` named."
        )
    return ReportData(**found)
