"""What a run's folder holds of films: `films/films.json` (`Films`), a GIF and a PNG of each."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tskd_ray.report.documents import document_adapter, read_document

FOLDER = "films"
_RECORD = "films.json"


@dataclass(frozen=True, kw_only=True)
class FilmRecord:
    """One episode of one policy: `<name>.gif` in motion, `<name>.png` from start to end."""

    name: str  # "tskd"
    title: str  # as of its `ScoreRow`
    steps: int
    earned: float  # undiscounted return of this one episode


@dataclass(frozen=True, kw_only=True)
class Films:
    """films.json."""

    films: tuple[FilmRecord, ...] = ()
    trouble: str = ""  # why there are none, one line
    of: Mapping[str, str] = field(default_factory=dict[str, str])
    """What they show, by name: a film of something else is out of date."""


def save_films(films: Films, pictures: Mapping[str, bytes], folder: Path) -> None:
    """Write the record and its pictures, by file name, into a folder that exists."""
    for name, content in pictures.items():
        (folder / name).write_bytes(content)
    (folder / _RECORD).write_bytes(document_adapter(Films).dump_json(films, indent=2) + b"\n")


def read_films(run_folder: Path) -> Films | None:
    """What `save_films` left in a run's folder; None if it was not asked for.

    Raises:
        StorageError: If the record is damaged.
    """
    path = run_folder / FOLDER / _RECORD
    return read_document(path, Films) if path.is_file() else None


def picture_uri(run_folder: Path, name: str) -> str:
    """A picture of `films/` as a data URI; empty if it is gone."""
    path = run_folder / FOLDER / name
    if not path.is_file():
        return ""
    kind = path.suffix.removeprefix(".")
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
