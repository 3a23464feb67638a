"""The points of a search: a grid in full, or random draws, known before anything runs.

The draw of one setting at one point depends on the search's seed, that point's number and the
setting alone: more trials begin with the same ones, and a new setting does not change the rest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from tskd_ray.config.load_sweep import Point, Sweep, in_order
from tskd_ray.config.sweep import Domain
from tskd_ray.pipeline.manifest import canonical_json
from tskd_ray.seeding import numpy_rng

_PATIENCE = 50  # draws per trial before a space counts as exhausted


def known_points(sweep: Sweep) -> list[Point] | None:
    """All points in order, each once; None if each follows from earlier results (tpe)."""
    search = sweep.settings.search
    if search.method == "tpe":
        return None
    if search.method == "grid":
        return list(grid_points(sweep))
    assert search.trials is not None, "the schema asks for it"
    seen: dict[str, Point] = {}
    for number in range(_PATIENCE * search.trials):
        point = _draw_point(sweep, number)
        seen.setdefault(canonical_json(point), point)
        if len(seen) == search.trials:
            break
    return list(seen.values())


def grid_points(sweep: Sweep) -> Iterator[Point]:
    """Every combination of the listed values, the last setting changing fastest."""
    yield from _below(sweep, in_order(sweep), {})


def _below(sweep: Sweep, keys: list[str], point: Point) -> Iterator[Point]:
    if not keys:
        yield point
        return
    key, *rest = keys
    values = sweep.settings.space[key].values() if sweep.applies(key, point) else None
    if values is None:
        yield from _below(sweep, rest, point)
        return
    for value in values:
        yield from _below(sweep, rest, {**point, key: value})


def _draw_point(sweep: Sweep, number: int) -> Point:
    space, point = sweep.settings.space, dict[str, Any]()
    turn = _turn(space, number)
    for key in in_order(sweep):
        if sweep.applies(key, point):
            point[key] = turn[key] if key in turn else _draw(sweep, key, number)
    return point


def _turn(space: Mapping[str, Domain], number: int) -> Point:
    """The number-th combination of the `grid` settings, round and round."""
    grids = {key: domain.grid for key, domain in space.items() if domain.grid is not None}
    count = math.prod(len(values) for values in grids.values())
    combination = next(
        itertools.islice(itertools.product(*grids.values()), number % count, None)
    )
    return dict(zip(grids, combination, strict=True))


def _draw(sweep: Sweep, key: str, number: int) -> Any:
    domain = sweep.settings.space[key]
    rng = numpy_rng(sweep.settings.search.seed, "sweep", number, key)
    values = domain.values()
    if values is not None:
        return values[int(rng.integers(len(values)))]
    if domain.loguniform is not None:
        low, high = domain.loguniform
        return float(math.exp(rng.uniform(math.log(low), math.log(high))))
    assert domain.uniform is not None, "the only other continuum"
    return float(rng.uniform(*domain.uniform))
