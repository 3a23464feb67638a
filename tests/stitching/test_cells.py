"""Cells and the search over them: against brute force, where rounding or padding may bite."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

from tskd_ray.stitching import kernels, lanes
from tskd_ray.stitching.cells import LANES, NEVER, Cells, build_cells
from tskd_ray.stitching.points import Points
from tskd_ray.stitching.reach import places
from tskd_ray.stitching.shards import read_only

SIZES = (1, 2, 15, 16, 17, 255, 256, 257, 600, 4_200)


def lattice(n: int, d: int = 3, seed: int = 0) -> np.ndarray:
    """Points with many duplicates, and distances of exactly 1, √2 or 2."""
    return np.random.default_rng(seed).integers(0, 7, (n, d)).astype(np.float64)


def space_of(points: np.ndarray, n_ranks: int, radius: float) -> kernels.Space:
    """The first `n_ranks` points are the candidates, in order of rank."""
    limit = radius * radius
    while np.sqrt(np.nextafter(limit, np.inf)) <= radius:
        limit = float(np.nextafter(limit, np.inf))
    scale = np.ones(points.shape[1])
    arrays = map(read_only, (points, np.arange(n_ranks), scale))
    return kernels.Space(*arrays, limit=limit, radius=radius)


def queries_of(n: int, points: np.ndarray, seed: int = 1) -> kernels.Queries:
    rng = np.random.default_rng(seed)
    columns = [rng.integers(0, len(points), n) for _ in range(4)]
    arrival, floor, stop, own = columns
    floor[::2] = -1
    stop[1::3] = len(points)
    return kernels.Queries(arrival=arrival, floor=floor, stop=stop, own=own)


def found_in(
    cells: Cells, space: kernels.Space, queries: kernels.Queries, k: int = 1
) -> np.ndarray:
    n, d = len(queries.arrival), space.states.shape[1]
    nothing = np.zeros((0, 0, d))
    found, tested = np.empty((n, k), dtype=np.int64), np.ones(n, dtype=np.bool_)
    gaussians = kernels.Gaussians(nothing, nothing)
    cells = Cells(*map(read_only, cells))
    kernels.best_in_cells(queries, space, cells, gaussians, found, tested)
    assert not tested.any()
    return found


def count_in(
    cells: Cells, space: kernels.Space, queries: kernels.Queries, most: int
) -> np.ndarray:
    count = np.empty(len(queries.arrival), dtype=np.int64)
    cells = Cells(*map(read_only, cells))
    kernels.count_in_cells(queries, most, space, cells, count)
    return count


def near(space: kernels.Space, arrival: int, ranks: range) -> np.ndarray:
    """Ranks within the radius, the squares added up one dimension after the other."""
    total = np.zeros(len(ranks))
    with np.errstate(invalid="ignore", over="ignore"):
        for k in range(space.states.shape[1]):
            candidates = space.states[ranks.start : ranks.stop, k].astype(np.float64)
            total += (candidates - np.float64(space.states[arrival, k])) ** 2
        return np.flatnonzero(np.sqrt(total) <= space.radius) + ranks.start


def best_by_hand(
    space: kernels.Space, queries: kernels.Queries, ranks: range, k: int
) -> np.ndarray:
    found = np.full((len(queries.arrival), k), len(space.states))
    for q, (arrival, floor, stop, own) in enumerate(zip(*queries, strict=True)):
        inside = near(space, arrival, ranks)
        admissible = inside[(inside > floor) & (inside < stop) & (inside != own)][:k]
        found[q, : len(admissible)] = admissible
    return found


def assert_exact(
    points: np.ndarray, radius: float, ranks: range, queries: kernels.Queries, k: int = 1
) -> np.ndarray:
    """Search and count like brute force; what was found."""
    cells = build_cells(Points(points, rows=np.array(ranks)), first_rank=ranks.start)
    space = space_of(points, ranks.stop, radius)
    found = found_in(cells, space, queries, k)
    np.testing.assert_array_equal(found, best_by_hand(space, queries, ranks, k))
    for most in (1, 5, len(points)):
        want = [
            min(most, len(set(near(space, arrival, ranks)) - {floor, own}))
            for arrival, floor, _, own in zip(*queries, strict=True)
        ]
        np.testing.assert_array_equal(count_in(cells, space, queries, most), want)
    return found


@pytest.mark.parametrize("n", SIZES)
def test_each_state_is_in_one_cell_and_all_boxes_around_it(n: int) -> None:
    points = np.random.default_rng(n).normal(size=(n, 5)) if n % 2 else lattice(n)
    cells = build_cells(Points(points))
    d = points.shape[1]
    assert len(cells.ranks) == -(-n // LANES)
    np.testing.assert_array_equal(np.sort(cells.ranks[cells.ranks != NEVER]), np.arange(n))
    assert (np.diff(cells.ranks.astype(np.int64), axis=1) >= 0).all()
    assert (np.diff(cells.ranks[:, 0]) > 0).all()
    np.testing.assert_array_equal(np.sort(cells.cell_at), np.arange(len(cells.ranks)))
    along = ((points - cells.centre) @ cells.axes.T).astype(np.float32)
    assert np.sqrt((along.astype(np.float64) ** 2).sum(axis=1)).max() <= 1
    for cell, ranks in enumerate(cells.ranks):
        members = ranks[ranks != NEVER]
        np.testing.assert_allclose(
            cells.inner[cell][:, : len(members)].T, along[members], atol=1e-6
        )
        low, high = cells.bounds[cell]
        np.testing.assert_array_equal(low, cells.inner[cell].min(axis=1))
        np.testing.assert_array_equal(high, cells.inner[cell].max(axis=1))
    low, high = (cells.bounds[cells.cell_at, side] for side in (0, 1))
    lowest = cells.ranks[cells.cell_at, 0]
    for first, stop in zip(cells.level[:-1], cells.level[1:], strict=True):
        boxes = cells.boxes[first:stop].transpose(0, 3, 2, 1).reshape(-1, 2, d)
        np.testing.assert_array_equal(boxes[: len(low), 0], low)
        np.testing.assert_array_equal(boxes[: len(low), 1], high)
        kept = cells.lowest[first:stop].reshape(-1)
        np.testing.assert_array_equal(kept[: len(low)], lowest)
        assert (kept[len(low) :] == NEVER).all()
        groups = [slice(i, i + LANES) for i in range(0, len(low), LANES)]
        low = np.stack([low[group].min(axis=0) for group in groups])
        high = np.stack([high[group].max(axis=0) for group in groups])
        lowest = np.stack([lowest[group].min() for group in groups])
    assert len(lowest) == 1


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("radius", [0.0, 1.0, float(np.sqrt(2)), 2.5, 100.0])
def test_what_is_found_and_counted_is_what_brute_force_finds(n: int, radius: float) -> None:
    points = lattice(n)
    assert_exact(points, radius, range(n), queries_of(150, points), k=3)


@pytest.mark.parametrize("d", [1, 4, 5, 17])
def test_any_number_of_dimensions_will_do(d: int) -> None:
    points = np.random.default_rng(d).normal(size=(900, d))
    radius = 0.9 * float(np.sqrt(d))
    found = assert_exact(points, radius, range(900), queries_of(200, points))
    assert 0 < (found == 900).mean() < 0.9


def test_a_shard_is_searched_for_states_of_others() -> None:
    points = lattice(2_000)
    queries = queries_of(300, points)
    for ranks in (range(500), range(500, 1_300), range(1_999, 2_000)):
        assert_exact(points, 1.0, ranks, queries, k=2)


def test_many_cells_are_listed_in_the_order_of_their_ranks() -> None:
    points = np.random.default_rng(4).normal(size=(140_000, 2)).astype(np.float32)
    assert len(points) > 2 * 64 * 64 * LANES, "marks of cells fill more than two words of marks"
    queries = queries_of(30, points)
    found = assert_exact(points, 0.05, range(140_000), queries, k=3)
    assert (found[:, 0] < 140_000).any()


def test_queries_may_come_in_any_order() -> None:
    points = np.random.default_rng(3).normal(size=(3_000, 4))
    cells, space = build_cells(Points(points)), space_of(points, 3_000, 0.4)
    queries = queries_of(1_000, points)
    place = np.empty(1_000, dtype=np.int64)
    places(space, queries.arrival, Cells(*map(read_only, cells)), place)
    assert place.min() >= 0
    assert place.max() < len(cells.ranks)
    found = found_in(cells, space, queries)
    assert 0 < (found == 3_000).mean() < 0.9
    order = np.argsort(place, kind="stable")
    sorted_queries = kernels.Queries(*(column[order] for column in queries))
    np.testing.assert_array_equal(found_in(cells, space, sorted_queries), found[order])


def test_a_state_is_at_home_in_the_place_of_its_cell() -> None:
    points = np.random.default_rng(5).normal(size=(4_000, 3))
    cells = build_cells(Points(points))
    place = np.empty(4_000, dtype=np.int64)
    mapped = Cells(*map(read_only, cells))
    places(space_of(points, 4_000, 0.4), np.arange(4_000), mapped, place)
    cell = np.empty(4_000, dtype=np.int64)
    cell[cells.ranks.reshape(-1)] = np.repeat(np.arange(len(cells.ranks)), LANES)
    np.testing.assert_array_equal(cells.cell_at[place], cell)


@pytest.mark.parametrize("unit", [1e-30, 1e-3, 1e25, 1e140])
@pytest.mark.parametrize("offset", [0.0, 1e3, 1e9])
def test_no_pair_at_the_radius_is_lost_to_rounding(unit: float, offset: float) -> None:
    points = (lattice(700) + offset) * unit
    rng = np.random.default_rng(0)
    a, b = points[rng.integers(0, 700, (2, 40))]
    for radius in np.sqrt(((a - b) ** 2).sum(axis=1)):
        assert_exact(points, float(radius), range(700), queries_of(20, points))


def test_one_state_far_away_costs_no_neighbours() -> None:
    points = np.concatenate([np.random.default_rng(0).normal(size=(500, 3)), [[1e7, 0, 0]]])
    found = assert_exact(points, 0.5, range(501), queries_of(200, points))
    assert 0 < (found == 501).mean() < 1


def test_queries_far_beyond_all_candidates_or_not_finite_find_what_is_there() -> None:
    inside = np.random.default_rng(0).normal(size=(400, 3))
    outside = [[3e7, 0, 0], [1e30, 1, 0], [1e200, 0, 0], [np.nan, 0, 0], [0, np.inf, 0]]
    points = np.concatenate([inside, outside])
    queries = kernels.Queries(
        arrival=np.arange(395, 405),
        floor=np.full(10, -1),
        stop=np.full(10, 405),
        own=np.full(10, 2),
    )
    reached = []
    for radius in (0.5, 3e7, 1e30, 2e30):
        found = assert_exact(points, radius, range(400), queries)
        reached.append((found < 405).sum())
    assert reached == sorted(reached)
    assert reached[0] >= 5
    assert reached[-1] == 7


@numba.njit
def _near_members(inner: Any, first: int, query: Any, d: int, limit: Any) -> int:
    return lanes.near_members(inner, first, query, 0, d, limit)


@numba.njit
def _near_boxes(boxes: Any, first: int, low: Any, high: Any, d: int, limit: Any) -> int:
    return lanes.near_boxes(boxes, first, low, high, 0, d, limit)


@numba.njit
def _likely_members(
    given: Any, first: int, mean: Any, precision: Any, d: int, limit: Any
) -> int:
    return lanes.likely_members(given, first, mean, precision, d, d, limit)


@numba.njit
def _likely_boxes(boxes: Any, first: int, mean: Any, precision: Any, d: int, limit: Any) -> int:
    return lanes.likely_boxes(boxes, first, mean, precision, d, d, limit)


@numba.njit
def _lowest_bit(bits: int) -> int:
    return lanes.lowest_bit(bits)


def bits_of(flags: np.ndarray) -> int:
    return sum(1 << int(j) for j in np.flatnonzero(flags))


def test_lanes_are_kept_unless_they_are_too_far() -> None:
    rng = np.random.default_rng(0)
    for d in (1, 3, 11):
        inner = rng.integers(-3, 4, (4, d, LANES)).astype(np.float32)
        inner[1, 0, 3], inner[2, 0, 5] = np.nan, np.inf
        query = rng.integers(-3, 4, d).astype(np.float32)
        for i, limit in ((0, 0.0), (1, 4.0), (2, 9.0), (3, 20.0)):
            total = ((inner[i] - query[:, None]) ** 2).sum(axis=0)
            got = _near_members(inner, i * d * LANES, query, d, np.float32(limit))
            assert got == bits_of(~(total > limit))
        low, high = (rng.integers(-5, 5, (2, d)).astype(np.float32) for _ in range(2))
        low, high = np.minimum(low, high), np.maximum(low, high)
        boxes = np.sort(rng.integers(-9, 9, (2, d, 2, LANES)), axis=2).astype(np.float32)
        boxes[1, 0, 0, 2] = np.inf  # an empty place
        boxes[1, 0, 1, 2] = -np.inf
        for i, limit in ((0, 0.0), (1, 10.0)):
            gap = np.maximum(
                boxes[i, :, 0] - high[i][:, None], low[i][:, None] - boxes[i, :, 1]
            )
            total = (np.maximum(gap, 0) ** 2).sum(axis=0)
            got = _near_boxes(boxes, i * 2 * d * LANES, low[i], high[i], d, np.float32(limit))
            assert got == bits_of(~(total > limit))
    for bit in (0, 1, 15, 40, 62, 63):
        bits = np.array([1 << bit], dtype=np.uint64).view(np.int64)[0]
        assert _lowest_bit(bits) == bit
        assert _lowest_bit(bits | np.int64(-(2**63))) == bit


def test_lanes_are_kept_unless_they_are_too_unlikely() -> None:
    rng = np.random.default_rng(1)
    for d in (1, 3, 11):
        given = rng.integers(-3, 4, (2, d, LANES)).astype(np.float32)
        given[1, 0, 3] = np.nan
        # the second of two ellipsoids
        mean = rng.integers(-3, 4, 2 * d).astype(np.float32)
        precision = rng.integers(1, 4, 2 * d).astype(np.float32)
        boxes = np.sort(rng.integers(-9, 9, (2, d, 2, LANES)), axis=2).astype(np.float32)
        boxes[1, 0, 0, 2] = np.inf  # an empty place
        boxes[1, 0, 1, 2] = -np.inf
        centre, scale = mean[d:, None], precision[d:, None]
        for i, limit in ((0, 0.0), (0, 30.0), (1, 100.0), (1, 400.0)):
            total = (((given[i] - centre) * scale) ** 2).sum(axis=0)
            at = i * d * LANES
            got = _likely_members(given, at, mean, precision, d, np.float32(limit))
            assert got == bits_of(~(total > limit))
            gap = np.maximum(boxes[i, :, 0] - centre, centre - boxes[i, :, 1])
            total = ((np.maximum(gap, 0) * scale) ** 2).sum(axis=0)
            got = _likely_boxes(boxes, 2 * at, mean, precision, d, np.float32(limit))
            assert got == bits_of(~(total > limit))
