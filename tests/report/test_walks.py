from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import tskd_ray
from report.report_example import example
from toy_world import toy_trajectories
from tskd_ray.data.trajectories import Origin, Trajectories
from tskd_ray.report import walks as module
from tskd_ray.report.data import Walk
from tskd_ray.report.projection import fit_plane
from tskd_ray.report.walks import describe_walks, viewer_data
from tskd_ray.types import Float64Array, FloatArray


def value(states: FloatArray) -> Float64Array:
    return -np.abs(states[:, 0].astype(np.float64) - 0.5)


@pytest.fixture(scope="module")
def world() -> tuple[Trajectories, Trajectories, Trajectories]:
    """Recorded, generated, and what two epochs of stitching make of them."""
    recorded = toy_trajectories(30, gain=0.2)
    made = toy_trajectories(12, seed=1)
    shift = recorded.n_episodes
    generated = Trajectories.from_episodes(
        made.episodes(), origin=Origin.GENERATED, first_id=shift, environment=made.environment
    )
    both = Trajectories.concatenate([recorded, generated])
    for _ in range(2):
        both = tskd_ray.stitch_epoch(
            both,
            value=value,
            log_density=lambda s, s2: np.zeros((1, len(s))),
            action=lambda s, s2: np.zeros((len(s), 1), dtype=np.float32),
            reward=lambda s, s2: np.full(len(s), 2.0, dtype=np.float32),
            radius=0.2,
        ).trajectories
    return recorded, generated, both


def described(
    world: tuple[Trajectories, Trajectories, Trajectories], count: int = 6
) -> tuple[Walk, ...]:
    recorded, generated, stitched = world
    plane = fit_plane(recorded.observations, np.zeros(recorded.n_states, np.int8))
    return describe_walks(stitched, recorded, [generated], value, plane, count=count)


def test_each_part_is_a_stretch_of_the_episode_it_names(
    world: tuple[Trajectories, Trajectories, Trajectories],
) -> None:
    recorded, generated, stitched = world
    sources = {
        int(episode_id): (origin, part.episode(number))
        for origin, part in ((0, recorded), (1, generated))
        for number, episode_id in enumerate(part.episode_id)
    }
    new = np.flatnonzero(stitched.episode_origin == Origin.STITCHED)
    ranked = sorted(new, key=lambda e: -stitched.returns[e])
    walks = described(world, count=1000)
    assert [walk.rank for walk in walks] == list(range(1, len(ranked) + 1))
    assert sum(len(walk.hops) for walk in walks) > len(walks)
    assert {part.origin for walk in walks for part in walk.parts} == {0, 1}
    for walk, number in zip(walks, ranked, strict=True):
        episode = stitched.episode(int(number))
        assert sum(part.steps for part in walk.parts) == len(episode["actions"])
        for part in walk.parts:
            origin, source = sources[part.episode]
            assert part.origin == origin
            np.testing.assert_array_equal(
                episode["observations"][part.first : part.first + part.steps],
                source["observations"][part.source_step :][: part.steps],
            )
        ends = [part.first + part.steps - 1 for part in walk.parts]
        assert set(ends[:-1]) <= set(walk.hops) <= set(ends)
        start = sources[walk.parts[0].episode][1]
        assert walk.before == pytest.approx(start["rewards"].sum(), rel=1e-5)


def test_values_and_claims_are_those_of_the_states_kept(
    world: tuple[Trajectories, Trajectories, Trajectories], monkeypatch: pytest.MonkeyPatch
) -> None:
    stitched = world[2]
    for limit in (1001, 7):
        monkeypatch.setattr(module, "STATES", limit)
        for walk in described(world):
            new = np.flatnonzero(stitched.episode_origin == Origin.STITCHED)
            number = sorted(new, key=lambda e: -stitched.returns[e])[walk.rank - 1]
            episode = stitched.episode(int(number))
            length = len(episode["actions"])
            assert {0, length, *walk.hops, *(hop + 1 for hop in walk.hops)} <= set(walk.steps)
            assert len(walk.steps) <= min(length + 1, limit + 2 * len(walk.hops))
            for step, v, claimed in zip(walk.steps, walk.values, walk.claimed, strict=True):
                state = episode["observations"][step : step + 1]
                assert v == pytest.approx(value(state)[0], rel=1e-4)
                assert claimed == pytest.approx(episode["rewards"][:step].sum(), rel=1e-4)
            assert len(walk.places) == len(walk.steps)


def test_a_few_are_taken_evenly_over_the_ranks(
    world: tuple[Trajectories, Trajectories, Trajectories],
) -> None:
    walks = described(world, count=3)
    last = walks[0].of
    assert [walk.rank for walk in walks] == [1, 1 + round((last - 1) / 2), last]
    claims = [walk.claimed[-1] for walk in walks]
    assert claims == sorted(claims, reverse=True)


def test_without_stitched_trajectories_there_is_nothing_to_step_through(
    world: tuple[Trajectories, Trajectories, Trajectories],
) -> None:
    recorded = world[0]
    assert describe_walks(recorded, recorded, [], value, None) == ()


def test_what_is_not_finite_reaches_the_page_as_null() -> None:
    (walk, *_) = example().plots.walks
    broken = replace(walk, values=(float("nan"), *walk.values[1:]), before=None)
    (data,) = viewer_data([broken], None)["walks"]
    assert data["values"][0] is None
    assert data["before"] is None
    assert data["values"][1] == walk.values[1]
