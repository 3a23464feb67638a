"""What an artifact is: its key, and the manifest that makes it exist.

A manifest is small JSON. It comes from shared storage, so reading one checks every field: a
damaged or hostile file is an error that names it, never a path outside the store.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tskd_ray.errors import StageError, StorageError
from tskd_ray.pipeline.storage import safe_path

FORMAT = 1
_STAGE = re.compile(r"^[a-z][a-z0-9-]{0,49}$")
_DIGEST = re.compile(r"^[0-9a-f]{64}$")


@dataclass(frozen=True, kw_only=True)
class ArtifactKey:
    """What an artifact is a function of, and the hash of that."""

    stage: str
    digest: str  # 64 hex digits
    made_from: Mapping[str, Any] = field(default_factory=dict[str, Any], compare=False)

    @property
    def folder(self) -> str:
        """Its folder below the storage root."""
        return f"artifacts/{self.stage}/{self.digest}"


def artifact_key(
    stage: str,
    *,
    code_version: str,
    config: BaseModel | Mapping[str, Any],
    inputs: Mapping[str, ArtifactKey | str],
    seed: int,
) -> ArtifactKey:
    """The key of a stage's result: SHA-256 over canonical JSON of all it depends on.

    Args:
        stage: Lower-case letters, digits and dashes; also the folder's name.
        code_version: Of the stage's code; changing it is how stale results are left behind.
        config: The slice of the configuration that the stage reads, no more: what is in the
            slice without mattering splits the cache of a sweep.
        inputs: Keys of its input artifacts by role; of a file of the user's, a content hash.
        seed: The run's seed.
    """
    if not _STAGE.fullmatch(stage):
        raise StorageError(
            f"A stage is named by lower-case letters, digits and dashes. Got {stage[:60]!r}."
        )
    made_from: dict[str, Any] = {
        "stage": stage,
        "code_version": code_version,
        "config": config.model_dump(mode="json") if isinstance(config, BaseModel) else config,
        "inputs": {
            role: value.digest if isinstance(value, ArtifactKey) else value
            for role, value in inputs.items()
        },
        "seed": seed,
    }
    text = canonical_json(made_from)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return ArtifactKey(stage=stage, digest=digest, made_from=json.loads(text))


def canonical_json(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


class Part(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """Posix path below the attempt's folder."""
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=_DIGEST.pattern)


class Manifest(BaseModel):
    """Written last: an artifact exists when this does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    stage: str = Field(pattern=_STAGE.pattern)
    key: str = Field(pattern=_DIGEST.pattern)
    made_from: dict[str, Any] = {}
    attempt: str = Field(pattern=r"^attempt-[0-9a-f]{32}$")
    parts: tuple[Part, ...]
    ids: tuple[tuple[int, int], ...] = ()
    """Items it holds, as sorted ranges [first, last + 1)."""
    info: dict[str, Any] = {}
    """Figures about the making, such as seconds; no part of the result."""

    @property
    def folder(self) -> str:
        """Folder of the parts below the storage root."""
        return f"artifacts/{self.stage}/{self.key}/{self.attempt}"

    def to_bytes(self) -> bytes:
        text = json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True)
        return f"{text}\n".encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, key: ArtifactKey) -> Manifest:
        """Read the manifest that lies in `key`'s folder.

        Raises:
            StorageError: If it is damaged, of another key, or names a file outside its folder.
        """
        try:
            manifest = cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise StorageError(
                f"The manifest in {key.folder} is damaged ({where or 'JSON'}: {first['msg']}). "
                "Delete that folder and run the same command again."
            ) from None
        if (manifest.format, manifest.stage, manifest.key) != (FORMAT, key.stage, key.digest):
            raise StorageError(
                f"The manifest in {key.folder} must have format {FORMAT} and its folder's key. "
                f"Got format {manifest.format}, {manifest.stage}/{manifest.key}. Use the "
                "version that wrote it, or delete that folder."
            )
        for part in manifest.parts:
            safe_path(part.name)
        return manifest


def id_ranges(
    held: Iterable[int], expected: Sequence[int] | None, what: str
) -> list[tuple[int, int]]:
    """Sorted ranges of `held`, after checking that they are `expected`, each once.

    Raises:
        StageError: If an id is missing, double or not asked for; names the first.
    """
    ids = sorted(int(value) for value in held)
    for first, second in itertools.pairwise(ids):
        if first == second:
            raise StageError(f"Every id must occur once in {what}. Id {first} occurs twice.")
    if expected is not None:
        wanted = {int(value) for value in expected}
        missing, extra = sorted(wanted - set(ids)), sorted(set(ids) - wanted)
        if missing or extra:
            raise StageError(
                f"{what} must hold exactly the {len(wanted)} ids asked for. "
                f"{len(missing)} are missing (first: {missing[:3]}), {len(extra)} were not "
                f"asked for (first: {extra[:3]}). Run the same command again."
            )
    ranges: list[tuple[int, int]] = []
    for value in ids:
        if ranges and ranges[-1][1] == value:
            ranges[-1] = (ranges[-1][0], value + 1)
        else:
            ranges.append((value, value + 1))
    return ranges
