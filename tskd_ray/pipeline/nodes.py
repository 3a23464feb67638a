"""The nodes of a run's graph: what one is, and how its key comes of what it depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from tskd_ray.config.schema import Config
from tskd_ray.pipeline.manifest import ArtifactKey, artifact_key

Role = Literal["teacher", "generate", "stitch", "distill", "evaluate"]
ROLES: tuple[Role, ...] = ("teacher", "generate", "stitch", "distill", "evaluate")

VERSIONS = {
    "data": "1",
    "advantage": "1",
    "ddr1": "1",
    "ddr2": "1",
    "inverse-dynamics": "3",
    "transition": "3",
    "termination": "3",
    "dynamics": "3",
    "action-vae": "1",
    "reward-mlp": "1",
    "reward-wgan": "1",
    "reward-extension": "1",
    "generator": "1",
    "generate": "2",
    "value": "3",
    "hops": "2",
    "stitch": "3",
    "select": "1",
    "students": "2",
    "scores": "2",
    "offline": "3",
    "fidelity": "1",
    "planner": "1",
    "origins": "1",
    "planning": "1",
    "planning-paper": "1",
    "reward-errors": "1",
}
"""Of each stage's code: raise one when its results change; stale artifacts stay behind."""

DIFFUSERS = ("ddr1", "ddr2")
"""Stages that train one, perhaps on several workers."""

DIFFUSION = (*DIFFUSERS, "generate", "stitch", "planner", "reward-errors")
"""Stages that run diffusion networks, on `compute.device`; all others compute on CPUs."""

SIDE_BY_SIDE = ("generate", "planner")
"""Stages whose networks take `compute.slots` trajectories at a time."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One stage of one run."""

    name: str  # "generate-2"
    stage: str  # "generate"
    role: Role
    config: Mapping[str, Any]  # the slice that its result depends on
    inputs: tuple[str, ...]  # names of the nodes it reads
    key: ArtifactKey


class Graph:
    """Nodes so far, by name; each is added after those it reads."""

    def __init__(self, config: Config, data_key: ArtifactKey) -> None:
        self.seed = config.seed
        # Arithmetic differs in its last bits between devices and thread counts.
        self.device, self.threads = config.compute.device, config.compute.threads
        # Only where it differs from the default: older artifacts keep their keys.
        self.diffusion = config.compute.model_dump(
            include={"precision", "compile"}, exclude_defaults=True
        )
        # A CPU's kernels give each row the bits that it has alone; a GPU's depend on the batch.
        by_batch = {"slots"} if self.device == "cuda" else set[str]()
        self.slots = config.compute.model_dump(include=by_batch, exclude_defaults=True)
        self.training_workers = config.compute.training_workers
        self.nodes = {
            "data": Node(
                name="data", stage="data", role="teacher", config={}, inputs=(), key=data_key
            )
        }

    def add(
        self,
        name: str,
        role: Role,
        settings: BaseModel | Mapping[str, Any],
        inputs: tuple[str, ...] = ("data",),
        stage: str | None = None,
    ) -> None:
        """A node of these settings; the same one again where it is there already.

        Args:
            name: "generate-2".
            role: Which verb does it.
            settings: All that its result depends on, but for inputs, seed and arithmetic.
            inputs: Names of nodes that are there.
            stage: "generate"; default: the name.
        """
        stage = stage or name
        device = self.device if stage in DIFFUSION else "cpu"
        plain = {**_plain(settings), "device": device, "threads": self.threads}
        if stage in DIFFUSION:
            plain |= self.diffusion
        if stage in SIDE_BY_SIDE:
            plain |= self.slots
        if stage in DIFFUSERS and self.training_workers > 1:
            plain["training_workers"] = self.training_workers  # the order of sums
        key = artifact_key(
            stage,
            code_version=VERSIONS[stage],
            config=plain,
            inputs={node: self.nodes[node].key for node in inputs},
            seed=self.seed,
        )
        self.nodes[name] = Node(
            name=name, stage=stage, role=role, config=plain, inputs=inputs, key=key
        )


def _plain(value: Any) -> Any:
    """Sections as JSON values."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return value
