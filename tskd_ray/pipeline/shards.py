"""Finished units of work of an unfinished stage, so that a kill costs at most one unit each.

A shard is one safetensors file (no pickle, no time stamps, same arrays → same bytes) whose name
holds its number and the start of its SHA-256: it appears whole or not at all, a damaged one is
recognised without a second file, and two writers of the same bytes meet in the same name.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tskd_ray.errors import StageError
from tskd_ray.pipeline.storage import Storage

Arrays = Mapping[str, npt.NDArray[np.generic]]
_NAME = re.compile(r"shard-(\d{8})-([0-9a-f]{16})\.safetensors")
_COST = re.compile(r"cost-(\d{8})\.json")


class ShardStore:
    """Finished shards below one folder of the storage."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self.storage = storage
        self.folder = folder

    def write(self, shard: int, arrays: Arrays) -> None:
        """Keep a finished shard, atomically.

        Args:
            shard: Its number, 0 to 99,999,999.
            arrays: Numbers and booleans of any shape, by name; no objects, no text.

        Raises:
            StorageError: If the storage fails; the shard is then not finished.
        """
        data = encode_arrays(arrays)
        digest = hashlib.sha256(data).hexdigest()[:16]
        self.storage.write(f"{self.folder}/shard-{shard:08d}-{digest}.safetensors", data)

    def note_cost(self, shard: int, cpu_seconds: float) -> None:
        """Keep what a shard took, beside it: the shard's own bytes must not depend on that."""
        document = json.dumps({"cpu_seconds": round(cpu_seconds, 3)})
        self.storage.write(f"{self.folder}/cost-{shard:08d}.json", document.encode())

    def cpu_seconds(self) -> float:
        """Of all shards that a cost is noted for, whichever command made them."""
        names = [e.name for e in self.storage.list(self.folder) if _COST.fullmatch(e.name)]
        return sum(_seconds(self.storage.read(f"{self.folder}/{name}")) for name in names)

    def finished(self) -> set[int]:
        """Numbers of the shards that are there and whole; damaged ones are removed."""
        return set(self._whole())

    def kept(self) -> set[int]:
        """Numbers of the shards that are there, by their names alone: nothing is read."""
        return set(self._names())

    def read(self, shard: int) -> dict[str, npt.NDArray[np.generic]]:
        """The arrays of a finished shard.

        Raises:
            StageError: If it is not there, or damaged.
        """
        for name in self._names().get(shard, []):
            arrays = self._intact(name)
            if arrays is not None:
                return arrays
        raise StageError(
            f"Shard {shard} of {self.folder} is not finished. Run the command again."
        )

    def read_all(
        self, shards: Sequence[int]
    ) -> Iterator[tuple[int, dict[str, npt.NDArray[np.generic]]]]:
        """The given shards in ascending order, whatever order they were finished in."""
        for shard in sorted(shards):
            yield shard, self.read(shard)

    def clear(self) -> None:
        """Remove all; the stage is finished."""
        self.storage.delete(self.folder)

    def _names(self) -> dict[int, list[str]]:
        names: dict[int, list[str]] = {}
        for entry in self.storage.list(self.folder):
            match = _NAME.fullmatch(entry.name)
            if match:
                names.setdefault(int(match[1]), []).append(entry.name)
        return names

    def _whole(self) -> Iterator[int]:
        for shard, names in self._names().items():
            whole = False
            for name in names:
                if self._intact(name) is None:
                    self.storage.delete(f"{self.folder}/{name}")
                else:
                    whole = True
            if whole:
                yield shard

    def _intact(self, name: str) -> dict[str, npt.NDArray[np.generic]] | None:
        data = self.storage.read(f"{self.folder}/{name}")
        match = _NAME.fullmatch(name)
        if data is None or match is None:
            return None
        if not hashlib.sha256(data).hexdigest().startswith(match[2]):
            return None
        return decode_arrays(data)


def _seconds(note: bytes | None) -> float:
    """What a cost's file says; 0 if it is damaged, since no result depends on it."""
    try:
        seconds = float(json.loads(note or b"")["cpu_seconds"])
    except (ValueError, KeyError, TypeError):
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0


def encode_arrays(arrays: Arrays) -> bytes:
    """Arrays as safetensors bytes, a function of names, dtypes and values alone.

    Raises:
        StageError: For a dtype that is neither a number nor a boolean.
    """
    from safetensors.numpy import save

    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise StageError(
                f"A shard holds numbers and booleans. Array {name!r} has dtype {array.dtype}."
            )
    # the file holds raw memory, so a transposed view would be read back scrambled
    return save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)})


def decode_arrays(data: bytes) -> dict[str, npt.NDArray[np.generic]] | None:
    """The inverse of `encode_arrays`; None if it did not write that."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(data)
    except (SafetensorError, KeyError, TypeError, ValueError):  # a dtype that NumPy lacks
        return None
