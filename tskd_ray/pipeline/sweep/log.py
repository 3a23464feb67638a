"""What a sweep has done so far, in files that outlive a kill: one per trial, and the bill."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, with_config

from tskd_ray.config.load_sweep import Point
from tskd_ray.errors import StorageError
from tskd_ray.pipeline.references import SweepOutline
from tskd_ray.pipeline.sweep.trial import point_id
from tskd_ray.report.documents import document_adapter, read_document
from tskd_ray.report.sweep.data import TrialRow


@with_config(ConfigDict(ser_json_inf_nan="strings"))
@dataclass(frozen=True, kw_only=True)
class Entry:
    """One trial."""

    number: int
    point: Mapping[str, Any]
    identity: str
    """Of all that it computes: an entry of other settings under the same point is void."""
    digests: tuple[str, ...] = ()
    """Of the artifacts that it needs, known when it begins: `tskd storage gc` leaves them."""
    row: TrialRow | None = None
    """None while it runs."""
    reports: tuple[Mapping[str, float], ...] = ()
    failure: str = ""

    @property
    def finished(self) -> bool:
        """Whether it need not be done again: a failed one is."""
        return self.row is not None and self.row.state != "failed"


@dataclass
class TrialLog:
    """Entries of a sweep's trials, in `<sweep>/trials/`, and what they cost."""

    folder: Path
    entries: dict[str, Entry] = field(default_factory=dict[str, Entry])
    """By the point's id."""

    def read(self) -> None:
        """Load what earlier commands left.

        Raises:
            StorageError: If an entry is damaged.
        """
        for path in sorted((self.folder / "trials").glob("*.json")):
            remedy = "Delete it; the trial is then read from its artifacts."
            self.entries[path.stem] = read_document(
                path, Entry, writer="tskd sweep", remedy=remedy
            )

    def write(self, entry: Entry) -> None:
        """Keep an entry, whole or not at all."""
        name = point_id(entry.point)
        self.entries[name] = entry
        _write(
            self.folder / "trials" / f"{name}.json",
            document_adapter(Entry).dump_json(entry, indent=1),
        )

    def announce(self, outline: SweepOutline) -> None:
        """Let other commands know what this one is to do, before it looks for artifacts."""
        data = document_adapter(SweepOutline).dump_json(outline, indent=1)
        _write(self.folder / "plan.json", data)

    def of(self, point: Point | Mapping[str, Any]) -> Entry | None:
        """The entry of a point."""
        return self.entries.get(point_id(point))

    def spent(self) -> tuple[float, float]:
        """CPU and wall seconds of all earlier commands."""
        try:
            document = json.loads((self.folder / "spent.json").read_text())
            return float(document["cpu_seconds"]), float(document["wall_seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0.0, 0.0  # the first command, or a file that only tells costs

    def note_spent(self, cpu_seconds: float, wall_seconds: float) -> None:
        """Keep what the sweep has cost up to now."""
        document = {"cpu_seconds": cpu_seconds, "wall_seconds": wall_seconds}
        _write(self.folder / "spent.json", json.dumps(document).encode())


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}")
        fresh.write_bytes(data + b"\n")
        fresh.replace(path)
    except OSError as error:
        raise StorageError(
            f"A sweep's folder must be writable. Got {str(path.parent)!r}: {error.strerror}. "
            "Choose another with storage=FOLDER, or free it."
        ) from None


def flat(point: Mapping[str, Any]) -> dict[str, Any]:
    """A point as plain values: a mapping by dotted names, a list as text."""
    plain: dict[str, Any] = {}
    for key, value in point.items():
        if isinstance(value, Mapping):
            plain |= {f"{key}.{below}": item for below, item in flat(value).items()}
        else:
            plain[key] = (
                json.dumps(value)
                if isinstance(value, Sequence | list) and not isinstance(value, str)
                else value
            )
    return plain
