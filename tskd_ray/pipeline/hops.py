"""The hop decisions of an epoch, spread over workers by Ray Data."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tskd_ray.config.schema import Config, RadiusConfig
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.distributed.session import smallest_memory
from tskd_ray.distributed.stitch import decide_hops_distributed
from tskd_ray.models.threads import torch_threads
from tskd_ray.pipeline.artifacts import ArtifactKey, ArtifactStore, artifact_key
from tskd_ray.pipeline.cost import Meter
from tskd_ray.pipeline.nodes import VERSIONS, Node
from tskd_ray.pipeline.snapshot import Snapshot
from tskd_ray.pipeline.stages import Work, load_decisions
from tskd_ray.progress import Progress
from tskd_ray.stitching.choose import argmax_recall, sample_transitions
from tskd_ray.stitching.hops import HopDecisions
from tskd_ray.stitching.kinds import join_kinds, kinds_of
from tskd_ray.stitching.narrow import narrow_hops
from tskd_ray.stitching.problem import HopProblem
from tskd_ray.stitching.reached import decide_reached
from tskd_ray.types import IntArray

_WORTH_ROUNDS = 500_000
"""Transitions from which on rounds of decisions, seconds each, may save more than they cost."""

_WORTH_WORKERS = 200_000
"""Transitions from which workers are asked: starting them costs as much as deciding these."""

_INDEX_SHARE = 0.5
"""Of a node's memory; the rest is the workers' and Ray's."""


def run_hops(
    store: ArtifactStore,
    node: Node,
    inputs: Mapping[str, ArtifactKey],
    work: Work,
    meter: Meter,
) -> None:
    """Decide the hops of one epoch.

    Args:
        store: Where decisions at a larger radius may be.
        node: The stage; what its key is made of, but for the radius, must be the same there.
        inputs: Keys by name.
        work: Its inputs are D, the new trajectories, V and the dynamics. The frozen snapshot
            that workers map is written into its scratch.
        meter: Told the CPU seconds of the workers.
    """
    from tskd_ray.models.forward_dynamics import ForwardDynamics
    from tskd_ray.models.value import TwinValue
    from tskd_ray.stitching.counts import neighbourhood_sizes
    from tskd_ray.stitching.problem import hop_problem

    config, settings = work.config, work.config.stitch
    joined = work.joined()
    (value_folder,) = (path for name, path in work.inputs.items() if name.startswith("value-"))
    with torch_threads(config.compute.threads):
        radius = resolve_radius(joined, config)
        problems: list[HopProblem] = []
        snapshots: list[Snapshot] = []
        for near in kinds_of(settings.method, settings.candidate):
            # A folder of its own: overwriting what another command's workers map would kill
            # them.
            name = f"problem-{uuid.uuid4().hex}"
            folder = work.scratch / name
            problems.append(
                hop_problem(
                    joined,
                    value=TwinValue.load(value_folder).predict,
                    log_density=ForwardDynamics.load(work.inputs["dynamics"]),
                    radius=radius,
                    candidate=settings.candidate,
                    metric=settings.metric,
                    search=settings.search,
                    near=near,
                    shard_states=_shard_states(joined, config),
                    folder=folder,
                )
            )
            path = f"{node.key.folder}/scratch/{name}"
            snapshots.append(Snapshot(store, folder.resolve(), path))
        problem = problems[0]
        family = family_of(node, inputs)
        # Of a candidate of two kinds nobody noted by which one it was near.
        wide = _wider(store, family, radius) if len(problems) == 1 else None
        decider = _Decider(problem, snapshots, config, work.progress)
        decisions, rounds = _decide(joined, problem, settings.decide, wide, decider)
        sizes = neighbourhood_sizes(problem)
    meter.elsewhere += decider.elsewhere
    complete = len(decisions.transitions) == joined.n_steps
    np.save(work.out / "candidate.npy", decisions.candidate)
    np.save(work.out / "verdict.npy", decisions.verdict)
    if not complete:
        np.save(work.out / "transitions.npy", decisions.transitions)
    about: dict[str, Any] = {"radius": radius, "neighbours": sizes}
    if not all(shard.exact for shard in problem.shards):
        about["argmax_recall"] = argmax_recall(problem, sample_transitions(problem))
    work.write_json("hops", about)
    work.info.update(
        {
            "family": family,
            "radius": radius,
            "complete": complete,
            "narrowed": wide is not None,
            "rounds": rounds,
            "shards": len(problem.shards),
            "search": problem.shards[0].name if problem.shards else "none",
            "choice": None if problem.choice is None else asdict(problem.choice),
        }
    )
    for snapshot in snapshots:
        snapshot.drop()


class _Decider:
    """`decide_hops_distributed`, in process where a cluster is not worth it.

    Args:
        problem: Of kind "arrival".
        snapshots: Of all kinds of candidates, that one first.
        config: Of the run.
        progress: Told the decisions.
    """

    def __init__(
        self,
        problem: HopProblem,
        snapshots: Sequence[Snapshot],
        config: Config,
        progress: Progress,
    ) -> None:
        self.problem, self.snapshots, self.compute = problem, snapshots, config.compute
        self.total, self.progress = problem.n_transitions * len(snapshots), progress
        self.sent, self.elsewhere, self.done = set[str](), 0.0, 0

    def __call__(self, transitions: IntArray, *, dynamics: bool = True) -> HopDecisions:
        kinds = [self._decide(one, transitions, dynamics) for one in self.snapshots]
        return join_kinds(self.problem, kinds)

    def _decide(
        self, snapshot: Snapshot, transitions: IntArray, dynamics: bool
    ) -> HopDecisions:
        compute = self.compute
        if len(transitions) < _WORTH_WORKERS:
            compute = compute.model_copy(update={"mode": "local"})
        if compute.mode != "local" and snapshot.path not in self.sent:
            snapshot.send()
            self.sent.add(snapshot.path)
        before = self.done

        def told(done: int, total: int, **metrics: float) -> None:
            self.progress(before + done, self.total, **metrics)

        decisions, elsewhere = decide_hops_distributed(
            snapshot.folder,
            compute,
            locate=snapshot.here,
            transitions=transitions,
            dynamics=dynamics,
            progress=told,
        )
        self.done += len(transitions)
        self.elsewhere += elsewhere
        return decisions


def _decide(
    joined: Trajectories,
    problem: HopProblem,
    decide: str,
    wide: HopDecisions | None,
    decider: _Decider,
) -> tuple[HopDecisions, int]:
    """The decisions, and in how many rounds they came: the same with wider ones or without."""

    def asked(transitions: IntArray) -> HopDecisions:
        if wide is None:
            return decider(transitions)
        return narrow_hops(problem, wide, decider, transitions)

    if decide == "reached" or (decide == "auto" and joined.n_steps >= _WORTH_ROUNDS):
        reached = decide_reached(joined, asked)
        return reached.decisions, reached.rounds
    return asked(np.arange(joined.n_steps, dtype=np.int64)), 1


def family_of(node: Node, inputs: Mapping[str, ArtifactKey]) -> str:
    """Names all that decisions depend on but the radius."""
    config = {name: value for name, value in node.config.items() if name != "radius"}
    version = f"{VERSIONS['hops']} but for the radius"
    return artifact_key(
        "hops", code_version=version, config=config, inputs=inputs, seed=0
    ).digest


def _wider(store: ArtifactStore, family: str, radius: float) -> HopDecisions | None:
    """Complete decisions of the same family at the least radius that is not smaller."""
    best: tuple[float, ArtifactKey] | None = None
    for artifact in store.finished("hops"):
        info = artifact.info
        fits = info.get("family") == family and info.get("complete")
        if fits and info["radius"] >= radius and (best is None or info["radius"] < best[0]):
            best = info["radius"], artifact.key
    if best is None:
        return None
    artifact = store.find(best[1])
    return None if artifact is None else load_decisions(store.fetch(artifact))


def _shard_states(joined: Trajectories, config: Config) -> int | None:
    """Candidates of a shard whose search structure fits into a node's memory; None: all.

    What an approximate search misses depends on its shards, so that has one: the same key must
    mean the same hops on any machine.
    """
    if config.stitch.search == "faiss-ivf":
        return None
    gib = config.stitch.index_gib
    memory = gib * 2**30 if gib is not None else smallest_memory(config.compute) * _INDEX_SHARE
    per_state = joined.observation_dim * _BYTES_PER_DIMENSION + _BYTES_BESIDES
    return max(1, int(memory // per_state))


_BYTES_PER_DIMENSION = 10
"""Of a candidate in "cells", the largest structure: two copies in float32, and its share of the
boxes."""

_BYTES_BESIDES = 64
"""Of a candidate's ranks, distances and place in the index, generously."""


def resolve_radius(trajectories: Trajectories, config: Config) -> float:
    """ρ in state units: as given, or by neighbour count on these trajectories (D19)."""
    from tskd_ray.stitching.radius import suggest_radius

    radius = config.stitch.radius
    if isinstance(radius, RadiusConfig):
        return suggest_radius(
            trajectories.observations,
            radius.neighbours,
            config.seed,
            metric=config.stitch.metric,
        )
    return float(radius)
