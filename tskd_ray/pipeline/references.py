"""Which artifacts the runs and sweeps of a storage refer to, by what their folders say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tskd_ray.errors import StorageError
from tskd_ray.pipeline.artifacts import ArtifactStore
from tskd_ray.pipeline.manifest import Manifest
from tskd_ray.pipeline.run_files import read_run
from tskd_ray.pipeline.storage import Storage
from tskd_ray.report.documents import parse_document
from tskd_ray.report.sweep.data import SweepRecord, TrialRow


@dataclass
class References:
    """Who needs what."""

    users: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    """Digest of an artifact → "runs/quickstart", "sweeps/small"."""
    unclear: list[str] = field(default_factory=list[str])
    """Why what is needed is not wholly known, a sentence each."""

    def add(self, user: str, digests: Iterable[str]) -> None:
        """Note that `user` needs them."""
        for digest in digests:
            self.users.setdefault(digest, set()).add(user)


@dataclass(frozen=True, kw_only=True)
class SweepOutline:
    """plan.json of a sweep, written before its first trial."""

    trials: int
    digests: tuple[str, ...]  # of all artifacts that its trials need, as far as known
    whole: bool  # False where the settings of trials follow from results


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What status and references read of a trial's entry, `trials/<id>.json`."""

    number: int
    digests: tuple[str, ...] = ()  # of the artifacts that it needs
    row: TrialRow | None = None  # None until it ended
    failure: str = ""


def find_references(
    store: ArtifactStore, manifests: Iterable[Manifest], *, now: float, active_seconds: float
) -> References:
    """What must be kept for the runs and sweeps that are in the storage.

    Args:
        store: The storage.
        manifests: Of all finished artifacts.
        now: Seconds since the epoch.
        active_seconds: A sweep that changed within them may be running. If the settings of
            its trials follow from results, what the next ones use is not known.
    """
    found = recorded_references(store)
    storage = store.storage
    for name in folders(storage, "sweeps"):
        times = [one.modified or 0.0 for one in storage.tree(f"sweeps/{name}")]
        outline = _outline(storage, name, found)
        known = outline is not None and outline.whole
        active = now - max(times, default=0.0) < active_seconds
        if active and not known and not _ended(storage, name, found):
            found.unclear.append(
                f"sweeps/{name} may be running, and what its next trials use is not known yet."
            )
    _add_marked(store, found, list(manifests))
    return found


def recorded_references(store: ArtifactStore) -> References:
    """What runs and sweeps name in their folders."""
    found = References()
    for name in folders(store.storage, "runs"):
        try:
            files = read_run(store.storage, name)
        except StorageError as error:
            found.unclear.append(str(error))
            continue
        found.add(f"runs/{name}", files.digests)
        if files.plan is None and files.record is None:
            found.unclear.append(
                f"runs/{name} has neither plan.json nor run.json, which name its artifacts. "
                "Delete it if nobody is writing it."
            )
    storage = store.storage
    for name in folders(storage, "sweeps"):
        trials = _trials(storage, name, found)
        outline = _outline(storage, name, found)
        found.add(f"sweeps/{name}", () if outline is None else outline.digests)
        found.add(f"sweeps/{name}", (digest for t in trials for digest in t.digests))
        rows = [trial.row for trial in trials]
        record = _record(storage, name, found)
        rows += [] if record is None else record.trials
        for row in rows:
            found.add(f"sweeps/{name}", () if row is None else row.keys.values())
    return found


def folders(storage: Storage, path: str) -> list[str]:
    """Names of the folders directly below."""
    return [entry.name for entry in storage.list(path) if entry.is_folder]


def read_trials(storage: Storage, sweep: str) -> list[Trial]:
    """Entries of a sweep's trials, by number.

    Raises:
        StorageError: If one is damaged.
    """
    folder = f"sweeps/{sweep}/trials"
    names = [entry.name for entry in storage.list(folder) if entry.name.endswith(".json")]
    found = [_parse(storage, f"{folder}/{name}", Trial) for name in names]
    return sorted((t for t in found if t is not None), key=lambda trial: trial.number)


def read_sweep_record(storage: Storage, sweep: str) -> SweepRecord | None:
    """sweep.json, which is written when all trials have ended.

    Raises:
        StorageError: If it is damaged.
    """
    return _parse(storage, f"sweeps/{sweep}/sweep.json", SweepRecord)


def read_sweep_outline(storage: Storage, sweep: str) -> SweepOutline | None:
    """plan.json, which is there from the start; an earlier version wrote none.

    Raises:
        StorageError: If it is damaged.
    """
    return _parse(storage, f"sweeps/{sweep}/plan.json", SweepOutline)


def _add_marked(store: ArtifactStore, found: References, manifests: list[Manifest]) -> None:
    """What trials that have not ended made, and all that it was made from."""
    names = set(folders(store.storage, "sweeps"))
    for manifest in manifests:
        sweep = str(manifest.info.get("made_for", "")).partition("/")[0]
        if sweep in names:
            found.add(f"sweeps/{sweep}", [manifest.key])
    made_from = {manifest.key: _inputs(manifest) for manifest in manifests}
    for user in {user for users in found.users.values() for user in users}:
        left = [digest for digest, users in found.users.items() if user in users]
        while left:
            new = {
                d for d in made_from.get(left.pop(), ()) if user not in found.users.get(d, ())
            }
            found.add(user, new)
            left += new


def _inputs(manifest: Manifest) -> list[str]:
    inputs: Any = manifest.made_from.get("inputs")
    return [str(value) for value in inputs.values()] if isinstance(inputs, Mapping) else []


def _ended(storage: Storage, name: str, found: References) -> bool:
    """Whether no trial of the sweep is left."""
    trials = _trials(storage, name, found)
    return _record(storage, name, found) is not None and all(t.row is not None for t in trials)


def _trials(storage: Storage, name: str, found: References) -> list[Trial]:
    try:
        return read_trials(storage, name)
    except StorageError as error:
        found.unclear.append(str(error))
        return []


def _outline(storage: Storage, name: str, found: References) -> SweepOutline | None:
    try:
        return read_sweep_outline(storage, name)
    except StorageError as error:
        found.unclear.append(str(error))
        return None


def _record(storage: Storage, name: str, found: References) -> SweepRecord | None:
    try:
        return read_sweep_record(storage, name)
    except StorageError as error:
        found.unclear.append(str(error))
        return None


def _parse(storage: Storage, path: str, kind: type[Any]) -> Any:
    data = storage.read(path)
    if data is None:
        return None
    return parse_document(
        data,
        kind,
        where=f"{storage.root}/{path}",
        writer="tskd sweep",
        remedy="Run the same command again, or delete it.",
    )
