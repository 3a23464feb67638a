"""What a run's folder says of the run's artifacts, from its first second on.

    <root>/runs/<name>/plan.json        `RunPlan`: stages and their keys; written first
                       heartbeat.json   what its latest command is doing (`heartbeat.py`)
                       run.json         what was done; written last

The plan is written before a run looks for a finished artifact, and `tskd storage gc` removes
none that a plan or a record names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tskd_ray.pipeline.heartbeat import Heartbeat, heartbeat_path
from tskd_ray.pipeline.manifest import ArtifactKey
from tskd_ray.pipeline.nodes import VERSIONS, Node
from tskd_ray.pipeline.storage import Storage
from tskd_ray.report.data import RunRecord, StageCost
from tskd_ray.report.documents import document_adapter, parse_document

RunState = Literal[
    "running", "complete", "partial", "failed", "interrupted", "killed", "unknown"
]
_ENDS: dict[str, RunState] = {
    "done": "partial",  # it did what it was asked for, such as `tskd train`
    "failed": "failed",
    "interrupted": "interrupted",
}


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """One stage of a run."""

    name: str  # "generate-2"
    stage: str  # "generate"
    digest: str  # of its key
    inputs: tuple[str, ...] = ()  # names of the stages it reads
    asked: bool = True  # False: the command ends before it
    shards: int = 0  # that it keeps one by one until it is done; 0: it does not

    @property
    def key(self) -> ArtifactKey:
        """Where its artifact is."""
        return ArtifactKey(stage=self.stage, digest=self.digest)


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """plan.json."""

    name: str
    stages: tuple[PlannedStage, ...]  # each after those it reads


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """What is in a run's folder; None for what is not."""

    plan: RunPlan | None
    record: RunRecord | None
    heartbeat: Heartbeat | None
    report: bool  # whether report.html is there

    @property
    def stages(self) -> tuple[PlannedStage, ...]:
        """Of the plan; of a run of an earlier version, those that its record names."""
        if self.plan is not None:
            return self.plan.stages
        return tuple(
            PlannedStage(name=cost.name, stage=_stage_of(cost.name), digest=cost.key)
            for cost in self.recorded.values()
        )

    @property
    def recorded(self) -> Mapping[str, StageCost]:
        """What run.json tells of finished stages, by digest."""
        stages = () if self.record is None else self.record.stages
        return {cost.key: cost for cost in stages if cost.key}

    @property
    def digests(self) -> set[str]:
        """Of all artifacts that the run needs, finished or not."""
        planned = () if self.plan is None else self.plan.stages
        return {*self.recorded, *(stage.digest for stage in planned)}

    @property
    def state(self) -> RunState:
        """Of the whole run, as far as its folder tells."""
        beat = self.heartbeat
        if beat is not None and beat.alive:
            return "running"
        if beat is not None and beat.state != "done":
            # whatever lies there: its latest command did not come to writing it
            return "killed" if beat.state == "running" else _ENDS[beat.state]
        wanted = {stage.digest for stage in self.stages}
        if self.report and wanted and wanted <= self.recorded.keys():
            return "complete"
        return "unknown" if beat is None else _ENDS[beat.state]


def write_plan(
    storage: Storage, name: str, graph: Mapping[str, Node], asked: Iterable[Node]
) -> None:
    """Write plan.json, whole or not at all.

    Args:
        storage: Of the run.
        name: The run's.
        graph: All its stages.
        asked: Those that this command is to do.
    """
    wanted = {node.name for node in asked}
    plan = RunPlan(
        name=name,
        stages=tuple(
            PlannedStage(
                name=node.name,
                stage=node.stage,
                digest=node.key.digest,
                inputs=node.inputs,
                asked=node.name in wanted,
                shards=_shards(node),
            )
            for node in graph.values()
        ),
    )
    data = document_adapter(RunPlan).dump_json(plan, indent=1)
    storage.write(f"runs/{name}/plan.json", data + b"\n")


def read_run(storage: Storage, name: str) -> RunFiles:
    """What a run's folder holds.

    Raises:
        StorageError: If a file in it is damaged.
    """
    return RunFiles(
        plan=_read(storage, f"runs/{name}/plan.json", RunPlan),
        record=_read(storage, f"runs/{name}/run.json", RunRecord),
        heartbeat=_read(storage, heartbeat_path(name), Heartbeat),
        report=storage.size(f"runs/{name}/report.html") is not None,
    )


def _read(storage: Storage, path: str, kind: type[Any]) -> Any:
    data = storage.read(path)
    return None if data is None else parse_document(data, kind, where=f"{storage.root}/{path}")


def _shards(node: Node) -> int:
    if node.stage != "generate":
        return 0
    return -(-int(node.config["trajectories"]) // int(node.config["shard_size"]))


def _stage_of(name: str) -> str:
    """The stage of the node of that name, as "generate" of "generate-2"."""
    fits = (stage for stage in VERSIONS if name == stage or name.startswith(f"{stage}-"))
    return next(fits, name)
