"""What radii mean on a dataset, told: two tables, a sentence, a picture, one page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from tskd_ray.report.plots import _INK, GROUP_COLORS, _svg
from tskd_ray.report.study import Cell, Table, write_page
from tskd_ray.stitching.explain import SHARE, Explanation, RadiusCounts
from tskd_ray.stitching.walks import END_NAMES

_VERDICTS: tuple[tuple[str, str, str], ...] = (
    ("accepted", "accepted", "#009988"),
    ("dynamics", "better ones, none plausible", "#4477aa"),
    ("no_better", "neighbours, none better", "#89aed1"),
    ("no_neighbour", "no neighbour", "#c3cdd8"),
)
"""Field of `RadiusCounts`, what it says, colour."""

_COUNTS = (
    ("hops_used", "hops used", GROUP_COLORS["recorded"]),
    ("replaced", "trajectories replaced", GROUP_COLORS["stitched"]),
    ("replaced_cyclic", "… by a cyclic walk", GROUP_COLORS["selected"]),
)
"""Field of `WalkCounts`, what it says, colour."""


def explain_tables(found: Explanation) -> list[Table]:
    """Decisions by radius, then walks by radius; numbers as they are, for `Console.table`."""
    decisions: list[list[Cell]] = [
        [
            _name(row),
            *(round(size) for size in row.neighbours[1:4]),
            _percent(row.better_share),
            *(_percent(getattr(row, field) / row.transitions) for field, _, _ in _VERDICTS),
        ]
        for row in found.radii
    ]
    walks: list[list[Cell]] = [
        [
            _name(row),
            row.walks.hops_used,
            *(row.walks.ends[end] for end in END_NAMES),
            row.walks.replaced,
            row.walks.replaced_cyclic,
        ]
        for row in found.radii
    ]
    quartiles = ["neighbours, 25 %", "50 %", "75 %"]
    shares = ["some better, %", "accepted, %", "implausible, %", "none better, %", "none, %"]
    ends = [f"ended: {end}" for end in END_NAMES]
    transitions, walkers = found.radii[0].transitions, found.radii[0].walks.trajectories
    return [
        (
            f"By radius, {transitions:,} transitions: neighbours, and what refuses a hop",
            ["radius", *quartiles, *shares],
            decisions,
        ),
        (
            f"By radius, walks of {walkers:,} trajectories: hops, ends, replacements",
            ["radius", "hops used", *ends, "replaced", "… cyclic"],
            walks,
        ),
    ]


def suggestion_text(found: Explanation) -> str:
    """What to try, and by which rule."""
    if found.suggestion is None:
        return (
            "No radius to suggest: at none of them a walk that does not go round gains enough "
            "to replace its trajectory."
        )
    tip = found.suggestion
    walkers = found.radii[0].walks.trajectories
    text = (
        f"Try stitch.radius={tip.best:.4g}: there, walks that do not go round replace most "
        f"trajectories, {tip.gained:,} of {walkers:,}. "
    )
    if others := [f"{radius:.4g}" for radius in tip.near if radius != tip.best]:
        text += f"At {', '.join(others)} they replace at least {SHARE:.0%} of that. "
    for end, row in (("smallest", found.radii[0]), ("largest", found.radii[-1])):
        if tip.best == row.radius:
            text += f"It is the {end} radius looked at: try beyond it. "
    return text + "This counts by predicted rewards: only a student's score tells the worth."


def write_explanation(found: Explanation, name: str, folder: Path) -> Path:
    """Write explain.json and explain.html, one self-contained file, into `folder`.

    Args:
        found: What to tell.
        name: Of the run.
        folder: Made if missing.

    Returns:
        The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = found.as_dict() | {"suggestion_text": suggestion_text(found)}
    (folder / "explain.json").write_text(json.dumps(document, indent=1) + "\n")
    return write_page(
        folder / "explain.html",
        name=name,
        heading="What radii mean here",
        about=f"first epoch: {found.episodes:,} trajectories, {found.transitions:,} "
        "transitions. k: the median state has that many neighbours.",
        advice=suggestion_text(found),
        notes=found.notes,
        picture=Markup(draw_explanation(found)),
        tables=explain_tables(found),
    )


def draw_explanation(found: Explanation) -> str:
    """Neighbourhoods, decisions and walks over the radius, as SVG in the page's colours."""

    def draw(figure: Figure) -> None:
        sizes, shares, counts = figure.subplots(3, 1, sharex=True)
        _draw_sizes(sizes, found.radii)
        _draw_shares(shares, found.radii)
        _draw_counts(counts, found.radii)
        for axes in (sizes, shares, counts):
            for row in found.radii:
                if row.configured:
                    axes.axvline(row.radius, color=_INK, lw=1, ls=(0, (3, 2)))
        if found.radii[0].radius > 0:
            counts.set_xscale("log")
        ticks = [row.radius for row in found.radii if row.asked is not None]
        counts.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
        counts.xaxis.set_minor_formatter(NullFormatter())
        counts.set_xlabel("radius ρ (dashed: as configured)")

    return _svg("explain", (8.0, 7.0), draw)


def _draw_sizes(axes: Axes, rows: Sequence[RadiusCounts]) -> None:
    rho, sizes = _radii(rows), np.array([row.neighbours for row in rows])
    color = GROUP_COLORS["recorded"]
    axes.fill_between(rho, sizes[:, 1], sizes[:, 3], color=color, alpha=0.22, lw=0)
    axes.plot(rho, sizes[:, 2], color=color, marker="o", ms=3)
    _count_axis(axes)
    axes.set_title("Neighbours: median, and the middle half", loc="left")


def _draw_shares(axes: Axes, rows: Sequence[RadiusCounts]) -> None:
    shares = [
        [getattr(row, field) / row.transitions for row in rows] for field, _, _ in _VERDICTS
    ]
    colors = [color for _, _, color in _VERDICTS]
    labels = [label for _, label, _ in _VERDICTS]
    axes.stackplot(_radii(rows), shares, colors=colors, labels=labels, lw=0)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_title("Transitions by what became of them", loc="left")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), reverse=True)


def _draw_counts(axes: Axes, rows: Sequence[RadiusCounts]) -> None:
    for field, label, color in _COUNTS:
        known = [
            (row.radius, getattr(row.walks, field))
            for row in rows
            if getattr(row.walks, field) is not None
        ]
        if known:
            axes.plot(*zip(*known, strict=True), color=color, label=label, marker="o", ms=3)
    _count_axis(axes)
    axes.set_title("What walks did", loc="left")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _count_axis(axes: Axes) -> None:
    """Counts over orders of magnitude, 0 among them."""
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _radii(rows: Sequence[RadiusCounts]) -> list[float]:
    return [row.radius for row in rows]


def _name(row: RadiusCounts) -> str:
    """`0.2341, 50th neighbour, configured`."""
    asked = [] if row.asked is None else [f"k = {row.asked}"]
    return ", ".join([f"{row.radius:.4g}", *asked, *(["configured"] if row.configured else [])])


def _percent(share: float) -> float:
    return round(100 * share, 1)
