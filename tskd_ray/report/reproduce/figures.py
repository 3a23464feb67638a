"""The figure of an experiment, as SVG and PNG: scores with errors, by row or along an axis."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tskd_ray.report.reproduce.data import Results

# Paul Tol's: told apart by colour-blind readers.
_COLORS: tuple[str, ...] = (
    "#4477aa", "#66ccee", "#009988", "#ccbb44", "#ee7733", "#cc3d7e", "#9467bd", "#999933",
    "#bbbbbb", "#222255", "#885522",
)  # fmt: skip
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "tskd",
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "font.size": 9.0,
    "text.parse_math": False,
}
_MANY = 12


def draw(results: Results) -> dict[str, bytes]:
    """Suffix → file; nothing where there is nothing to draw."""
    if results.kind != "scores" or not any(cell.scores for cell in results.cells):
        return {}
    along = any(row.x is not None for row in results.rows)
    with rc_context(_STYLE):
        figure = Figure(figsize=_size(results, along=along), layout="constrained", dpi=160)
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        if along:
            _line(axes, results)
        elif len(results.rows) > _MANY:
            _listed(axes, results)
        else:
            _bars(axes, results)
        files: dict[str, bytes] = {}
        for suffix in ("svg", "png"):
            buffer = io.BytesIO()
            metadata = {"Date": None} if suffix == "svg" else {}
            figure.savefig(buffer, format=suffix, metadata=metadata)
            files[suffix] = buffer.getvalue()
    return files


def _size(results: Results, *, along: bool) -> tuple[float, float]:
    if not along and len(results.rows) > _MANY:
        return 7.0, 1.0 + 0.24 * len(results.rows) * max(1, len(results.tasks))
    return 1.5 + 2.2 * max(2, len(results.tasks)), 4.0


def _unit(results: Results) -> str:
    normalized = any(cell.normalized for cell in results.cells)
    return "D4RL-normalised score" if normalized else "return"


def _bars(axes: Axes, results: Results) -> None:
    """Tasks side by side, a bar for each row."""
    width = 0.85 / len(results.rows)
    for place, row in enumerate(results.rows):
        color = _COLORS[place % len(_COLORS)]
        for number, task in enumerate(results.tasks):
            found = results.score(task, row.id)
            if found is None:
                continue
            x = number + (place - (len(results.rows) - 1) / 2) * width
            label = row.title if number == 0 else None
            axes.bar(x, found.mean, width * 0.92, color=color, label=label)
            axes.errorbar(x, found.mean, found.error, color="#333333", lw=0.9, capsize=2)
    axes.set_xticks(range(len(results.tasks)), list(results.tasks))
    axes.set_ylabel(_unit(results))
    axes.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.08))


def _listed(axes: Axes, results: Results) -> None:
    """One line for each row and task, the first row's score as a guide."""
    labels: list[str] = []
    for row in results.rows:
        for number, task in enumerate(results.tasks):
            found = results.score(task, row.id)
            if found is None:
                continue
            color = _COLORS[number % len(_COLORS)]
            axes.errorbar(
                found.mean, len(labels), xerr=found.error, fmt="o", ms=4, color=color, capsize=2
            )
            labels.append(f"{row.title} · {task}" if len(results.tasks) > 1 else row.title)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    row = next(iter(results.rows))
    first = results.score(next(iter(results.tasks)), row.id)
    if first is not None:
        axes.axvline(first.mean, color="#888888", lw=0.8, ls=":")
    axes.set_xlabel(_unit(results))


def _line(axes: Axes, results: Results) -> None:
    """Score along the rows' x, one line for each task."""
    for number, task in enumerate(results.tasks):
        points = [
            (row.x, found.mean, found.error or 0.0)
            for row in results.rows
            for found in [results.score(task, row.id)]
            if row.x is not None and found is not None
        ]
        if points:
            x, mean, error = np.array(points).T
            color = _COLORS[number % len(_COLORS)]
            axes.errorbar(x, mean, error, fmt="o-", ms=4, color=color, capsize=3, label=task)
    axes.set_xlabel("generated trajectories per epoch")
    axes.set_ylabel(_unit(results))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
