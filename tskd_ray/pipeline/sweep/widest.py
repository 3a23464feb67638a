"""Which neighbour search serves others: the one at the largest radius of its family.

Trials that differ in nothing before their first stitching epoch but the radius search the same
states. Decided at the largest radius first, most decisions hold at the smaller ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tskd_ray.config.load_sweep import Point, Sweep
from tskd_ray.config.schema import Config, RadiusConfig
from tskd_ray.pipeline.artifacts import ArtifactKey
from tskd_ray.pipeline.graph import build_graph
from tskd_ray.pipeline.hops import family_of
from tskd_ray.pipeline.nodes import Node

_FIRST = "hops-1"
"""The epochs after it stitch what it left, which a radius changes."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search to do before narrower ones."""

    point: Mapping[str, Any]  # of the trial that it belongs to
    config: Config
    node: Node
    inputs: Mapping[str, ArtifactKey]


def widest_searches(
    sweep: Sweep, points: Iterable[Point], data_key: ArtifactKey
) -> dict[str, Search]:
    """By the digest of each narrower search's key: the widest of its family.

    A radius in state units and one by neighbours cannot be compared before the data of an
    epoch are there, so each kind has a family of its own.
    """
    families: dict[tuple[str, bool], list[tuple[float, Search]]] = {}
    for point in points:
        config = sweep.config(point)
        graph = build_graph(config, data_key)
        if _FIRST not in graph:
            continue
        node, radius = graph[_FIRST], config.stitch.radius
        inputs = {name: graph[name].key for name in node.inputs}
        by_count = isinstance(radius, RadiusConfig)
        size = float(radius.neighbours if by_count else radius)
        search = Search(point=dict(point), config=config, node=node, inputs=inputs)
        families.setdefault((family_of(node, inputs), by_count), []).append((size, search))
    widest: dict[str, Search] = {}
    for members in families.values():
        _, first = max(members, key=lambda member: member[0])
        for _, search in members:
            if search.node.key != first.node.key:
                widest[search.node.key.digest] = first
    return widest
