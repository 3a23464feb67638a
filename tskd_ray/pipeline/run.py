"""A whole run: stages in order, each done once; then the folder that a person opens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tskd_ray.config.schema import Config
from tskd_ray.console import Console
from tskd_ray.data.arrays import save_arrays
from tskd_ray.data.load import load_trajectories
from tskd_ray.data.returns import return_labels, return_scale
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.distributed.session import session
from tskd_ray.distributed.shared import require_shared_storage
from tskd_ray.distributed.tasks import Task, run_tasks
from tskd_ray.errors import ConfigError, StorageError
from tskd_ray.pipeline.artifacts import ArtifactKey, ArtifactStore, artifact_key
from tskd_ray.pipeline.cost import Meter
from tskd_ray.pipeline.graph import ROLES, TEACHER, VERSIONS, Node, build_graph
from tskd_ray.pipeline.output import write_run
from tskd_ray.pipeline.spread import fetch, run_generation, run_stitching
from tskd_ray.pipeline.stages import TASKS, Work
from tskd_ray.progress import Progress, silent
from tskd_ray.report.data import ScoreRow, StageCost
from tskd_ray.training.select import select

if TYPE_CHECKING:
    from tskd_ray.diffusion.rollout import Teacher

VERBS = {
    "train": ROLES[:1],
    "generate": ROLES[:2],
    "stitch": ROLES[:3],
    "distill": ROLES[:4],
    "evaluate": ROLES,
    "report": ROLES,
}
"""Which roles of the graph each verb of the command line needs."""

_ON_GPU = ("ddr1", "ddr2")
"""Stages that use `compute.device`; the others' networks are too small to gain."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run leaves."""

    folder: Path
    """`<storage>/runs/<name>`."""
    table: tuple[ScoreRow, ...]
    """Scores, as far as the run went."""
    report: Path | None
    """report.html, once every stage is done."""


def run(
    config: Config, *, until: str | None = None, console: Console | None = None
) -> RunResult:
    """Do all stages that are not done yet, then write the run's folder.

    Args:
        config: The whole configuration.
        until: Last verb to do: "train", "generate", "stitch", "distill" or "evaluate";
            default: everything, and the report.
        console: Whom to tell; default: nobody.

    Raises:
        InputError: If the configuration, the data, the storage or the hardware are not fit;
            found out before any long work.
        StageError: If a stage fails; running again resumes.
    """
    console = console or Console(mode="quiet")
    meter = Meter()
    store = ArtifactStore(config.storage)
    store.check_writable()
    recorded = _recorded(config)
    data_key = _data_key(recorded)
    graph = build_graph(config, data_key)
    roles = VERBS[until or "report"]
    wanted = [node for node in graph.values() if node.role in roles]
    if any(node.role == "distill" for node in wanted):
        select(recorded, config.select)  # the baseline's: refuse a bad slack now, not later
    runner = _Runner(config, store, graph, console)
    missing = runner.missing(wanted)
    with session(config.compute) if missing else nullcontext():
        if missing:
            require_shared_storage(store.storage.root, store.storage.local, config.compute)
        runner.record_data(recorded)
        runner.run(wanted)
    # What an earlier, longer command finished belongs to the run as well.
    finished = [node for node in graph.values() if store.find(node.key) is not None]
    runner.note_found(finished)
    folders = {node.name: fetch(store, node.key) for node in finished}
    folder = store.run_folder(config.name)
    metrics, report = write_run(
        config,
        recorded,
        folders,
        runner.costs,
        folder,
        complete=len(finished) == len(graph),
        wall_seconds=meter.wall_seconds,
    )
    store.publish_run(config.name)
    for warning in metrics.warnings:
        console.warn(warning)
    return RunResult(folder=folder, table=metrics.scores, report=report)


def load_teacher(config: Config) -> Teacher:
    """The teacher that `tskd train` left in the storage, ready for `generate`.

    Raises:
        StorageError: If it has not been trained with this configuration.
    """
    from tskd_ray.pipeline.spread import load_teacher as load

    store = ArtifactStore(config.storage)
    graph = build_graph(config, _data_key(_recorded(config)))
    for name in ("data", *TEACHER):
        if name not in graph or store.find(graph[name].key) is None:
            raise StorageError(
                f"The teacher must have been trained. {config.storage} has no {name} of this "
                "configuration. Run `tskd train` with it first."
            )
    folders = {name: fetch(store, graph[name].key) for name in ("data", *TEACHER)}
    return load(folders, config, epoch=1)[0]


def _recorded(config: Config) -> Trajectories:
    """The recorded data with its environment, checked against what the run asks of it."""
    data = config.data
    recorded = load_trajectories(
        data.source,
        environment=data.environment,
        environment_kwargs=data.environment_kwargs or None,
    )
    if recorded.environment is None and config.evaluate.episodes:
        raise ConfigError(
            f"Evaluation needs an environment. {data.source} names none. Set data.environment, "
            "or evaluate.episodes=0 to leave evaluation out."
        )
    generate = config.generate
    if not generate.trajectories:
        return recorded
    if generate.rollout == "environment" and recorded.environment is None:
        raise ConfigError(
            f"generate.rollout: environment needs an environment. {data.source} names none. "
            "Set data.environment, or use rollout: dynamics."
        )
    labels = return_labels(
        recorded, config.teacher.discount, config.teacher.termination_penalty
    )
    best, scale = float(labels.max()), config.teacher.return_scale or return_scale(labels)
    if best <= 0 < generate.target_return:
        raise ConfigError(
            "generate.target_return is in units of the return scale, and no return of "
            f"{data.source} is positive. Got {generate.target_return:g}; the best is "
            f"{best / scale:.3g}. Set generate.target_return to about that."
        )
    return recorded


def _data_key(recorded: Trajectories) -> ArtifactKey:
    """Content decides: a copy of a file is the same data, an edited one is not."""
    digest = hashlib.sha256()
    for column in (
        recorded.observations,
        recorded.actions,
        recorded.rewards,
        recorded.offsets,
        recorded.terminated,
        recorded.truncated,
        recorded.episode_id,
        recorded.episode_origin,
        recorded.origin,
        recorded.source_episode,
        recorded.source_step,
    ):
        digest.update(str((column.shape, column.dtype)).encode())
        digest.update(np.ascontiguousarray(column).tobytes())
    environment = recorded.environment
    return artifact_key(
        "data",
        code_version=VERSIONS["data"],
        config={"environment": None if environment is None else repr(environment)},
        inputs={"content": digest.hexdigest()},
        seed=0,
    )


class _Runner:
    """Does nodes in waves: those whose inputs are there run side by side."""

    def __init__(
        self, config: Config, store: ArtifactStore, graph: Mapping[str, Node], console: Console
    ) -> None:
        self.config, self.store, self.graph, self.console = config, store, graph, console
        self.costs: list[StageCost] = []
        self.done: set[str] = set()

    def missing(self, nodes: Sequence[Node]) -> bool:
        """Whether anything is left to do."""
        return any(self.store.find(node.key) is None for node in nodes)

    def record_data(self, recorded: Trajectories) -> None:
        """Make the recorded data an artifact that workers can map."""
        node = self.graph["data"]
        if self.store.find(node.key) is None:
            meter = Meter()
            with self.store.attempt(node.key) as attempt:
                save_arrays(recorded, attempt.folder)
                attempt.info.update(meter.figures())

    def run(self, nodes: Sequence[Node]) -> None:
        """Do `nodes`, which hold all their inputs, in an order that respects those."""
        found = {node.name for node in nodes if self.store.find(node.key) is not None}
        for node in nodes:
            if node.name in found:
                self._note(node, cached=node.name != "data")
        self.done |= found
        left = [node for node in nodes if node.name not in found]
        while left:
            ready = [node for node in left if self.done.issuperset(node.inputs)]
            tasks = [node for node in ready if node.stage in TASKS]
            # Tasks first: side by side they fill the machine; a spread stage has it alone.
            batch = tasks or ready[:1]
            with self.console.stage(_title(batch)):
                if tasks:
                    self._run_tasks(tasks)
                else:
                    self._run_spread(batch[0])
            for node in batch:
                self._note(node, cached=False)
                self.done.add(node.name)
            left = [node for node in left if node.name not in self.done]

    def note_found(self, nodes: Sequence[Node]) -> None:
        """Record what others finished, so that the run's record is whole."""
        noted = {cost.name for cost in self.costs}
        for node in nodes:
            if node.name not in noted:
                self._note(node, cached=True)

    def _run_tasks(self, nodes: Sequence[Node]) -> None:
        run_tasks(
            {
                node.name: Task(
                    function=do_task,
                    arguments={
                        "store": self.store,
                        "config": self.config,
                        "node": node,
                        "inputs": self._inputs(node),
                    },
                    gpu=node.stage in _ON_GPU,
                )
                for node in sorted(nodes, key=_longest_first)
            },
            self.config.compute,
            progress=self.console.progress,
        )

    def _run_spread(self, node: Node) -> None:
        if self.store.find(node.key) is not None:
            return  # another command has finished it since this one began
        progress = self.console.progress(node.name)
        inputs = self._inputs(node)
        if node.stage == "generate":
            epoch = int(node.name.split("-")[1])
            with self.store.unless_finished(node.key):
                run_generation(self.store, node.key, inputs, self.config, epoch, progress)
            return
        folders = {name: fetch(self.store, key) for name, key in inputs.items()}
        scratch = self.store.scratch(node.key)
        meter = Meter()
        with self.store.unless_finished(node.key), self.store.attempt(node.key) as attempt:
            work = Work(
                name=node.name,
                config=self.config,
                inputs=folders,
                out=attempt.folder,
                scratch=scratch,
                progress=progress,
                info=attempt.info,
            )
            run_stitching(work, meter)
            attempt.info.update(meter.figures())

    def _inputs(self, node: Node) -> dict[str, ArtifactKey]:
        return {name: self.graph[name].key for name in node.inputs}

    def _note(self, node: Node, *, cached: bool) -> None:
        artifact = self.store.find(node.key)
        assert artifact is not None
        self.costs.append(
            StageCost(
                name=node.name,
                wall_seconds=artifact.info.get("wall_seconds", 0.0),
                cpu_seconds=artifact.info.get("cpu_seconds", 0.0),
                cached=cached,
                key=node.key.digest,
            )
        )


def do_task(
    *,
    store: ArtifactStore,
    config: Config,
    node: Node,
    inputs: Mapping[str, ArtifactKey],
    progress: Progress = silent,
) -> None:
    """Do one stage and commit its artifact; runs in a worker, or in this process."""
    if store.find(node.key) is not None:
        return
    meter = Meter()
    folders = {name: fetch(store, key) for name, key in inputs.items()}
    with store.unless_finished(node.key), store.attempt(node.key) as attempt:
        work = Work(
            name=node.name,
            config=config,
            inputs=folders,
            out=attempt.folder,
            scratch=store.scratch(node.key),
            progress=progress,
            info=attempt.info,
        )
        task: Callable[[Work], None] = TASKS[node.stage]
        task(work)
        attempt.info.update(meter.figures())


def _longest_first(node: Node) -> tuple[int, str]:
    # With more tasks than cores, the longest must not start last.
    order = ("ddr1", "ddr2", "dynamics", "transition", "students", "value")
    return (order.index(node.stage) if node.stage in order else len(order), node.name)


def _title(nodes: Sequence[Node]) -> str:
    return ", ".join(node.name for node in nodes)
