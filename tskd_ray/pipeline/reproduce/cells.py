"""The cells of an experiment's table: planned, done one by one, told as figures."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tskd_ray.config.load import load_config, preset_names
from tskd_ray.config.schema import Config
from tskd_ray.console import Console
from tskd_ray.data.environments import normalized_score
from tskd_ray.data.tasks import TaskData
from tskd_ray.errors import ConfigError, DataError
from tskd_ray.pipeline.graph import needed
from tskd_ray.pipeline.reproduce.experiments import Experiment, Row
from tskd_ray.pipeline.runner import Runner
from tskd_ray.pipeline.spread import fetch
from tskd_ray.pipeline.summary import reference
from tskd_ray.pipeline.sweep.trial import cpu_seconds
from tskd_ray.report.reproduce.data import Cell

DOCUMENTS = {
    "planning": "planning",
    "planning-paper": "planning",
    "reward-errors": "reward-errors",
    "origins": "origins",
}
"""The JSON part of an artifact that tells, by its node."""


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """A cell before it is done."""

    task: TaskData
    row: Row
    seed: int
    config: Config
    command: str


def plan_cells(
    experiment: Experiment,
    tasks: Sequence[TaskData],
    *,
    preset: str,
    overrides: Sequence[str],
    seeds: int,
) -> list[PlannedCell]:
    """All cells, first seeds first, so that a budget that ends leaves whole tables.

    Raises:
        ConfigError: If the preset or an override is wrong.
    """
    cells: list[PlannedCell] = []
    for seed in range(seeds):
        for task in tasks:
            own = [*task.overrides, *overrides, f"seed={seed}"]
            fitting = fitting_preset(preset, task.name)
            base = load_config(fitting, own)
            for row in experiment.rows:
                name = f"name={experiment.name}.{task.name}.{row.id}.{seed}"
                settings = [*own, *row.changes(base), name]
                cells.append(
                    PlannedCell(
                        task=task,
                        row=row,
                        seed=seed,
                        config=load_config(fitting, settings),
                        command=shlex.join(["tskd", "run", fitting, *settings]),
                    )
                )
    return cells


def fitting_preset(preset: str, task: str) -> str:
    """`small-hopper-medium` or `small-hopper` instead of `small`, where there is one."""
    robot = task.partition("-")[0]
    names = (f"{preset}-{task}", f"{preset}-{robot}")
    return next((name for name in names if name in preset_names()), preset)


def do_cell(cell: PlannedCell, console: Console, *, begin: bool = True) -> Cell | None:
    """Do what the cell's row needs and is not done yet; then what it says.

    A row that the task's data do not allow, such as a selection that keeps too few episodes,
    is a cell with the reason.

    Args:
        cell: Which.
        console: Whom to tell.
        begin: False: do nothing, and return None if anything is left to do.

    Raises:
        StorageError: If the storage fails, or is full; again resumes.
        ResourceError: If the hardware is not fit, which no other cell would change.
        StageError: If a stage fails; again resumes.
    """
    told = Cell(task=cell.task.name, row=cell.row.id, seed=cell.seed, command=cell.command)
    try:
        runner = Runner(cell.config, console, cell.row.extras)
        nodes = needed(runner.graph, [cell.row.target])
        runner.check(nodes)
        if not begin and runner.missing(nodes):
            return None
        runner.complete(nodes)
    except (ConfigError, DataError) as error:
        return replace(told, failure=str(error).splitlines()[0])
    node = runner.graph[cell.row.target]
    folder = fetch(runner.store, node.key)
    told = replace(told, key=node.key.digest, cpu_seconds=cpu_seconds(runner.store, nodes))
    if cell.row.target in DOCUMENTS:
        path = folder / f"{DOCUMENTS[cell.row.target]}.json"
        return replace(told, figures=json.loads(path.read_text()))
    returns = np.load(
        folder / "returns.npy", allow_pickle=False
    )  # checkpoints, seeds, episodes
    per_student = returns[-1].mean(axis=1)
    scale = reference(cell.config, runner.recorded)
    values = per_student if scale is None else normalized_score(per_student, scale)
    return replace(
        told, scores=tuple(float(value) for value in values), normalized=scale is not None
    )
