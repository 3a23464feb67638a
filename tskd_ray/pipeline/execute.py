"""One node of the graph done, wherever that is: in a Ray task or in this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tskd_ray.config.schema import Config
from tskd_ray.distributed.metrics import doing
from tskd_ray.pipeline.artifacts import ArtifactKey, ArtifactStore
from tskd_ray.pipeline.cost import Meter, Rate
from tskd_ray.pipeline.hops import run_hops
from tskd_ray.pipeline.measures import MEASURES
from tskd_ray.pipeline.nodes import DIFFUSERS, DIFFUSION, Node
from tskd_ray.pipeline.spread import fetch, run_generation
from tskd_ray.pipeline.stages import TASKS, Work
from tskd_ray.progress import Progress, silent

SPREAD = ("generate", "hops")
"""Stages that are no task but ask the cluster for workers of their own."""

ON_GPU = tuple(stage for stage in DIFFUSION if stage not in SPREAD)
"""Tasks that use `compute.device`; the others' networks are too small to gain."""


def is_spread(node: Node, config: Config) -> bool:
    """Whether a node asks the cluster for workers, instead of being a task itself."""
    together = config.compute.training_workers > 1
    return node.stage in SPREAD or (together and node.stage in DIFFUSERS)


def do_node(
    *,
    store: ArtifactStore,
    config: Config,
    node: Node,
    inputs: Mapping[str, ArtifactKey],
    info: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> None:
    """Do one stage and commit its artifact, unless another command has.

    Args:
        store: Where its inputs are, and where it goes.
        config: Of the run.
        node: The stage.
        inputs: Keys by name.
        info: More figures for its manifest, such as for whom it was made.
        progress: Told how far it is.
    """
    if store.find(node.key) is not None:
        return
    with doing(config.name, node.name):
        _do(store, config, node, inputs, info or {}, progress)


def _do(
    store: ArtifactStore,
    config: Config,
    node: Node,
    inputs: Mapping[str, ArtifactKey],
    info: Mapping[str, Any],
    progress: Progress,
) -> None:
    if node.stage == "generate":
        epoch = int(node.name.split("-")[1])
        with store.unless_finished(node.key):
            run_generation(store, node.key, inputs, config, epoch, progress, info)
        return
    meter, rate = Meter(), Rate(progress)
    folders = {name: fetch(store, key) for name, key in inputs.items()}
    with store.unless_finished(node.key), store.attempt(node.key) as attempt:
        work = Work(
            name=node.name,
            config=config,
            inputs=folders,
            out=attempt.folder,
            scratch=store.scratch(node.key),
            progress=rate,
            info=attempt.info,
        )
        if node.stage == "hops":
            run_hops(store, node, inputs, work, meter)
        else:
            (TASKS | MEASURES)[node.stage](work)
        meter.elsewhere += work.told.get("cpu_seconds", 0.0)
        speed = rate.figures(work.told.get("flops_per_item", 0.0))
        attempt.info |= {**meter.figures(), **speed, **info}


def longest_first(node: Node) -> tuple[int, str]:
    """Sorts what is ready at once."""
    # With more tasks than cores, the longest must not start last.
    order = ("advantage", "ddr1", "ddr2", "dynamics", "transition", "students", "value")
    return (order.index(node.stage) if node.stage in order else len(order), node.name)
