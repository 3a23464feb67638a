"""`tskd stitch --explain`: what radii mean on the first epoch's D' of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tskd_ray.config.schema import Config
from tskd_ray.console import Console
from tskd_ray.distributed.outcome import torch_threads
from tskd_ray.distributed.session import session
from tskd_ray.distributed.shared import require_shared_storage
from tskd_ray.distributed.tasks import Task, run_tasks
from tskd_ray.errors import ConfigError
from tskd_ray.models.forward_dynamics import ForwardDynamics
from tskd_ray.models.value import TwinValue
from tskd_ray.pipeline.artifacts import ArtifactKey, ArtifactStore
from tskd_ray.pipeline.graph import Node, build_graph
from tskd_ray.pipeline.hops import resolve_radius
from tskd_ray.pipeline.recorded import data_key, load_recorded, record_data
from tskd_ray.pipeline.runner import Runner
from tskd_ray.pipeline.spread import fetch
from tskd_ray.pipeline.stages import Work, price_hops
from tskd_ray.progress import Progress, silent
from tskd_ray.report.explain import write_explanation
from tskd_ray.stitching.explain import Explanation, explain
from tskd_ray.types import Float32Array, FloatArray

_NEEDS = ("value-1", "dynamics", "ddr2")
"""Stages whose results the first epoch's decisions and rewards come from."""


@dataclass(frozen=True, kw_only=True)
class ExplainResult:
    """What `explain_run` leaves."""

    explanation: Explanation
    folder: Path
    """`<storage>/runs/<name>/explain`: explain.json and explain.html."""
    page: Path


def explain_run(config: Config, *, console: Console | None = None) -> ExplainResult:
    """Do what the first epoch's stitching needs and is not done yet, then look at its radii.

    Args:
        config: The whole configuration.
        console: Whom to tell; default: nobody.

    Raises:
        InputError: As `run`; also if the configuration has no stitching.
        StageError: If a stage fails; running again resumes.
    """
    if not config.stitch.epochs:
        raise ConfigError(
            "There must be stitching to explain. Got stitch.epochs=0. Set it to 1 or more."
        )
    console = console or Console(mode="quiet")
    store = ArtifactStore(config.storage)
    store.check_writable()
    recorded = load_recorded(config)
    graph = build_graph(config, data_key(recorded))
    wanted = needed(graph, _NEEDS)
    runner = Runner(config, store, graph, console)
    with session(config.compute), runner.announced(wanted):
        if runner.missing(wanted):
            require_shared_storage(store.storage.root, store.storage.local, config.compute)
        record_data(store, graph["data"].key, recorded)
        runner.run(wanted)
        folders = {node.name: fetch(store, node.key) for node in wanted}
        with console.stage("explain"), torch_threads(config.compute.threads):
            found = _explain(config, store, graph, folders, console)
    folder = store.run_folder(config.name) / "explain"
    page = write_explanation(found, config.name, folder)
    store.publish_run(config.name)
    return ExplainResult(explanation=found, folder=folder, page=page)


def needed(graph: Mapping[str, Node], names: tuple[str, ...]) -> list[Node]:
    """The nodes of those names and all that these read, directly or not, inputs first."""
    wanted = set(names)
    for node in reversed(list(graph.values())):  # inputs come before their readers
        if node.name in wanted:
            wanted |= set(node.inputs)
    return [node for node in graph.values() if node.name in wanted]


def price_anywhere(
    *, store: ArtifactStore, ddr2: ArtifactKey, progress: Progress = silent, **arguments: Any
) -> tuple[Float32Array, float]:
    """`price_hops` on whatever node it is called; a task of `run_tasks`."""
    return price_hops(ddr2=fetch(store, ddr2), progress=progress, **arguments)


def _explain(
    config: Config,
    store: ArtifactStore,
    graph: Mapping[str, Node],
    folders: Mapping[str, Path],
    console: Console,
) -> Explanation:
    settings = config.stitch
    inputs = {name: folders[name] for name in graph["value-1"].inputs}
    nowhere = Path()
    work = Work(name="explain", config=config, inputs=inputs, out=nowhere, scratch=nowhere)
    joined = work.joined()

    def reward(states: FloatArray, next_states: FloatArray) -> Float32Array:
        # As in the epoch itself: the driver may have no GPU, and noise is named by the pair.
        pairs = {"states": states, "next_states": next_states}
        arguments = {"store": store, "ddr2": graph["ddr2"].key, "config": config, **pairs}
        task = Task(function=price_anywhere, arguments=arguments)
        return run_tasks({"rewards": task}, config.compute)["rewards"][0]

    limit = None if joined.environment is None else joined.environment.max_episode_steps
    return explain(
        joined,
        value=TwinValue.load(folders["value-1"]).predict,
        log_density=ForwardDynamics.load(folders["dynamics"]),
        reward=reward,
        radius=resolve_radius(joined, config),
        acceptance=settings.acceptance,
        candidate=settings.candidate,
        improvement=settings.improvement,
        on_cycle=settings.on_cycle,
        max_length=int(limit or joined.lengths.max()),
        metric=settings.metric,
        search=settings.search,
        threads=config.compute.threads,
        seed=config.seed,
        progress=console.progress("radii"),
    )
