"""What a sweep will compute, before it does: every artifact's key is known beforehand."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tskd_ray.config.load_sweep import Point, Sweep
from tskd_ray.config.schema import Config
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.pipeline.artifacts import ArtifactKey, ArtifactStore
from tskd_ray.pipeline.graph import build_graph
from tskd_ray.pipeline.manifest import canonical_json
from tskd_ray.pipeline.nodes import Node
from tskd_ray.pipeline.recorded import check_recorded, data_key, load_recorded
from tskd_ray.pipeline.references import SweepOutline
from tskd_ray.pipeline.sweep.points import known_points
from tskd_ray.pipeline.sweep.trial import at_epoch, epochs, point_id, read_from


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage's artifacts over all trials."""

    stage: str
    distinct: int
    uses: int
    there: int  # of the distinct ones


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """Trials and what they will share."""

    sweep: Sweep
    recorded: Trajectories
    data_key: ArtifactKey
    points: tuple[Point, ...] | None
    """In order; None if they follow from earlier results (tpe)."""
    trials: int
    stages: tuple[StagePlan, ...]
    """With tpe: an upper bound, were no two trials to share what the space can vary."""
    _digests: dict[str, tuple[str, ...]] = field(
        default_factory=dict[str, tuple[str, ...]], compare=False
    )

    def digests(self, point: Mapping[str, Any]) -> tuple[str, ...]:
        """Of the keys of all artifacts that a trial needs, in order of their digits."""
        name = point_id(point)
        if name not in self._digests:
            nodes = trial_nodes(self.sweep, self.sweep.config(point), self.data_key)
            self._digests[name] = tuple(sorted(node.key.digest for node in nodes))
        return self._digests[name]

    def identity(self, point: Mapping[str, Any]) -> str:
        """Of all that a trial computes: its artifacts, and who may stop it."""
        text = canonical_json([*self.digests(point), self.sweep.settings.scheduler])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def outline(self) -> SweepOutline:
        """For other commands, before the first trial."""
        digests = {digest for point in self.points or () for digest in self.digests(point)}
        return SweepOutline(
            trials=self.trials, digests=tuple(sorted(digests)), whole=self.points is not None
        )

    @property
    def exact(self) -> bool:
        """Whether the points are known, and the stages with them."""
        return self.points is not None

    @property
    def to_make(self) -> int:
        """Artifacts that are not there yet."""
        return sum(stage.distinct - stage.there for stage in self.stages)


def plan_sweep(sweep: Sweep, store: ArtifactStore) -> SweepPlan:
    """Check every trial's settings against the data, and count artifacts; writes nothing.

    Raises:
        InputError: If the settings of a trial, or the data, are not fit.
    """
    recorded = load_recorded(sweep.base)
    key = data_key(recorded)
    points = known_points(sweep)
    search = sweep.settings.search
    if points is None:
        assert search.trials is not None, "the schema asks for it"
        stages = _bound(sweep, key, store, search.trials)
        trials = search.trials
    else:
        configs = [sweep.config(point) for point in points]
        for config in configs:
            check_recorded(config, recorded)
        stages = _count([trial_nodes(sweep, config, key) for config in configs], store)
        trials = len(points)
    return SweepPlan(
        sweep=sweep,
        recorded=recorded,
        data_key=key,
        points=None if points is None else tuple(points),
        trials=trials,
        stages=tuple(stages),
    )


def trial_nodes(sweep: Sweep, config: Config, key: ArtifactKey) -> list[Node]:
    """All nodes that a trial needs, those of its earlier reports among them."""
    metrics = [objective.metric for objective in sweep.settings.objective]
    found: dict[str, Node] = {}
    for k in epochs(config, sweep.settings.scheduler != "none"):
        for node in read_from(build_graph(at_epoch(config, k), key), metrics):
            found.setdefault(node.key.digest, node)
    return list(found.values())


def _count(trials: Sequence[Sequence[Node]], store: ArtifactStore) -> list[StagePlan]:
    uses: dict[str, list[Node]] = {}
    for nodes in trials:
        for node in nodes:
            uses.setdefault(node.stage, []).append(node)
    return [
        StagePlan(stage=stage, distinct=len(distinct), uses=len(used), there=there)
        for stage, used in uses.items()
        for distinct in [{node.key.digest: node for node in used}]
        for there in [sum(store.find(node.key) is not None for node in distinct.values())]
    ]


def _bound(
    sweep: Sweep, key: ArtifactKey, store: ArtifactStore, trials: int
) -> list[StagePlan]:
    """Stages that nothing in the space changes are made once, others at most by every trial."""
    base = {node.name: node for node in trial_nodes(sweep, sweep.base, key)}
    changed: set[str] = set()
    most: Mapping[str, int] = _per_stage(list(base.values()))
    for point in _corners(sweep):
        nodes = trial_nodes(sweep, sweep.config(point), key)
        for node in nodes:
            if node.name not in base or base[node.name].key != node.key:
                changed.add(node.stage)
        here = _per_stage(nodes)
        most = {stage: max(most.get(stage, 0), here.get(stage, 0)) for stage in {*most, *here}}
    fixed = [node for node in base.values() if node.stage not in changed]
    exact = {plan.stage: plan for plan in _count([fixed], store)}
    return [
        StagePlan(
            stage=stage,
            distinct=exact[stage].distinct if stage in exact else trials * most[stage],
            uses=trials * most[stage],
            there=exact[stage].there if stage in exact else 0,
        )
        for stage in dict.fromkeys([*(node.stage for node in base.values()), *sorted(most)])
    ]


def _per_stage(nodes: Sequence[Node]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for node in nodes:
        counts[node.stage] = counts.get(node.stage, 0) + 1
    return counts


def _corners(sweep: Sweep) -> list[Point]:
    """Each setting at its ends, the others as they are in the base."""
    corners: list[Point] = []
    for key, domain in sweep.settings.space.items():
        values = domain.values() or domain.uniform or domain.loguniform or ()
        corners += [{key: value} for value in (*values[:1], *values[1:-1], *values[-1:])]
    return corners
