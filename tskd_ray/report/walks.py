"""Stitched trajectories to step through: where each part came from, V, and what is claimed.

E episodes · L steps of one · n states kept of its L + 1 · S observation dim
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tskd_ray.data.trajectories import Origin, Trajectories
from tskd_ray.report.data import Projection, Walk, WalkPart
from tskd_ray.report.plots import _INK, _ORIGINS, GROUP_COLORS, _svg
from tskd_ray.report.projection import Plane
from tskd_ray.types import Float64Array, FloatArray, IntArray

SHOWN = 6
"""Trajectories to step through, evenly over the ranks: the best, the worst, and between."""

STATES = 1001
"""Kept of one; of longer ones evenly spaced, and those around each hop."""

BACKGROUND = 600
"""Points of the projection that the viewer draws behind a trajectory."""


def describe_walks(
    stitched: Trajectories,
    recorded: Trajectories,
    generated: Sequence[Trajectories],
    value: Callable[[FloatArray], Float64Array],
    plane: Plane | None,
    *,
    count: int = SHOWN,
) -> tuple[Walk, ...]:
    """Some of the trajectories that hold a hop, best claimed return first.

    Args:
        stitched: D of the last epoch.
        recorded: What it was stitched from,
        generated: with all generated so far.
        value: V(S) -> (n,).
        plane: Where to place states; None: nowhere.
        count: How many, evenly over the ranks.
    """
    new = np.flatnonzero(stitched.episode_origin == Origin.STITCHED)
    ranked = new[np.argsort(-stitched.returns[new], kind="stable")]
    if not len(ranked):
        return ()
    ranks = np.unique(np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round())
    of_origin = ((Origin.RECORDED, recorded), *((Origin.GENERATED, g) for g in generated))
    return tuple(
        _walk(stitched, int(ranked[rank]), of_origin, value, plane, (rank + 1, len(ranked)))
        for rank in ranks.astype(int)
    )


def _walk(
    stitched: Trajectories,
    index: int,
    sources: Sequence[tuple[Origin, Trajectories]],
    value: Callable[[FloatArray], Float64Array],
    plane: Plane | None,
    place: tuple[int, int],
) -> Walk:
    episode = stitched.episode(index)
    hops = np.flatnonzero(episode["origin"] == Origin.STITCHED)
    kept = _kept(len(episode["actions"]), hops)
    states = episode["observations"][kept]
    claimed = np.concatenate([[0.0], np.cumsum(episode["rewards"], dtype=np.float64)])[kept]
    before = _find(episode["episode_id"], sources)
    return Walk(
        rank=int(place[0]),
        of=place[1],
        before=None if before is None else float(before[1].returns[before[2]]),
        parts=tuple(_parts(episode, hops, sources)),
        hops=tuple(int(hop) for hop in hops),
        steps=tuple(int(step) for step in kept),
        values=_rounded(value(states)),
        claimed=_rounded(claimed),
        places=()
        if plane is None
        else tuple((float(x), float(y)) for x, y in plane.place(states).round(3)),
    )


def _kept(length: int, hops: IntArray) -> IntArray:
    """Numbers of the states to keep."""
    if length + 1 <= STATES:
        return np.arange(length + 1)
    even = np.linspace(0, length, STATES).round().astype(np.int64)
    return np.unique(np.concatenate([even, hops, hops + 1]))


def _parts(
    episode: dict[str, Any], hops: IntArray, sources: Sequence[tuple[Origin, Trajectories]]
) -> list[WalkPart]:
    """Stretches between hops; each hop is the last step of its part."""
    length = len(episode["actions"])
    firsts = [0, *(int(hop) + 1 for hop in hops if hop + 1 < length)]
    parts: list[WalkPart] = []
    for first, end in zip(firsts, [*firsts[1:], length], strict=True):
        source = int(episode["source_episode"][first])
        found = _find(source, sources)
        parts.append(
            WalkPart(
                episode=source,
                origin=int(Origin.RECORDED if found is None else found[0]),
                first=first,
                source_step=int(episode["source_step"][first]),
                steps=end - first,
            )
        )
    return parts


def _find(
    episode_id: int, sources: Sequence[tuple[Origin, Trajectories]]
) -> tuple[Origin, Trajectories, int] | None:
    for origin, trajectories in sources:
        found = np.flatnonzero(trajectories.episode_id == episode_id)
        if len(found):
            return origin, trajectories, int(found[0])
    return None


def _rounded(values: FloatArray) -> tuple[float, ...]:
    """To five digits: enough for an eye, a third of the bytes."""
    return tuple(float(f"{value:.5g}") for value in values)


# -- for the page ------------------------------------------------------------------------


def viewer_data(walks: Sequence[Walk], projection: Projection | None) -> dict[str, Any]:
    """What the page's script reads, as JSON without NaN."""
    return {
        "origins": _ORIGINS,
        "points": [] if projection is None else projection.points[:BACKGROUND],
        "walks": [
            {
                "rank": walk.rank,
                "of": walk.of,
                "before": _finite(walk.before),
                "parts": [
                    [part.first, part.steps, part.episode, part.origin, part.source_step]
                    for part in walk.parts
                ],
                "hops": walk.hops,
                "steps": walk.steps,
                "values": [_finite(value) for value in walk.values],
                "claimed": [_finite(value) for value in walk.claimed],
                "places": walk.places,
            }
            for walk in walks
        ],
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def draw_walk(walk: Walk) -> str:
    """V and the claimed return along one trajectory, a shade for each part, as SVG."""

    def draw(figure: Figure) -> None:
        panels = figure.subplots(2, 1, sharex=True)
        for axes, values, title in (
            (panels[0], walk.values, "V of the state"),
            (panels[1], walk.claimed, "claimed return until there"),
        ):
            _shade(axes, walk)
            axes.plot(walk.steps, values, color=_INK, lw=1.2)
            axes.set_title(title, loc="left", pad=2)
            axes.grid(visible=False, axis="x")
        panels[1].set_xlabel("step (dotted: a hop to another episode)")
        for origin in sorted({part.origin for part in walk.parts}):
            name = _ORIGINS[origin]
            color = GROUP_COLORS[name]
            panels[0].fill_between([], [], color=color, alpha=0.3, lw=0, label=f"{name} part")
        figure.legend(loc="outside lower center", ncols=2)

    return _svg("walk", (5.0, 3.6), draw)


def _shade(axes: Axes, walk: Walk) -> None:
    for number, part in enumerate(walk.parts):
        color = GROUP_COLORS[_ORIGINS[part.origin]]
        end = part.first + part.steps
        axes.axvspan(part.first, end, color=color, alpha=0.3 if number % 2 else 0.16, lw=0)
    for hop in walk.hops:
        axes.axvline(hop + 1, color=GROUP_COLORS["stitched"], lw=1, ls=":")
