"""`tskd generate --tune-sampler`: what each way of sampling costs, and what it is worth."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tskd_ray.config.schema import Config
from tskd_ray.console import Console
from tskd_ray.data.arrays import load_arrays
from tskd_ray.distributed.tasks import Task, run_tasks
from tskd_ray.evaluation.quality import quality
from tskd_ray.pipeline.artifacts import ArtifactKey, ArtifactStore
from tskd_ray.pipeline.graph import TEACHER, needed, require_ddr
from tskd_ray.pipeline.runner import Runner
from tskd_ray.pipeline.spread import fetch, load_teacher
from tskd_ray.progress import Progress, silent
from tskd_ray.report.sampler import SamplerRow, SamplerStudy, setting_label, write_study

TRAJECTORIES = 16
"""Generated for each setting, unless `generate.trajectories` is less: the same numbers, so the
same starts and noise, for each."""

Change = dict[str, Any]
_STEPS = (1, 2, 3, 5, 10, 20)
_EVERY = (1, 2, 4, 8, 16)
_WARM = (1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """What `tune_sampler` leaves."""

    study: SamplerStudy
    page: Path
    """`<storage>/runs/<name>/sampler/sampler.html`; sampler.json lies beside it."""


def tune_sampler(config: Config, *, console: Console | None = None) -> TuneResult:
    """Train the teacher if need be, then generate a few trajectories by each setting.

    Args:
        config: The whole configuration; its sampler is where the settings start from.
        console: Whom to tell; default: nobody.

    Raises:
        InputError: As `run`; also if the configuration generates nothing.
        StageError: If a stage fails; running again resumes.
    """
    require_ddr(config.generate, "There must be generation by DDR-I to tune.")
    runner = Runner(config, console)
    store, console = runner.store, runner.console
    wanted = needed(runner.graph, TEACHER)
    settings = neighbours(config)
    with runner.connected(wanted):
        inputs = {node.name: node.key for node in wanted}
        with console.stage("tune-sampler"):
            tasks = {
                str(number): Task(
                    function=try_setting,
                    arguments={"store": store, "inputs": inputs, "config": setting},
                )
                for number, setting in enumerate(settings)
            }
            bars = {
                str(number): console.progress(setting_label(setting.generate))
                for number, setting in enumerate(settings)
            }
            rows = run_tasks(tasks, config.compute, progress=bars.__getitem__)
    study = SamplerStudy(
        rows=tuple(rows.values()),
        rollout=config.generate.rollout,
        device=config.compute.device,
    )
    page = write_study(study, config.name, store.run_folder(config.name) / "sampler")
    store.publish_run(config.name, "sampler")
    return TuneResult(study=study, page=page)


def neighbours(config: Config) -> list[Config]:
    """The configured setting, and those that differ from it in one thing at a time.

    Samplers and their steps, replanning intervals, and plans that begin from the one before.
    """
    steps = config.teacher.trajectory.diffusion_steps
    ahead = config.teacher.trajectory.horizon - config.teacher.context
    ours = config.generate
    changes: list[tuple[Change, Change]] = [({}, {})]
    changes += [
        ({"name": name, "steps": count}, {"warm_steps": None})
        for name in ("ddim", "dpmpp_2m")
        for count in _STEPS
        if count <= steps and not (name == "dpmpp_2m" and count <= 2)  # those are ddim's
    ]
    changes += [({}, {"replan_every": every}) for every in _EVERY if every <= ahead]
    changes += [({}, {"warm_steps": warm}) for warm in (None, *_WARM)]
    found: list[Config] = []
    for sampler, generate in changes:
        both = ours.sampler.model_copy(update=sampler)
        count = min(ours.trajectories, TRAJECTORIES)
        update = {"sampler": both, "trajectories": count, **generate}
        tried = config.model_copy(update={"generate": ours.model_copy(update=update)})
        warm = tried.generate.warm_steps
        if tried not in found and (warm is None or warm <= both.steps):
            found.append(tried)
    return found


def try_setting(
    *,
    store: ArtifactStore,
    inputs: Mapping[str, ArtifactKey],
    config: Config,
    progress: Progress = silent,
) -> SamplerRow:
    """Generate by one setting and look at the result; a task of `run_tasks`."""
    from tskd_ray.diffusion.rollout import generate

    folders = {name: fetch(store, key) for name, key in inputs.items()}
    teacher, first_id = load_teacher(folders, config, epoch=1)
    recorded = load_arrays(folders["data"])
    # The first call also compiles: it is not what a long run pays.
    short = config.generate.model_copy(update={"max_steps": config.generate.replan_every})
    generate(teacher, short, ids=[0], seed=config.seed)
    clock = time.process_time if config.compute.device == "cpu" else time.perf_counter
    began = clock()
    made = generate(
        teacher,
        config.generate,
        ids=range(config.generate.trajectories),
        seed=config.seed,
        epoch=1,
        first_id=first_id,
        slots=config.compute.slots,
        progress=progress,
    )
    seconds = clock() - began
    return SamplerRow.of(
        config.generate,
        quality(made.trajectories, made.disagreement, recorded, config.seed),
        seconds / made.trajectories.n_steps,
    )
