"""A whole run: stages in order, each done once; then the folder that a person opens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tskd_ray.config.schema import Config
from tskd_ray.console import Console
from tskd_ray.errors import StorageError
from tskd_ray.pipeline.artifacts import ArtifactStore
from tskd_ray.pipeline.cost import Meter
from tskd_ray.pipeline.graph import TEACHER, build_graph
from tskd_ray.pipeline.nodes import ROLES
from tskd_ray.pipeline.output import write_run
from tskd_ray.pipeline.recorded import data_key, load_recorded
from tskd_ray.pipeline.runner import Runner
from tskd_ray.pipeline.spread import fetch
from tskd_ray.report.data import ScoreRow

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
    config: Config,
    *,
    until: str | None = None,
    extras: tuple[str, ...] = (),
    console: Console | None = None,
) -> RunResult:
    """Do all stages that are not done yet, then write the run's folder.

    Args:
        config: The whole configuration.
        until: Last verb to do: "train", "generate", "stitch", "distill" or "evaluate";
            default: everything, and the report.
        extras: Names of `EXTRAS`: measurements to do besides.
        console: Whom to tell; default: nobody.

    Raises:
        InputError: If the configuration, the data, the storage or the hardware are not fit;
            found out before any long work.
        StageError: If a stage fails; running again resumes.
    """
    meter = Meter()
    runner = Runner(config, console, extras)
    roles = VERBS[until or "report"]
    wanted = [node for node in runner.graph.values() if node.role in roles]
    runner.check(wanted)
    with runner.announced(wanted):
        runner.complete(wanted)
        return _write(runner, meter)


def _write(runner: Runner, meter: Meter) -> RunResult:
    """The run's folder, of all that is finished."""
    config, store, graph = runner.config, runner.store, runner.graph
    # What an earlier, longer command finished belongs to the run as well.
    finished = [node for node in graph.values() if store.find(node.key) is not None]
    runner.note_found(finished)
    folders = {node.name: fetch(store, node.key) for node in finished}
    folder = store.run_folder(config.name)
    metrics, report = write_run(
        config,
        runner.recorded,
        folders,
        runner.costs,
        folder,
        complete=len(finished) == len(graph),
        wall_seconds=meter.wall_seconds,
    )
    store.publish_run(config.name)
    for warning in metrics.warnings:
        runner.console.warn(warning)
    return RunResult(folder=folder, table=metrics.scores, report=report)


def load_teacher(config: Config) -> Teacher:
    """The teacher that `tskd train` left in the storage, ready for `generate`.

    Raises:
        StorageError: If it has not been trained with this configuration.
    """
    from tskd_ray.pipeline.spread import load_teacher as load

    store = ArtifactStore(config.storage)
    graph = build_graph(config, data_key(load_recorded(config)))
    for name in ("data", *TEACHER):
        if name not in graph or store.find(graph[name].key) is None:
            raise StorageError(
                f"The teacher must have been trained. {config.storage} has no {name} of this "
                "configuration. Run `tskd train` with it first."
            )
    folders = {name: fetch(store, graph[name].key) for name in ("data", *TEACHER)}
    return load(folders, config, epoch=1)[0]
