"""Neighbour searches that serve others come first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.sweep.tiny_sweep import load_tiny
from tskd_ray.config.load_sweep import Sweep
from tskd_ray.distributed.workshop import Job
from tskd_ray.pipeline.artifacts import ArtifactStore
from tskd_ray.pipeline.graph import build_graph
from tskd_ray.pipeline.recorded import data_key, load_recorded
from tskd_ray.pipeline.sweep.points import known_points
from tskd_ray.pipeline.sweep.trial import TrialObjective
from tskd_ray.pipeline.sweep.widest import widest_searches

SPACE = {
    "stitch.radius": {"grid": [0.5, 2.0, 1.0, {"neighbours": 3}, {"neighbours": 9}]},
    "stitch.epochs": {"grid": [0, 1, 2]},
    "generate.sampler.guidance": {"grid": [1.0, 1.5]},
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    folder = tmp_path_factory.mktemp("sweep")
    return load_tiny(folder / "storage", folder, space=SPACE)


def test_each_search_is_served_by_the_widest_of_its_family(sweep: Sweep) -> None:
    key = data_key(load_recorded(sweep.base))
    points = known_points(sweep)
    assert points is not None
    widest = widest_searches(sweep, points, key)
    # two guidances, three radii served by others; trials of one and two epochs share a search
    assert len(widest) == 2 * (2 + 1)
    for point in points:
        config = sweep.config(point)
        graph = build_graph(config, key)
        if "hops-1" not in graph:
            continue
        radius = point["stitch.radius"]
        first = widest.get(graph["hops-1"].key.digest)
        if radius in (2.0, {"neighbours": 9}):
            assert first is None
            continue
        assert first is not None
        by_count = isinstance(radius, dict)
        assert first.point["stitch.radius"] == ({"neighbours": 9} if by_count else 2.0)
        assert first.config.generate == config.generate
        assert first.inputs == {name: graph[name].key for name in graph["hops-1"].inputs}


def test_a_trial_orders_the_search_that_serves_its_own(sweep: Sweep, tmp_path: Path) -> None:
    key = data_key(load_recorded(sweep.base))
    points = known_points(sweep)
    assert points is not None
    objective = TrialObjective(
        sweep=sweep,
        store=ArtifactStore(str(tmp_path)),
        data_key=key,
        scale=None,
        by_epoch=False,
        tag="tag",
        widest=widest_searches(sweep, points, key),
    )

    def ordered(radius: float) -> list[Job]:
        point = {"stitch.radius": radius, "stitch.epochs": 1, "generate.sampler.guidance": 1.5}
        jobs: list[Job] = []

        def order(wanted: Sequence[Job]) -> None:
            jobs.extend(wanted)
            raise StopAsyncIteration  # nothing is done, so nothing can be read

        with pytest.raises(StopAsyncIteration):
            next(iter(objective(point, order)))
        return [job for job in jobs if job.name == "hops-1"]

    (wide,) = ordered(2.0)
    first, own = ordered(0.5)
    assert first == wide, "made for the trial that it belongs to, as it orders it itself"
    assert first.key in own.after
    assert first.key not in first.after
    assert own.arguments["config"].stitch.radius == 0.5
    assert first.arguments["config"].stitch.radius == 2.0
