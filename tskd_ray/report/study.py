"""Pages beside a run's report: a heading, advice, a picture, tables, in one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from tskd_ray.report.tables import number_text
from tskd_ray.report.templates import template

Cell = str | int | float | None
Table = tuple[str, list[str], list[list[Cell]]]
"""Title, column titles, rows."""


def write_page(
    path: Path,
    *,
    name: str,
    heading: str,
    about: str,
    advice: str,
    notes: Sequence[str],
    picture: Markup,
    tables: Sequence[Table],
) -> Path:
    """Write one self-contained HTML file and return its path.

    Args:
        path: In a folder that exists.
        name: Of the run.
        heading: What the page tells.
        about: What it is about, after the run's name.
        advice: What to do, and by which rule.
        notes: What to keep in mind.
        picture: SVG in the page's colours.
        tables: Numbers as they are.
    """
    page = template("study.html.j2").render(
        name=name,
        heading=heading,
        about=about,
        advice=advice,
        notes=notes,
        picture=picture,
        tables=[
            (title, columns, [[_text(cell) for cell in row] for row in rows])
            for title, columns, rows in tables
        ],
    )
    path.write_text(page, encoding="utf-8")
    return path


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else number_text(cell)
