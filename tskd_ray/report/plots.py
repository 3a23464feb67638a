"""The report's pictures: each a function from data to one SVG that takes the page's colours.

Drawn by Matplotlib without its global state. Text stays text in the page's own font; colours
are the page's, so that a picture is readable on a light and on a dark page. Sized for a phone's
width: on a desktop the pictures stand side by side.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from tskd_ray.console import duration
from tskd_ray.report.data import (
    EpochCounts,
    Group,
    Panel,
    Projection,
    ScoreRow,
    StageCost,
)
from tskd_ray.report.tables import number_text
from tskd_ray.types import Float64Array

# Paul Tol's palettes: told apart by colour-blind readers, on white and on near-black.
GROUP_COLORS: Mapping[Group, str] = {
    "recorded": "#4477aa",
    "generated": "#ee7733",
    "stitched": "#009988",
    "selected": "#cc3d7e",
}
_CURVES = ("#4477aa", "#ee7733", "#009988", "#9467bd", "#ccbb44", "#66ccee", "#999933")
_DECISIONS = ("#009988", "#4477aa", "#89aed1", "#c3cdd8", "#ccbb44", "#999933")
_ORIGINS: tuple[Group, ...] = ("recorded", "generated", "stitched")  # by `Origin`
_INK = "#010203"  # stands for the page's text colour until the SVG is written
_FAINT = "#010204"  # the same, fainter: axes
_LINE = "#010205"  # fainter still: grid lines

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "text.parse_math": False,
    "lines.linewidth": 1.6,
}


def _svg(name: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> str:
    """One SVG element; `size` in inches of 72 units."""
    with rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0.0)
        draw(figure)
        for axes in figure.axes:
            axes.patch.set_alpha(0.0)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", dpi=160, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg ([^>]*?)(width|height)="[^"]*"', r"<svg \1", text)
    text = re.sub(r'<svg ([^>]*?)(width|height)="[^"]*"', r"<svg \1", text)
    # Several pictures share one page, so their ids must not clash.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font: ([^;\"]*?)'[^;\"]*", r"font: \1inherit", text)
    for group, color in GROUP_COLORS.items():  # each theme of the page has its own shade
        text = text.replace(color, f"var(--{group})")
    text = text.replace(_FAINT, "var(--faint)").replace(_LINE, "var(--line)")
    return text.replace(_INK, "currentColor")


# -- scores ----------------------------------------------------------------------------


def scores(rows: Sequence[ScoreRow]) -> str:
    """Final scores: mean ± one standard error, a dot for each seed, a ring for the best."""
    normalized = any(row.final.normalized is not None for row in rows)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for place, row in enumerate(reversed(rows)):
            color = GROUP_COLORS["selected" if _is_student(row.name) else "recorded"]
            _score(axes, place, row, color, normalized=normalized)
        axes.set_yticks(range(len(rows)), [row.name for row in reversed(rows)])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("normalized score" if normalized else "return")
        axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))

    return _svg("scores", (5.0, 0.75 + 0.42 * len(rows)), draw)


def _score(axes: Axes, place: int, row: ScoreRow, color: str, *, normalized: bool) -> None:
    mean, error = row.final.mean_return, row.final.return_error
    best = row.best.mean_return if row.best else None
    if normalized:
        mean, error = row.final.normalized, row.final.normalized_error
        best = row.best.normalized if row.best else None
    if mean is None:
        return
    seeds = np.asarray(row.final.per_seed)
    spread = np.linspace(-0.12, 0.12, len(seeds)) if len(seeds) > 1 else np.zeros(len(seeds))
    axes.barh(place, mean, height=0.56, color=color, alpha=0.28)
    axes.scatter(seeds, place + spread, s=9, color=color, linewidths=0, alpha=0.8)
    axes.errorbar(mean, place, xerr=error, fmt="|", ms=13, mew=2, color=_INK, capsize=3, lw=1.2)
    if best is not None:
        axes.scatter(best, place, s=26, facecolors="none", edgecolors=_INK, linewidths=0.9)


def _is_student(name: str) -> bool:
    return name.lower().startswith("tskd")


# -- returns and states ----------------------------------------------------------------


def returns(groups: Mapping[Group, Sequence[float]]) -> str:
    """Return distributions, one row for each group, on one axis."""
    finite: dict[Group, Float64Array] = {
        name: values for name in GROUP_COLORS if len(values := _finite(groups.get(name, ())))
    }
    everything = np.concatenate([*finite.values(), np.zeros(0)])
    low, high = (everything.min(), everything.max()) if len(everything) else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1, 49)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(finite) or 1, 1, sharex=True, squeeze=False)[:, 0]
        for axes, (name, values) in zip(panels, finite.items(), strict=False):
            color = GROUP_COLORS[name]
            axes.hist(values, bins=edges, color=color, alpha=0.75, linewidth=0)
            axes.axvline(values.mean(), color=_INK, lw=1, ls=(0, (3, 2)))
            axes.set_title(
                f"{name} · {len(values):,} · mean {values.mean():,.0f}",
                loc="left", color=color, pad=2, fontweight="bold",
            )  # fmt: skip
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.grid(visible=False, axis="y")
        panels[-1].set_xlabel("return of an episode (dashed: mean; heights not comparable)")

    return _svg("returns", (5.0, 0.6 + 0.78 * max(len(finite), 1)), draw)


def projection(data: Projection) -> str:
    """States by origin as a rasterised cloud, stitched hops as arrows above it."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        points, origins = np.asarray(data.points), np.asarray(data.origins)
        colors = np.array([GROUP_COLORS[_ORIGINS[origin]] for origin in origins])
        axes.scatter(*points.T, s=4, c=colors, alpha=0.55, linewidths=0, rasterized=True)
        hops = np.asarray(data.hops).reshape(-1, 2, 2)
        if len(hops):
            axes.add_collection(
                LineCollection(list(hops), colors=_INK, linewidths=0.7, alpha=0.6)
            )
            axes.scatter(*hops[:, 1].T, s=4, color=_INK, linewidths=0)
        for origin in np.unique(origins):
            name = _ORIGINS[origin]
            axes.scatter([], [], s=22, color=GROUP_COLORS[name], label=f"{name} states")
        if len(hops):
            axes.plot([], [], color=_INK, lw=1, marker="o", ms=3, label="hops (dot: arrival)")
        _frame_on(axes, points)
        figure.legend(loc="outside lower center", ncols=2)
        axes.set_xlabel(f"first principal axis ({data.explained[0]:.0%} of variance)")
        axes.set_ylabel(f"second ({data.explained[1]:.0%})")

    return _svg("projection", (5.0, 4.4), draw)


def _frame_on(axes: Axes, points: Float64Array) -> None:
    """Limits that a few far points do not stretch."""
    low, high = np.quantile(points, [0.002, 0.998], axis=0)
    margin = 0.06 * np.maximum(high - low, 1e-6)
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes.set_ylim(low[1] - margin[1], high[1] + margin[1])


# -- training, stitching, cost ---------------------------------------------------------


def panel(data: Panel, name: str) -> str:
    """Learning curves that share their axes."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for color, curve in zip(_CURVES * 9, data.curves, strict=False):
            if _is_student(curve.name):
                color = GROUP_COLORS["selected"]
            x, y = np.asarray(curve.x), np.asarray(curve.y)
            marker = "o" if len(x) < 12 else None
            axes.plot(x, y, color=color, label=curve.name, marker=marker, ms=3)
            if curve.error:
                half = np.asarray(curve.error)
                axes.fill_between(x, y - half, y + half, color=color, alpha=0.18, lw=0)
        if data.log_y:
            axes.set_yscale("log")
            low, high = axes.get_ylim()
            axes.yaxis.set_major_locator(
                LogLocator(subs=(1, 2, 3, 5, 7) if high < 20 * low else (1,))
            )
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlabel(data.x_label)
        axes.set_ylabel(data.y_label)
        figure.legend(loc="outside lower center", ncols=2)

    rows = (len(data.curves) + 1) // 2
    return _svg(name, (5.0, 2.7 + 0.2 * rows), draw)


def decisions(epochs: Sequence[EpochCounts]) -> str:
    """What became of each transition, one bar for each epoch, in shares."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        names = list(dict.fromkeys(name for epoch in epochs for name in epoch.refused))
        left = np.zeros(len(epochs))
        labels = [f"epoch {epoch.epoch}" for epoch in epochs]
        total = np.array([max(epoch.decided or epoch.transitions, 1) for epoch in epochs])
        shares = {"accepted": np.array([epoch.hops_accepted for epoch in epochs]) / total}
        for name in names:
            shares[f"refused: {name}"] = (
                np.array([epoch.refused.get(name, 0) for epoch in epochs]) / total
            )
        for color, (name, share) in zip(_DECISIONS * 3, shares.items(), strict=False):
            axes.barh(labels, share, left=left, height=0.6, color=color, label=name)
            left = left + share
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("share of the decided transitions")
        figure.legend(loc="outside lower center", ncols=2)

    tests = {name for epoch in epochs for name in epoch.refused}
    rows = len(tests) // 2 + 1  # of the legend, which names "accepted" too
    return _svg("decisions", (5.0, 0.7 + 0.36 * len(epochs) + 0.2 * rows), draw)


def costs(stages: Sequence[StageCost]) -> str:
    """Wall seconds of each stage, pale where the artifact was found finished."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for place, stage in enumerate(stages):
            axes.barh(
                place, stage.wall_seconds, height=0.62, color=GROUP_COLORS["recorded"],
                alpha=0.35 if stage.cached else 0.85,
            )  # fmt: skip
            note = ""
            if stage.rate is not None:
                note += f" · {number_text(stage.rate)}/s"
            if stage.flop_per_second is not None:
                note += f" · {number_text(stage.flop_per_second / 1e9)} GFLOP/s"
            axes.annotate(
                f"{duration(stage.wall_seconds)}{note}", (stage.wall_seconds, place),
                xytext=(4, 0), textcoords="offset points", va="center",
            )  # fmt: skip
        axes.set_yticks(range(len(stages)), [stage.name for stage in stages])
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.set_xticks([])
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 2.7 * max([stage.wall_seconds for stage in stages] + [1e-9]))

    return _svg("costs", (5.0, 0.35 + 0.3 * len(stages)), draw)


def _finite(values: Sequence[float]) -> Float64Array:
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]
