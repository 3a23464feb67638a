"""One trial: which nodes its objectives need, the jobs that make them, and what they say."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tskd_ray.config.load_sweep import Point, Sweep
from tskd_ray.config.schema import Config
from tskd_ray.data.environments import normalized_score
from tskd_ray.distributed.tune import Metrics, Order
from tskd_ray.distributed.workshop import Job
from tskd_ray.errors import ConfigError
from tskd_ray.pipeline.artifacts import ArtifactKey, ArtifactStore
from tskd_ray.pipeline.execute import ON_GPU, do_node, is_spread
from tskd_ray.pipeline.graph import build_graph, needed
from tskd_ray.pipeline.manifest import canonical_json
from tskd_ray.pipeline.nodes import DIFFUSERS, Node
from tskd_ray.pipeline.sweep.widest import Search
from tskd_ray.progress import Progress, silent
from tskd_ray.types import Float64Array

TARGETS = {
    "score": "scores-tskd",
    "offline": "offline-tskd",
    "cpu_seconds": "students-tskd",
}
"""The node that each metric is read from."""


def point_id(point: Mapping[str, Any]) -> str:
    """Names a point in files: 16 hex digits, the same in every command."""
    return hashlib.sha256(canonical_json(dict(point)).encode()).hexdigest()[:16]


def read_from(graph: Mapping[str, Node], metrics: Sequence[str]) -> list[Node]:
    """The nodes that the metrics need, each after those it reads: no baselines.

    Raises:
        ConfigError: If a metric is not to be had with these settings.
    """
    for metric in metrics:
        if TARGETS[metric] not in graph:
            raise ConfigError(
                f"An objective must be measured by each trial. Got {metric}, which this "
                "distill.method, evaluate.offline or evaluate.episodes leaves out. Change one."
            )
    return needed(graph, [TARGETS[metric] for metric in metrics])


def stage_of(name: str) -> str:
    """The stage of the node of that name, as "generate" of "generate-2"."""
    known = ("students", "scores", "offline")
    first = name.partition("-")[0]
    return first if first in known else re.sub(r"-\d+$", "", name)


@dataclass(frozen=True, kw_only=True)
class TrialObjective:
    """What a trial does, in a process of its own: it orders jobs, waits, and reads."""

    sweep: Sweep
    store: ArtifactStore
    data_key: ArtifactKey
    scale: tuple[float, float] | None
    """(random, expert) returns; without them the score is the return itself."""
    by_epoch: bool
    """Report after each stitching epoch, for a scheduler."""
    tag: str
    """Of the sweep; with the point's id it marks the artifacts that a trial makes."""
    past: Mapping[str, Sequence[Metrics]] = field(default_factory=dict[str, Sequence[Metrics]])
    """Reports of trials that an earlier command finished, by the point's id."""
    widest: Mapping[str, Search] = field(default_factory=dict[str, Search])
    """Neighbour searches to do before narrower ones, by the digest of those."""

    def __call__(self, settings: Mapping[str, Any], order: Order) -> Iterator[Metrics]:
        """The objectives' metrics; of the student of D_k after each epoch k, if asked."""
        past = self.past.get(point_id(settings))
        if past is not None:
            yield from past
            return
        config = self.sweep.config(settings)
        for k in epochs(config, self.by_epoch):
            prefix = at_epoch(config, k)
            graph = build_graph(prefix, self.data_key)
            nodes = read_from(graph, self.metrics)
            order(self._jobs(prefix, graph, nodes, settings))
            found = read_metrics(self.store, nodes, self.metrics, self.scale)
            yield {**found, "epochs": k, "last": float(k == config.stitch.epochs)}

    @property
    def metrics(self) -> list[str]:
        """Of the objectives."""
        return [objective.metric for objective in self.sweep.settings.objective]

    def _jobs(
        self,
        config: Config,
        graph: Mapping[str, Node],
        nodes: Sequence[Node],
        point: Mapping[str, Any],
    ) -> list[Job]:
        jobs: list[Job] = []
        for node in nodes:
            if self.store.find(node.key) is not None:
                continue
            inputs = {name: graph[name].key for name in node.inputs}
            first = self.widest.get(node.key.digest)
            if first is not None and self.store.find(first.node.key) is None:
                jobs.append(self._job(first.config, first.node, first.inputs, first.point))
            before = () if first is None else (first.node.key,)
            jobs.append(self._job(config, node, inputs, point, before))
        return jobs

    def _job(
        self,
        config: Config,
        node: Node,
        inputs: Mapping[str, ArtifactKey],
        point: Mapping[str, Any],
        before: tuple[ArtifactKey, ...] = (),
    ) -> Job:
        return Job(
            key=node.key.digest,
            name=node.name,
            function=make_spread if is_spread(node, config) else make,
            arguments={
                "store": self.store,
                "config": config,
                "node": node,
                "inputs": dict(inputs),
                "info": {"made_for": made_for(self.tag, point)},
            },
            after=tuple(key.digest for key in (*inputs.values(), *before)),
            gpu=node.stage in ON_GPU and not is_spread(node, config),
            workers=_workers(node, config),
        )


def make(**arguments: Any) -> None:
    """Do a node in this process, having all its CPUs."""
    do_node(**arguments)


def make_spread(
    *, config: Config, workers: int, progress: Progress = silent, **arguments: Any
) -> None:
    """Do a node that asks the cluster for workers, no more than it was given."""
    compute = config.compute.model_copy(update={"workers": workers})
    do_node(config=config.model_copy(update={"compute": compute}), **arguments)


def _workers(node: Node, config: Config) -> int:
    if not is_spread(node, config):
        return 0
    if node.stage in DIFFUSERS:
        return config.compute.training_workers
    most = config.compute.workers or 1_000_000
    if node.stage == "generate":
        generate = config.generate
        most = min(most, -(-generate.trajectories // generate.shard_size))
    return max(1, most)


def epochs(config: Config, by_epoch: bool) -> Sequence[int]:
    """The numbers of stitching epochs after which a trial reports; the last is its own."""
    last = config.stitch.epochs
    return range(1, last + 1) if by_epoch and last else (last,)


def at_epoch(config: Config, k: int) -> Config:
    """The trial that stops after epoch k: the same artifacts up to there."""
    stitch = config.stitch.model_copy(update={"epochs": k})
    return config.model_copy(update={"stitch": stitch})


def made_for(tag: str, point: Point | Mapping[str, Any]) -> str:
    """The mark in the manifest of an artifact that a trial made."""
    return f"{tag}/{point_id(point)}"


# -- what came of it -------------------------------------------------------------------


def read_metrics(
    store: ArtifactStore,
    nodes: Sequence[Node],
    metrics: Sequence[str],
    scale: tuple[float, float] | None,
) -> dict[str, float]:
    """The metrics of finished nodes, with their errors or intervals."""
    found = {"cpu_seconds": cpu_seconds(store, nodes)}
    by_name = {node.name: node for node in nodes}
    if "score" in metrics:
        found |= _score(store, by_name[TARGETS["score"]], scale)
    if "offline" in metrics:
        found |= _offline(store, by_name[TARGETS["offline"]])
    return found


def cpu_seconds(
    store: ArtifactStore, nodes: Sequence[Node], made_by: str | None = None
) -> float:
    """CPU seconds that the finished nodes took; of those made for one trial, if named."""
    total = 0.0
    for node in nodes:
        artifact = store.find(node.key)
        if artifact is not None and made_by in (None, artifact.info.get("made_for")):
            total += float(artifact.info.get("cpu_seconds", 0.0))
    return round(total, 3)


def _score(
    store: ArtifactStore, node: Node, scale: tuple[float, float] | None
) -> dict[str, float]:
    """Mean over the final students, and its standard error."""
    artifact = store.find(node.key)
    assert artifact is not None, "ordered before"
    returns = np.load(store.fetch(artifact) / "returns.npy", allow_pickle=False)
    per_seed: Float64Array = returns[-1].mean(axis=1)  # (checkpoints, seeds, episodes)
    if scale is not None:
        per_seed = normalized_score(per_seed, scale)
    found = {"score": float(per_seed.mean())}
    if len(per_seed) > 1:
        found["score_error"] = float(per_seed.std(ddof=1) / np.sqrt(len(per_seed)))
    return found


def _offline(store: ArtifactStore, node: Node) -> dict[str, float]:
    """The estimate of fitted-Q evaluation, and its bootstrap interval."""
    import json

    artifact = store.find(node.key)
    assert artifact is not None, "ordered before"
    about = json.loads((store.fetch(artifact) / "offline.json").read_text())
    return {
        "offline": about["value"],
        "offline_low": about["low"],
        "offline_high": about["high"],
    }
