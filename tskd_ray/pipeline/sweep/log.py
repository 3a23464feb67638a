"""What a sweep has done so far, in files that outlive a kill: one per trial, and the bill."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ConfigDict, with_config

from tskd_ray.config.load_sweep import Point
from tskd_ray.pipeline.references import SweepOutline
from tskd_ray.pipeline.storage import Storage, safe_path
from tskd_ray.pipeline.sweep.trial import point_id
from tskd_ray.report.documents import document_adapter, parse_document
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
    """Entries of a sweep's trials, in `<storage>/sweeps/<name>/`, and what they cost.

    Written straight into the storage: of a remote one, any machine can go on with the sweep.
    """

    storage: Storage
    name: str
    """The sweep's."""
    entries: dict[str, Entry] = field(default_factory=dict[str, Entry])
    """By the point's id."""

    def read(self) -> None:
        """Load what earlier commands left.

        Raises:
            StorageError: If an entry is damaged, or the storage fails.
        """
        folder = self._at("trials")
        for entry in self.storage.list(folder):  # hidden ones are half-written, and not told
            data = self.storage.read(f"{folder}/{entry.name}")
            if data is None or not entry.name.endswith(".json"):
                continue
            self.entries[entry.name.removesuffix(".json")] = parse_document(
                data,
                Entry,
                where=f"{self.storage.root}/{folder}/{entry.name}",
                writer="tskd sweep",
                remedy="Delete it; the trial is then read from its artifacts.",
            )

    def write(self, entry: Entry) -> None:
        """Keep an entry, whole or not at all."""
        name = point_id(entry.point)
        self.entries[name] = entry
        self._write(f"trials/{name}.json", document_adapter(Entry).dump_json(entry, indent=1))

    def announce(self, outline: SweepOutline) -> None:
        """Let other commands know what this one is to do, before it looks for artifacts."""
        data = document_adapter(SweepOutline).dump_json(outline, indent=1)
        self._write("plan.json", data)

    def of(self, point: Point | Mapping[str, Any]) -> Entry | None:
        """The entry of a point."""
        return self.entries.get(point_id(point))

    def spent(self) -> tuple[float, float]:
        """CPU and wall seconds of all earlier commands."""
        try:
            document = json.loads(self.storage.read(self._at("spent.json")) or b"")
            return float(document["cpu_seconds"]), float(document["wall_seconds"])
        except (ValueError, KeyError, TypeError):
            return 0.0, 0.0  # the first command, or a file that only tells costs

    def note_spent(self, cpu_seconds: float, wall_seconds: float) -> None:
        """Keep what the sweep has cost up to now."""
        document = {"cpu_seconds": cpu_seconds, "wall_seconds": wall_seconds}
        self._write("spent.json", json.dumps(document).encode())

    def _at(self, path: str) -> str:
        return f"sweeps/{safe_path(self.name)}/{path}"

    def _write(self, path: str, data: bytes) -> None:
        self.storage.write(self._at(path), data + b"\n")


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
