"""The targets of the fuzzer, and manifests that point out of the storage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzing.targets import KEY, MANIFEST, TARGETS, attempt
from tskd_ray.errors import StorageError
from tskd_ray.pipeline.manifest import Manifest
from tskd_ray.pipeline.storage import Storage


@pytest.mark.parametrize("name", TARGETS)
def test_each_reads_what_the_fuzzer_begins_with(name: str, tmp_path: Path) -> None:
    (tmp_path / "seeds").mkdir()
    seeds = TARGETS[name].seeds(tmp_path / "seeds")
    assert seeds
    for seed in seeds:
        assert attempt(TARGETS[name], seed, tmp_path) is None


def test_other_errors_and_long_messages_are_failures(tmp_path: Path) -> None:
    from dataclasses import replace

    def raising(error: Exception) -> None:
        def read(data: bytes, folder: Path) -> object:
            raise error

        attempt(replace(TARGETS["config"], read=read), b"", tmp_path)

    with pytest.raises(KeyError):
        raising(KeyError("x"))
    for message in ("two\nlines of a message", "short", "long " * 1000):
        with pytest.raises(AssertionError, match="no line of bounded length"):
            raising(StorageError(message))


def manifest(**changes: Any) -> bytes:
    return json.dumps(json.loads(MANIFEST.to_bytes()) | changes).encode()


def part(name: str) -> dict[str, Any]:
    return {"name": name, "bytes": 3, "sha256": "0" * 64}


OUTSIDE = [
    "../x", "a/../../x", "/etc/passwd", "a//b", "", ".", "..", ".hidden", "a/.b", "a\\..\\b",
    "a\0b", "a\n", "C:x", "~/x", "a/", "s3://b/x", "%2e%2e/x", "a" * 201, "é",
]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_cannot_leave_the_storage(name: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="Names in the storage are plain"):
        Manifest.from_bytes(manifest(parts=[part(name)]), key=KEY)
    with pytest.raises(StorageError, match="Names in the storage are plain"):
        Storage(str(tmp_path)).read(name)


@pytest.mark.parametrize(
    "changes",
    [
        {"parts": [part("a") | {"bytes": -1}]},
        {"parts": [part("a") | {"sha256": "x"}]},
        {"parts": [part("a") | {"sha256": "0" * 64 + "\n"}]},
        {"attempt": "../x"},
        {"attempt": f"attempt-{'0' * 32}/.."},
        {"attempt": f"attempt-{'0' * 32}\n"},
        {"stage": "../x"},
        {"key": "../x"},
        {"key": "1" * 64},
        {"format": 2},
        {"ids": [[0]]},
        {"evil": 1},
    ],
)
def test_manifests_of_other_places_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(StorageError) as caught:
        Manifest.from_bytes(manifest(**changes), key=KEY)
    assert "\n" not in str(caught.value)


@settings(
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_damaged_manifests_are_read_or_refused(data: st.DataObject, tmp_path: Path) -> None:
    damaged = bytearray(MANIFEST.to_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        where = data.draw(st.integers(0, len(damaged) - 1))
        damaged[where : where + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=4))
    attempt(TARGETS["manifest"], bytes(damaged), tmp_path)
    attempt(TARGETS["manifest"], b"[" * data.draw(st.integers(0, 10**5)), tmp_path)
