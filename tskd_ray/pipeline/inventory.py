"""What artifacts a storage holds, from the storage alone: finished, begun, left behind."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tskd_ray.errors import StorageError
from tskd_ray.pipeline.artifacts import ArtifactKey
from tskd_ray.pipeline.manifest import Manifest
from tskd_ray.pipeline.references import References
from tskd_ray.pipeline.storage import Found, Storage

LEFT = re.compile(r"attempt-[0-9a-f]{32}|removed-[0-9a-f]{32}|\.manifest\.json\.\w+\.tmp")
"""What an attempt, or a removal that was itself cut short, may leave beside the artifact."""

STATE = ("shards", "scratch")
"""From which an unfinished stage goes on; of no use once it is finished."""

_STAGE = re.compile(r"[a-z][a-z0-9-]{0,49}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_READERS = 16  # an object store answers each after tens of milliseconds


@dataclass
class Usage:
    """Bytes of a file or a folder, and when anything of it last changed."""

    bytes: int = 0
    newest: float | None = None
    """Seconds since the epoch; None where the store does not tell."""
    known: bool = True
    """False if the store does not tell the time of a file of it."""

    def add(self, found: Found) -> None:
        """Count a file or a folder."""
        self.bytes += found.bytes
        if found.modified is not None:
            self.newest = max(self.newest or 0.0, found.modified)
        elif found.kind == "file":
            self.known = False

    def idle(self, now: float) -> float | None:
        """Seconds without a change, at `now`; None if that is not known."""
        return max(0.0, now - self.newest) if self.known and self.newest is not None else None


@dataclass
class KeyFolder:
    """`artifacts/<stage>/<digest>` and what is directly in it."""

    key: ArtifactKey
    manifest: Manifest | None = None  # None: not finished, or damaged
    damaged: bool = False
    children: dict[str, Usage] = field(default_factory=dict[str, Usage])
    """By name; links are not among them."""

    @property
    def usage(self) -> Usage:
        """Of all that is in it."""
        return total(self.children.values())

    @property
    def state(self) -> Usage:
        """Of what an unfinished stage goes on from."""
        return total(self.children[name] for name in STATE if name in self.children)

    @property
    def kept_bytes(self) -> int:
        """Of the artifact, what its making left not among them."""
        return self.usage.bytes - sum(self.children[name].bytes for name in self.left())

    def left(self) -> Iterator[str]:
        """Children that no manifest names or ever will; not known if it is damaged."""
        for name in () if self.damaged else self.children:
            mine = self.manifest is not None and name == self.manifest.attempt
            spent = self.manifest is not None and name in STATE
            if not mine and (spent or LEFT.fullmatch(name)):
                yield name


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The artifacts of a storage, in order."""

    keys: tuple[KeyFolder, ...]
    links: tuple[str, ...]  # paths of symbolic links, which are not followed

    @property
    def manifests(self) -> list[Manifest]:
        """Of all finished artifacts."""
        return [folder.manifest for folder in self.keys if folder.manifest is not None]


@dataclass(frozen=True, kw_only=True)
class StageContents:
    """All artifacts of one stage."""

    stage: str
    finished: int
    bytes: int  # of the finished ones
    unused: int  # of them: no run or sweep names it
    unused_bytes: int
    unfinished: int  # with work that a command can go on from
    unfinished_bytes: int
    leftovers: int  # attempts that no manifest names; some may be in progress
    leftover_bytes: int


def scan(storage: Storage) -> Contents:
    """All of `artifacts/`, with manifests read."""
    by_path: dict[str, KeyFolder] = {}
    links: list[str] = []
    for found in storage.tree("artifacts"):
        if found.kind == "link":
            links.append(found.path)
        parts = found.path.split("/")
        if len(parts) < 4 or not (_STAGE.fullmatch(parts[1]) and _DIGEST.fullmatch(parts[2])):
            continue
        key = ArtifactKey(stage=parts[1], digest=parts[2])
        folder = by_path.setdefault(key.folder, KeyFolder(key=key))
        if found.kind != "link":
            folder.children.setdefault(parts[3], Usage()).add(found)
    ordered = [by_path[path] for path in sorted(by_path)]
    with ThreadPoolExecutor(_READERS) as readers:
        list(readers.map(lambda folder: _read_manifest(storage, folder), ordered))
    return Contents(keys=tuple(ordered), links=tuple(links))


def _read_manifest(storage: Storage, folder: KeyFolder) -> None:
    if "manifest.json" not in folder.children:
        return
    data = storage.read(f"{folder.key.folder}/manifest.json")
    if data is not None:
        try:
            folder.manifest = Manifest.from_bytes(data, key=folder.key)
        except StorageError:
            folder.damaged = True


def total(usages: Iterable[Usage]) -> Usage:
    """Of several files or folders together."""
    whole = Usage()
    for usage in usages:
        whole.bytes += usage.bytes
        whole.known = whole.known and usage.known
        if usage.newest is not None:
            whole.newest = max(whole.newest or 0.0, usage.newest)
    return whole


def by_stage(contents: Contents, references: References) -> list[StageContents]:
    """Counts of each stage's artifacts."""
    stages: dict[str, list[KeyFolder]] = {}
    for folder in contents.keys:
        stages.setdefault(folder.key.stage, []).append(folder)
    return [_of_stage(stage, stages[stage], references.users) for stage in sorted(stages)]


def _of_stage(stage: str, keys: list[KeyFolder], users: Mapping[str, object]) -> StageContents:
    left = [folder.children[name] for folder in keys for name in folder.left()]
    finished = [folder for folder in keys if folder.manifest is not None]
    unused = [folder for folder in finished if folder.key.digest not in users]
    begun = [folder.state for folder in keys if folder.manifest is None]
    begun = [state for state in begun if state.bytes]
    return StageContents(
        stage=stage,
        finished=len(finished),
        bytes=sum(folder.kept_bytes for folder in finished),
        unused=len(unused),
        unused_bytes=sum(folder.kept_bytes for folder in unused),
        unfinished=len(begun),
        unfinished_bytes=total(begun).bytes,
        leftovers=len(left),
        leftover_bytes=total(left).bytes,
    )
