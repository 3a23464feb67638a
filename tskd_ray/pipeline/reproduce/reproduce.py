"""`tskd reproduce`: cells in order, as far as the budget goes; then tables and figures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tskd_ray.config.load import load_config
from tskd_ray.config.schema import Config
from tskd_ray.console import Console
from tskd_ray.data.tasks import TaskData, find_tasks
from tskd_ray.distributed.session import session
from tskd_ray.errors import ConfigError
from tskd_ray.pipeline.artifacts import ArtifactStore
from tskd_ray.pipeline.output import library_versions
from tskd_ray.pipeline.publish import publish
from tskd_ray.pipeline.reproduce.cells import PlannedCell, do_cell, plan_cells
from tskd_ray.pipeline.reproduce.experiments import Experiment, chosen
from tskd_ray.report.reproduce.data import Cell, Results, RowTitle
from tskd_ray.report.reproduce.write import write_results


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to reproduce, and with what."""

    experiments: tuple[str, ...]
    data: tuple[str, ...] = ()
    """NAME=SOURCE or folders; none: the built-in data."""
    tasks: tuple[str, ...] = ()
    """Names to keep; none: those that the paper shows, else all that have data."""
    rows: tuple[str, ...] = ()
    """Ids to keep; none: all."""
    preset: str = "small"
    """Or a YAML file."""
    overrides: tuple[str, ...] = ()
    seeds: int = 1
    """Run seeds: each its own teacher, resets and students."""
    budget: float | None = None
    """Minutes after which nothing new is begun; what is finished is still told."""


@dataclass(frozen=True, kw_only=True)
class Reproduced:
    """What an experiment leaves."""

    results: Results
    folder: Path
    """`<storage>/reproduce/<experiment>`: results.json, results.md, figure.svg and .png; of a
    remote storage, this machine's copy of it."""


def reproduce(request: Request, *, console: Console | None = None) -> list[Reproduced]:
    """Do the experiments; what is finished is not done again, by whatever command it was.

    Args:
        request: What, on which data, how often, how long.
        console: Whom to tell; default: nobody.

    Raises:
        InputError: If names, settings, data or the storage are not fit.
        StageError: If a stage fails; the same command goes on.
    """
    console = console or Console(mode="quiet")
    if request.seeds < 1 or (request.budget is not None and not request.budget > 0):
        raise ConfigError(
            "--seeds is at least 1 and --budget more than 0 minutes. Got "
            f"{request.seeds} and {request.budget}. Correct them."
        )
    experiments = chosen(request.experiments, request.rows)
    base = load_config(request.preset, request.overrides)
    if not base.evaluate.episodes:
        raise ConfigError(
            "Experiments are about scores. Got evaluate.episodes=0. Set it to 1 or more."
        )
    store = ArtifactStore(base.storage)
    store.check_writable()
    root = (store.storage.local or store.cache) / "reproduce"
    tasks = find_tasks(request.data, request.tasks, root / "data")
    plans = [(one, _plan(one, tasks, request)) for one in experiments]
    until = None if request.budget is None else time.monotonic() + 60 * request.budget
    found: list[Reproduced] = []
    with ExitStack() as stack:
        if base.compute.mode == "ray":
            stack.enter_context(session(base.compute))
        for experiment, cells in plans:
            folder = root / experiment.name
            done: list[Cell] = []

            def write(
                results: Results, folder: Path = folder, name: str = experiment.name
            ) -> None:
                write_results(results, folder)
                publish(store.storage, folder, f"reproduce/{name}")

            for number, cell in enumerate(cells, start=1):
                begin = until is None or time.monotonic() < until
                if begin:
                    _tell(console, experiment, cell, number, len(cells))
                told = do_cell(cell, console, begin=begin)
                if told is None:
                    continue
                done.append(told)
                # at once: a kill leaves what is known
                write(_results(experiment, cells, done, base, request))
            results = _results(experiment, cells, done, base, request)
            write(results)
            found.append(Reproduced(results=results, folder=folder))
    return found


def _plan(
    experiment: Experiment, tasks: Sequence[TaskData], request: Request
) -> list[PlannedCell]:
    """On the paper's tasks where there are data for them and none were named; else on all."""
    shown = [task for task in tasks if not experiment.tasks or task.name in experiment.tasks]
    return plan_cells(
        experiment,
        tasks if request.tasks or not shown else shown,
        preset=request.preset,
        overrides=request.overrides,
        seeds=request.seeds,
    )


def _tell(
    console: Console, experiment: Experiment, cell: PlannedCell, number: int, total: int
) -> None:
    title = cell.row.title or experiment.name
    console.note(
        f"{experiment.name} {number}/{total}: {cell.task.name}, {title}, seed {cell.seed}"
    )


def _results(
    experiment: Experiment,
    planned: Sequence[PlannedCell],
    done: Sequence[Cell],
    base: Config,
    request: Request,
) -> Results:
    tasks = {cell.task.name: cell.task.source for cell in planned}
    return Results(
        experiment=experiment.name,
        title=experiment.title,
        kind=experiment.kind,
        preset=request.preset,
        overrides=request.overrides,
        rollout=base.generate.rollout,
        tasks=tuple(tasks),
        sources=tasks,
        rows=tuple(RowTitle(id=r.id, title=r.title, x=r.x) for r in experiment.rows),
        seeds=request.seeds,
        episodes=base.evaluate.episodes,
        cells=tuple(done),
        left=len(planned) - len(done),
        versions=library_versions(),
    )
