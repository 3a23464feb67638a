from __future__ import annotations

import numpy as np

from tskd_ray.report.projection import project_states


def test_the_axes_are_those_of_the_recorded_states() -> None:
    rng = np.random.default_rng(0)
    recorded = rng.normal(size=(500, 5))
    recorded[:, 3] = 2 * recorded[:, 0] + 0.1 * rng.normal(size=500)
    generated = np.full((3, 5), 40.0)
    states, origin = np.concatenate([recorded, generated]), np.repeat([0, 1], [500, 3])
    found = project_states(states, origin.astype(np.int8), max_points=10_000)

    z = (recorded - recorded.mean(axis=0)) / recorded.std(axis=0)
    _, singular, _ = np.linalg.svd(z, full_matrices=False)
    np.testing.assert_allclose(found.explained, (singular**2 / (singular**2).sum())[:2])
    points, origins = np.array(found.points), np.array(found.origins)
    assert len(points) == 503
    spread = points[origins == 0].std(axis=0)
    np.testing.assert_allclose(spread, singular[:2] / np.sqrt(500), rtol=1e-3)


def test_points_and_hops_are_bounded_and_every_origin_keeps_its_share() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(9000, 4))
    states[5] = np.nan
    origin = np.repeat([0, 1, 2], [8000, 900, 100]).astype(np.int8)
    hops = rng.integers(0, 9000, size=(700, 2))
    hops[0] = [5, 6]
    found = project_states(states, origin, hops, max_points=900, max_hops=50)
    assert np.bincount(found.origins).tolist() == [300, 300, 100]
    assert len(found.hops) == 50
    assert np.isfinite(found.points).all()
    assert np.isfinite(found.hops).all()
    assert found == project_states(states, origin, hops, max_points=900, max_hops=50)


def test_hops_join_the_points_they_name() -> None:
    states = np.random.default_rng(0).normal(size=(10, 3))
    found = project_states(states, np.zeros(10, np.int8), np.array([[2, 7]]))
    ends = {found.hops[0][:2], found.hops[0][2:]}
    assert ends <= set(found.points)


def test_too_little_to_project_is_an_empty_picture() -> None:
    assert project_states(np.zeros((1, 3)), np.zeros(1, np.int8)).points == ()
    assert project_states(np.zeros((9, 1)), np.zeros(9, np.int8)).points == ()
