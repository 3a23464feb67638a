"""The hops stage: shards, rounds and a larger radius found in the storage change no result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.tiny import tiny_config
from tskd_ray.config.schema import Config
from tskd_ray.pipeline import hops
from tskd_ray.pipeline.artifacts import Artifact, ArtifactStore
from tskd_ray.pipeline.graph import build_graph
from tskd_ray.pipeline.recorded import data_key, load_recorded
from tskd_ray.pipeline.run import run


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with all that the first epoch's hops read."""
    storage = tmp_path_factory.mktemp("teacher")
    run(config(storage), until="generate")
    return storage


def config(storage: Path, **stitch: Any) -> Config:
    made = tiny_config(storage)
    return made.model_copy(update={"stitch": made.stitch.model_copy(update=stitch)})


def artifacts(config: Config) -> dict[str, Artifact]:
    store = ArtifactStore(config.storage)
    graph = build_graph(config, data_key(load_recorded(config)))
    found = {name: store.find(graph[name].key) for name in ("hops-1", "stitch-1", "stitch-2")}
    return {name: artifact for name, artifact in found.items() if artifact is not None}


def parts(found: dict[str, Artifact]) -> dict[str, list[Any]]:
    return {
        name: [(part.name, part.sha256) for part in artifact.manifest.parts]
        for name, artifact in found.items()
    }


def stitched(teacher: Path, folder: Path, **stitch: Any) -> dict[str, Artifact]:
    """The artifacts of a run in a storage of its own, the teacher apart."""
    if not folder.exists():
        shutil.copytree(teacher, folder)
    settings = config(folder, **stitch)
    run(settings, until="stitch")
    return artifacts(settings)


def test_shards_and_rounds_change_no_trajectory(teacher: Path, tmp_path: Path) -> None:
    plain = stitched(teacher, tmp_path / "plain", radius=2.0)
    assert plain["hops-1"].info["shards"] == 1
    sharded = stitched(teacher, tmp_path / "sharded", radius=2.0, index_gib=1e-4)
    assert sharded["hops-1"].info["shards"] > 3
    assert parts(sharded) == parts(plain)
    reached = stitched(teacher, tmp_path / "plain", radius=2.0, decide="reached")
    assert reached["hops-1"].key != plain["hops-1"].key, "other counts"
    for name in ("stitch-1", "stitch-2"):
        same = [part for part in parts(plain)[name] if part[0] != "counts.json"]
        assert [part for part in parts(reached)[name] if part[0] != "counts.json"] == same


def test_a_larger_radius_serves_a_smaller_one(teacher: Path, tmp_path: Path) -> None:
    alone = stitched(teacher, tmp_path / "alone", radius=0.8)
    assert not alone["hops-1"].info["narrowed"]
    stitched(teacher, tmp_path / "both", radius=2.0)
    narrowed = stitched(teacher, tmp_path / "both", radius=0.8)
    assert narrowed["hops-1"].info["narrowed"]
    assert parts(narrowed) == parts(alone)
    wider = stitched(teacher, tmp_path / "both", radius=2.5)
    assert not wider["hops-1"].info["narrowed"]


def test_it_serves_rounds_too_and_leaves_the_same_undecided(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = stitched(teacher, tmp_path / "alone", radius=0.8, decide="reached")
    with monkeypatch.context() as patch:
        patch.setattr("tskd_ray.stitching.reached.RARE", 2.0)  # gives up: all are decided
        wide = stitched(teacher, tmp_path / "both", radius=2.0, decide="reached")
    assert wide["hops-1"].info["complete"]
    narrowed = stitched(teacher, tmp_path / "both", radius=0.8, decide="reached")
    assert narrowed["hops-1"].info["narrowed"]
    assert not narrowed["hops-1"].info["complete"]
    assert parts(narrowed) == parts(alone)


def test_another_order_of_tests_is_no_source(teacher: Path, tmp_path: Path) -> None:
    stitched(teacher, tmp_path / "both", radius=2.0)
    other = stitched(teacher, tmp_path / "both", radius=0.8, candidate="best_value_first")
    assert not other["hops-1"].info["narrowed"]


def test_what_an_approximate_search_misses_does_not_depend_on_a_machines_memory() -> None:
    joined = load_recorded(Config())
    assert hops._shard_states(joined, config(Path("s"), index_gib=1e-4)) == 617
    rough = config(Path("s"), index_gib=1e-4, search="faiss-ivf")
    assert hops._shard_states(joined, rough) is None, "one shard, as its key says nothing of it"


def test_an_approximate_search_is_another_artifact_and_says_so(
    teacher: Path, tmp_path: Path
) -> None:
    exact = stitched(teacher, tmp_path / "both", radius=2.0, search="faiss-flat")
    assert exact["hops-1"].info["search"] == "faiss-flat"
    rough = stitched(teacher, tmp_path / "both", radius=2.0, search="faiss-ivf")
    assert rough["hops-1"].key != exact["hops-1"].key
    metrics = json.loads((tmp_path / "both" / "runs" / "tiny" / "metrics.json").read_text())
    assert all(0 <= epoch["argmax_recall"] <= 1 for epoch in metrics["epochs"])
