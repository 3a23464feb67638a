"""The pictures of a sweep's report, drawn as those of a run are (`report/plots.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tskd_ray.report.plots import _INK, GROUP_COLORS, _svg
from tskd_ray.report.sweep.data import SweepRecord, TrialRow, Value
from tskd_ray.report.sweep.measures import (
    Metric,
    is_numeric,
    levels,
    measured,
    pareto,
    value_text,
    varied,
)
from tskd_ray.types import Float64Array

_TRIAL = GROUP_COLORS["recorded"]
_WINNER = GROUP_COLORS["selected"]
_FRONT = GROUP_COLORS["stitched"]
_SCALE = colormaps["cividis"]  # told apart by colour-blind readers, and in print


def short(name: str) -> str:
    """`sampler.guidance` of `generate.sampler.guidance`: enough to know it by."""
    return ".".join(name.split(".")[-2:])


def setting(record: SweepRecord, metric: Metric, name: str, number: int) -> str:
    """The metric of each trial against one setting, with its error."""
    pairs = [pair for pair in measured(record, metric) if name in pair[0].settings]
    values = [trial.settings[name] for trial, _ in pairs]
    x, ticks = _positions(values)

    places = np.array(x) if ticks is None else _beside(x)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        errors = np.array([metric.error(trial) or (np.nan, np.nan) for trial, _ in pairs]).T
        _dots(axes, record, pairs, places, y_error=errors)
        if ticks is not None:
            axes.set_xticks([place for place, _ in ticks], [text for _, text in ticks])
        axes.set_xlabel(name)
        axes.set_ylabel(metric.label)

    return _svg(f"setting{number}", (5.0, 3.0), draw)


def _beside(places: Sequence[float]) -> Float64Array:
    """Trials of one place side by side, in their order, around it."""
    width = float(np.ptp(places)) or 1.0
    seen: dict[float, int] = {}
    moved: list[float] = []
    for place in places:
        count = seen[place] = seen.get(place, -1) + 1
        moved.append(place + 0.012 * width * ((count + 1) // 2) * (-1) ** count)
    return np.array(moved)


def _dots(
    axes: Axes,
    record: SweepRecord,
    pairs: Sequence[tuple[TrialRow, float]],
    x: Float64Array,
    *,
    y_error: Float64Array,
    x_error: Float64Array | None = None,
) -> None:
    """Trials at (x, value) with what reaches below and above, (2, n); the winner stands out."""
    y = np.array([value for _, value in pairs])
    best = np.array([trial.number == record.winner for trial, _ in pairs], dtype=np.bool_)
    for some, color, size, alpha in ((~best, _TRIAL, 3.5, 0.7), (best, _WINNER, 6, 1.0)):
        if some.any():
            axes.errorbar(
                x[some], y[some], yerr=y_error[:, some],
                xerr=None if x_error is None else x_error[:, some],
                fmt="o", ms=size, color=color, lw=0.9, alpha=alpha, zorder=2 + alpha,
            )  # fmt: skip


def _positions(values: list[Value]) -> tuple[list[float], list[tuple[float, str]] | None]:
    """Where values stand, and the ticks to label: None for numbers of which there are many."""
    if is_numeric(values):
        numbers = [float(value or 0) for value in values]
        distinct = sorted(set(numbers))
        if len(distinct) > 8:
            return numbers, None
        # Evenly, since grids such as 0.1, 1, 3 or 20, 50, 200 would crowd at one end.
        return [float(distinct.index(number)) for number in numbers], [
            (float(place), value_text(number)) for place, number in enumerate(distinct)
        ]
    names = sorted({value_text(value) for value in values})
    return [float(names.index(value_text(value))) for value in values], [
        (float(place), name) for place, name in enumerate(names)
    ]


def parallel(record: SweepRecord, metric: Metric) -> str:
    """One line per trial through its settings to its metric; better ones on top, lighter."""
    pairs = measured(record, metric)
    names = varied(record, [trial for trial, _ in pairs])
    values = np.array([value for _, value in pairs])
    columns: list[list[float]] = []
    marks: list[list[tuple[float, str]]] = []
    for name in names:
        x, ticks = _positions([trial.settings.get(name) for trial, _ in pairs])
        low, high = min(x), max(x)
        if ticks is None:
            ticks = [(low, f"{low:.4g}"), (high, f"{high:.4g}")]
        columns.append([_scaled(place, low, high) for place in x])
        marks.append([(_scaled(place, low, high), text) for place, text in ticks])
    low, high = float(values.min()), float(values.max())
    columns.append([_scaled(float(value), low, high) for value in values])
    marks.append([(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")])

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        good = columns[-1] if metric.direction == "maximize" else [1 - y for y in columns[-1]]
        for row in sorted(range(len(pairs)), key=lambda row: good[row]):
            best = pairs[row][0].number == record.winner
            # Not to the ends of the scale, which a dark or a light page would swallow.
            color = _WINNER if best else _SCALE(0.2 + 0.7 * good[row])
            heights = [column[row] for column in columns]
            axes.plot(heights, color=color, lw=2.4 if best else 1.0, alpha=1 if best else 0.75)
        for place, ticks in enumerate(marks):
            axes.plot([place, place], [0, 1], color=_INK, lw=0.8)
            for height, text in ticks:
                axes.annotate(
                    text, (place, height), xytext=(4, 0), textcoords="offset points",
                    va="center", fontsize=8,
                )  # fmt: skip
        # Long names stand on two heights, or they would run into each other.
        labels = [*(short(name) for name in names), metric.label.partition(" (")[0]]
        for place, label in enumerate(labels):
            drop = -10 if place % 2 == 0 else -23
            axes.annotate(
                label, (place, 0), xytext=(0, drop), textcoords="offset points",
                ha="center", va="top", fontsize=8.5, annotation_clip=False,
            )  # fmt: skip
        axes.set_xlim(-0.3, len(labels) - 0.5)
        axes.set_ylim(-0.14, 1.05)
        axes.set_axis_off()

    return _svg("parallel", (max(5.0, 1.0 + 0.8 * len(columns)), 3.8), draw)


def _scaled(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def heat(record: SweepRecord, metric: Metric, names: tuple[str, str]) -> str:
    """The mean metric over trials by two settings; below it, over how many."""
    pairs = measured(record, metric)
    x, x_names = levels([trial.settings.get(names[0]) for trial, _ in pairs])
    y, y_names = levels([trial.settings.get(names[1]) for trial, _ in pairs])
    total, count = (
        np.zeros((len(y_names), len(x_names))),
        np.zeros((len(y_names), len(x_names))),
    )
    np.add.at(total, (y, x), [value for _, value in pairs])
    np.add.at(count, (y, x), 1)
    mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        low, high = np.nanmin(mean), np.nanmax(mean)
        axes.pcolormesh(mean, cmap=_SCALE, vmin=low, vmax=high, edgecolors="none")
        for row, column in zip(*np.nonzero(count), strict=True):
            light = mean[row, column] > (low + high) / 2
            axes.annotate(
                f"{mean[row, column]:.1f}\n{int(count[row, column])} ×",
                (column + 0.5, row + 0.5), ha="center", va="center", fontsize=8.5,
                color="#000000" if light else "#ffffff",
            )  # fmt: skip
        axes.set_xticks(np.arange(len(x_names)) + 0.5, x_names)
        axes.set_yticks(np.arange(len(y_names)) + 0.5, y_names)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.set_xlabel(names[0])
        axes.set_ylabel(names[1])

    return _svg("heat", (5.0, 1.0 + 0.5 * max(len(y_names), 3)), draw)


def shares(found: Mapping[str, float]) -> str:
    """Importance as bars."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for place, share in enumerate(found.values()):
            axes.barh(place, share, height=0.6, color=_TRIAL, alpha=0.85)
            axes.annotate(
                f"{share:.0%}", (share, place), xytext=(4, 0), textcoords="offset points",
                va="center",
            )  # fmt: skip
        axes.set_yticks(range(len(found)), [short(name) for name in found])
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.set_xticks([])
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 1.2 * max(found.values()))

    return _svg("importance", (5.0, 0.4 + 0.36 * len(found)), draw)


def costs(record: SweepRecord) -> str:
    """What each trial added to the sweep, and what it would have cost on its own."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        numbers = [trial.number for trial in record.trials]
        alone = np.array([trial.full_cpu_seconds for trial in record.trials]) / 60
        added = np.array([trial.marginal_cpu_seconds for trial in record.trials]) / 60
        axes.bar(numbers, alone, width=0.8, color=_TRIAL, alpha=0.3, label="on its own")
        axes.bar(numbers, added, width=0.8, color=_FRONT, label="added to the sweep")
        if record.single_run_cpu_seconds:
            single = record.single_run_cpu_seconds / 60
            axes.axhline(
                single, color=_INK, lw=1, ls=(0, (3, 2)), label="one run, base settings"
            )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("trial")
        axes.set_ylabel("CPU minutes")
        figure.legend(loc="outside lower center", ncols=2)

    return _svg("trialcosts", (5.0, 3.2), draw)


def front(record: SweepRecord, metric: Metric) -> str:
    """The metric against what the setting costs on its own; the front is what none beats."""
    pairs = measured(record, metric)
    points = [(trial.full_cpu_seconds / 60, value) for trial, value in pairs]
    chosen = pareto(points, metric.direction)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        none = np.full((2, len(pairs)), np.nan)
        _dots(axes, record, pairs, np.array([cost for cost, _ in points]), y_error=none)
        x, y = np.array([points[index] for index in chosen]).T
        axes.step(x, y, where="post", color=_FRONT, lw=1.6, zorder=1)
        axes.scatter(x, y, s=44, facecolors="none", edgecolors=_FRONT, linewidths=1.5)
        for index in chosen:
            axes.annotate(
                f"{pairs[index][0].number}", points[index], xytext=(5, 5),
                textcoords="offset points", fontsize=8.5,
            )  # fmt: skip
        axes.set_xlabel("CPU minutes of a run with these settings, alone")
        axes.set_ylabel(metric.label)

    return _svg("front", (5.0, 3.4), draw)


def estimates(record: SweepRecord, score_label: str) -> str:
    """The offline estimate, with its interval, against the score in the environment."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        both = [
            (trial, trial.score, trial.offline)
            for trial in record.trials
            if trial.offline is not None and trial.score is not None
        ]
        x = np.array([offline for _, _, offline in both])
        ends = [(trial.offline_low, trial.offline_high) for trial, _, _ in both]
        low, high = np.array(ends, dtype=np.float64).T  # NaN where there is none
        spread = np.array([trial.score_error for trial, _, _ in both], dtype=np.float64)
        _dots(
            axes, record, [(trial, score) for trial, score, _ in both], x,
            y_error=np.stack([spread, spread]),
            x_error=np.maximum(np.stack([x - low, high - x]), 0.0),
        )  # fmt: skip
        axes.set_xlabel("offline: estimated discounted return")
        axes.set_ylabel(f"{score_label} in the environment")

    return _svg("estimates", (5.0, 3.4), draw)
