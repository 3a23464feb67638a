"""The pipeline on an S3 API that fails now and then; moto answers it, from this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tskd_ray.pipeline.retry as retry
from pipeline.s3_server import ENVIRONMENT, FAULTS, Faulty, s3_server
from pipeline.stores import key
from pipeline.tiny import result_bytes, tiny_config
from tskd_ray.pipeline.artifacts import ArtifactStore
from tskd_ray.pipeline.inventory import scan
from tskd_ray.pipeline.run import RunResult
from tskd_ray.pipeline.storage import Storage

pytest.importorskip("moto", reason="see tests/requirements-s3.lock")

ROOT = "s3://bucket/some/root"


@pytest.fixture(params=[3])
def faulty(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Faulty]:
    """One in so many answers is spoilt; the environment names server and credentials."""
    with s3_server(every=request.param) as (endpoint, faulty):
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": endpoint}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield faulty


def test_artifacts_survive_an_object_store_that_fails_now_and_then(
    faulty: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "PAUSES", (0.05,) * 4)
    store = ArtifactStore(ROOT)
    store.check_writable()
    parts = {"weights.npy": os.urandom(6 << 20), "deep/curve.json": b"[]"}
    shards = store.shards(key())
    shards.write(1, {"x": np.arange(1000)})
    assert shards.finished() == {1}
    with store.attempt(key()) as attempt:
        (attempt.folder / "deep").mkdir()
        for name, data in parts.items():
            (attempt.folder / name).write_bytes(data)
    (store.run_folder("a") / "run.json").write_text("{}")
    store.publish_run("a")
    # as another machine sees it
    other = ArtifactStore(ROOT, cache=tmp_path / "other")
    found = other.find(key())
    assert found is not None
    folder = other.fetch(found, verify=True)
    assert {name: (folder / name).read_bytes() for name in parts} == parts
    assert other.shards(key()).finished() == set(), "cleared by the commit"
    assert other.storage.read("runs/a/run.json") == b"{}"
    (kept,) = scan(other.storage).keys
    assert kept.key.digest == key().digest
    assert list(kept.left()) == []
    assert kept.usage.bytes > 6 << 20
    other.storage.delete(key().folder)
    assert other.find(key()) is None
    assert all(found.kind == "folder" for found in other.storage.tree("artifacts"))
    assert {fault.split()[0] for fault in faulty.met} == set(FAULTS)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("faulty", [9], indirect=True)
@pytest.mark.parametrize("mode", ["local", "ray"])
def test_a_whole_run_ends_with_the_bytes_of_one_on_a_folder(
    faulty: Faulty, undisturbed: RunResult, tmp_path: Path, mode: str
) -> None:
    settings = tiny_config(tmp_path).model_dump(mode="json")
    settings |= {"storage": ROOT, "compute": {"mode": mode, "workers": 2}}
    (tmp_path / "c.yaml").write_text(json.dumps(settings))  # which is YAML
    command = [sys.executable, "-m", "tskd_ray", "run", str(tmp_path / "c.yaml"), "--json"]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}

    def tskd(*command: str) -> list[dict[str, Any]]:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return [json.loads(line) for line in done.stdout.splitlines()]

    tskd(*command)
    storage = Storage(ROOT)
    assert storage.size("runs/tiny/report.html")
    for found in storage.tree("runs/tiny"):
        if found.kind == "file":
            storage.download(found.path, tmp_path / found.path)
    assert result_bytes(tmp_path / "runs/tiny") == result_bytes(undisturbed.folder)
    assert parts(storage) == parts(Storage(str(undisturbed.folder.parents[1])))
    again = tskd(*command)
    assert not [line for line in again if line["event"] == "stage"], "nothing is done twice"
    (status, *_) = tskd(*command[:3], "status", "tiny", "--storage", ROOT, "--json")
    assert status["values"]["state"] == "complete"
    assert {fault.split()[0] for fault in faulty.met} == set(FAULTS)
    secret = ENVIRONMENT["AWS_SECRET_ACCESS_KEY"].encode()
    for found in storage.tree("runs"):
        assert secret not in (storage.read(found.path) or b""), found.path


def parts(storage: Storage) -> dict[str, list[tuple[str, str]]]:
    """Names and hashes of every artifact's parts, by its folder."""
    return {
        folder.key.folder: [(part.name, part.sha256) for part in folder.manifest.parts]
        for folder in scan(storage).keys
        if folder.manifest is not None
    }
