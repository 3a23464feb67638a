"""`tskd stitch --explain`: what radii mean on the first epoch's D' of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tskd_ray.config.schema import Config
from tskd_ray.console import Console
from tskd_ray.data.arrays import load_arrays
from tskd_ray.data.returns import steps_cost
from tskd_ray.distributed.tasks import Task, run_tasks
from tskd_ray.errors import ConfigError
from tskd_ray.models.forward_dynamics import ForwardDynamics
from tskd_ray.models.threads import torch_threads
from tskd_ray.models.value import TwinValue
from tskd_ray.pipeline.artifacts import ArtifactKey, ArtifactStore
from tskd_ray.pipeline.graph import needed
from tskd_ray.pipeline.hop_models import price_hops
from tskd_ray.pipeline.hops import resolve_radius
from tskd_ray.pipeline.runner import Runner
from tskd_ray.pipeline.spread import fetch
from tskd_ray.pipeline.stages import Work
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
    if config.stitch.method != "tskd" or config.stitch.reward_model != "ddr2":
        raise ConfigError(
            "Explaining looks at tskd's candidates and DDR-II's rewards. Got stitch.method "
            f"{config.stitch.method} with reward {config.stitch.reward_model}. Explain tskd's: "
            "radii mean the same."
        )
    runner = Runner(config, console)
    store = runner.store
    wanted = needed(runner.graph, _NEEDS)
    with runner.connected(wanted):
        folders = {node.name: fetch(store, node.key) for node in wanted}
        with runner.console.stage("explain"), torch_threads(config.compute.threads):
            found = _explain(runner, folders)
    folder = store.run_folder(config.name) / "explain"
    page = write_explanation(found, config.name, folder)
    store.publish_run(config.name, "explain")
    return ExplainResult(explanation=found, folder=folder, page=page)


def price_anywhere(
    *, store: ArtifactStore, ddr2: ArtifactKey, progress: Progress = silent, **arguments: Any
) -> tuple[Float32Array, float]:
    """`price_hops` on whatever node it is called; a task of `run_tasks`."""
    return price_hops(ddr2=fetch(store, ddr2), progress=progress, **arguments)


def _explain(runner: Runner, folders: Mapping[str, Path]) -> Explanation:
    config, store, graph = runner.config, runner.store, runner.graph
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
        whole=steps_cost(load_arrays(folders["data"])),
        metric=settings.metric,
        search=settings.search,
        threads=config.compute.threads,
        seed=config.seed,
        progress=runner.console.progress("radii"),
    )
