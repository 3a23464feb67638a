"""The hops stage: shards, rounds and a larger radius found in the storage change no result."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.tiny import tiny_config
from toy_world import toy_trajectories
from tskd_ray.config.schema import Config, FitConfig, RadiusConfig
from tskd_ray.data.arrays import save_arrays
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.models.forward_dynamics import ForwardDynamics
from tskd_ray.models.value import TwinValue
from tskd_ray.pipeline import hops
from tskd_ray.pipeline.artifacts import Artifact, ArtifactStore, artifact_key
from tskd_ray.pipeline.cost import Meter
from tskd_ray.pipeline.graph import build_graph
from tskd_ray.pipeline.nodes import Node
from tskd_ray.pipeline.recorded import data_key, load_recorded
from tskd_ray.pipeline.run import run
from tskd_ray.pipeline.stages import Work
from tskd_ray.stitching.hops import HopDecisions, decide_hops
from tskd_ray.stitching.kinds import join_kinds
from tskd_ray.stitching.problem import hop_problem


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


def radius_by_hand(data: Trajectories, neighbours: int, scale: np.ndarray) -> float:
    """The median over states of the distance to the nearest others' last one (D19)."""
    points = data.observations.astype(np.float64) / scale
    near = [
        np.sort(np.delete(np.sqrt(((points - point) ** 2).sum(axis=1)), row))[neighbours - 1]
        for row, point in enumerate(points)
    ]
    return float(np.median(near))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the first epoch's decisions read, of few states and networks hardly trained."""
    folder, fit = tmp_path_factory.mktemp("small"), FitConfig(steps=3, batch_size=32)
    names = ("data", "generate-1", "value-1", "dynamics")
    folders = {name: folder / name for name in names}
    data = toy_trajectories(6, limit=20)
    save_arrays(data, folders["data"])
    save_arrays(made_after(data), folders["generate-1"])
    TwinValue.fit(data, fit, 0).save(folders["value-1"])
    ForwardDynamics.fit(data, fit, 0, members=2, best=2).save(folders["dynamics"])
    return folders


def made_after(data: Trajectories) -> Trajectories:
    made = toy_trajectories(4, seed=1, limit=20)
    return replace(made, episode_id=made.episode_id + data.n_episodes)


@pytest.mark.parametrize(
    "stitch",
    [
        {"metric": "standardized", "radius": RadiusConfig(neighbours=9)},
        {"radius": RadiusConfig(neighbours=30), "candidate": "best_value_first"},
        {"radius": 0.2, "method": "mbts"},
    ],
)
def test_the_stage_decides_as_the_algorithm_does_with_its_settings(
    small: dict[str, Path], tmp_path: Path, stitch: dict[str, Any]
) -> None:
    chosen = config(tmp_path, decide="all", **stitch)
    (tmp_path / "out").mkdir()
    work = Work(
        name="hops-1",
        config=chosen,
        inputs=small,
        out=tmp_path / "out",
        scratch=tmp_path / "scratch",
    )
    key = artifact_key("hops", code_version="1", config={}, inputs={}, seed=0)
    node = Node(name="hops-1", stage="hops", role="stitch", config={}, inputs=(), key=key)
    hops.run_hops(ArtifactStore(str(tmp_path)), node, {}, work, Meter())
    joined = work.joined()
    assert joined.n_states < 256, "the radius looks at so many"
    unit, scale = np.ones(2), joined.observations.std(axis=0, dtype=np.float64)
    metric = stitch.get("metric", "raw")
    radius = stitch["radius"]
    if isinstance(radius, RadiusConfig):
        by = unit if metric == "raw" else scale
        radius = radius_by_hand(joined, radius.neighbours, by)

    def decided(radius: float, near: Any = "arrival", **options: Any) -> HopDecisions:
        problem = hop_problem(
            joined,
            value=TwinValue.load(small["value-1"]).predict,
            log_density=ForwardDynamics.load(small["dynamics"]),
            radius=radius,
            near=near,
            **options,
        )
        return decide_hops(problem)

    options = {name: stitch[name] for name in ("metric", "candidate") if name in stitch}
    expected, plain = decided(radius, **options), decided(radius)
    if "method" in stitch:
        first = hop_problem(
            joined,
            value=TwinValue.load(small["value-1"]).predict,
            log_density=ForwardDynamics.load(small["dynamics"]),
            radius=radius,
        )
        expected = join_kinds(first, [plain, decided(radius, near="departure")])
    found = {name: np.load(work.out / f"{name}.npy") for name in ("candidate", "verdict")}
    np.testing.assert_array_equal(found["candidate"], expected.candidate)
    np.testing.assert_array_equal(found["verdict"], expected.verdict)
    assert (expected.candidate >= 0).sum() > 5
    assert (expected.candidate != plain.candidate).any(), "the setting would not be missed"
    told = json.loads((work.out / "hops.json").read_text())
    assert told["radius"] == pytest.approx(radius, rel=1e-6)


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
