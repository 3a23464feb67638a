"""A whole sweep: plan, trials, winner, the winner's run with fresh seeds, the report."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tskd_ray.config.load_sweep import Point, Sweep
from tskd_ray.config.schema import Config
from tskd_ray.console import Console
from tskd_ray.distributed.session import cluster_nodes, session, worker_slots
from tskd_ray.distributed.shared import require_shared_storage
from tskd_ray.distributed.tune import Plan, Search, run_trials
from tskd_ray.errors import ConfigError, ResourceError, StageError
from tskd_ray.pipeline.artifacts import ArtifactKey, ArtifactStore
from tskd_ray.pipeline.graph import build_graph
from tskd_ray.pipeline.publish import publish
from tskd_ray.pipeline.recorded import record_data
from tskd_ray.pipeline.run import run
from tskd_ray.pipeline.storage import safe_path
from tskd_ray.pipeline.summary import reference
from tskd_ray.pipeline.sweep.log import TrialLog
from tskd_ray.pipeline.sweep.plan import SweepPlan, plan_sweep
from tskd_ray.pipeline.sweep.suggest import SpaceDraw, decode, encode
from tskd_ray.pipeline.sweep.tracker import Tracker, finished_rows, metrics_of, winner
from tskd_ray.pipeline.sweep.trial import (
    TrialObjective,
    epochs,
    point_id,
    read_from,
    read_metrics,
    stage_of,
)
from tskd_ray.pipeline.sweep.widest import widest_searches
from tskd_ray.report.sweep.data import Direction, FinalRow, SweepRecord, TrialRow, write_sweep

_MOST_AT_ONCE = 16
_ROUNDS = 3  # of trials whose process was lost
_LOGGERS = {"mlflow": "mlflow", "wandb": "wandb"}
_WORDS: Mapping[str, Direction] = {"max": "maximize", "min": "minimize"}


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """What a sweep leaves."""

    folder: Path
    """`<storage>/sweeps/<name>`."""
    record: SweepRecord
    report: Path | None


def run_sweep(
    sweep: Sweep, *, console: Console | None = None, plan: SweepPlan | None = None
) -> SweepResult:
    """Do the trials that are not done yet, then the winner's run, then the report.

    Args:
        sweep: Read by `load_sweep`.
        console: Whom to tell; default: nobody.
        plan: Of `plan_sweep`, if it was made before.

    Raises:
        InputError: If settings, data, storage or hardware are not fit; before any long work.
        StageError: If no trial succeeds; running again resumes.
    """
    console = console or Console(mode="quiet")
    base = sweep.base
    _check_mode(sweep, base)
    store = ArtifactStore(base.storage)
    store.check_writable()
    plan = plan or plan_sweep(sweep, store)
    folder = sweep_folder(store, base.name)
    log = TrialLog(store.storage, base.name)
    log.read()
    log.announce(plan.outline)
    tracker = Tracker(plan, store, log, tag=base.name, console=console)
    todo = _todo(plan, log)
    try:
        with session(base.compute) if todo else nullcontext():
            if todo:
                require_shared_storage(store.storage.root, store.storage.local, base.compute)
                record_data(store, plan.data_key, plan.recorded)
                for _ in range(_ROUNDS):
                    tracker.lost = False
                    _run_trials(plan, store, log, tracker, folder)
                    if not tracker.lost or tracker.spent():
                        break
                tracker.keep_bill()
            rows = finished_rows(log, plan)
            best = winner(rows, sweep)
            if best is None:
                raise StageError(_none_succeeded(log, rows))
            final = _final(plan, store, log, best, console)
    finally:
        tracker.close()
    record = _record(plan, store, rows, best, final, log)
    write_sweep(record, folder)
    report = _report(folder)
    publish(store.storage, folder, f"sweeps/{base.name}")
    return SweepResult(folder=folder, record=record, report=report)


def sweep_folder(store: ArtifactStore, name: str) -> Path:
    """`<storage>/sweeps/<name>`; of a remote storage, this machine's copy, see `publish`."""
    return (store.storage.local or store.cache) / "sweeps" / safe_path(name)


def _check_mode(sweep: Sweep, base: Config) -> None:
    if base.compute.mode == "local":
        raise ConfigError(
            "A sweep runs on Ray. Got compute.mode=local. Leave compute.mode out; without "
            "RAY_ADDRESS a cluster starts on this machine."
        )
    for name in sweep.settings.loggers:
        module = _LOGGERS.get(name)
        if module is not None and importlib.util.find_spec(module) is None:
            raise ResourceError(
                f"loggers: {name} needs the package {module}. It is not installed. "
                f"pip install 'tskd-ray[{name}]'."
            )


# -- trials ----------------------------------------------------------------------------


def _todo(plan: SweepPlan, log: TrialLog) -> bool:
    """Whether any trial is left."""
    done = [row for row in finished_rows(log, plan) if row.state != "failed"]
    return len(done) < plan.trials


def _run_trials(
    plan: SweepPlan,
    store: ArtifactStore,
    log: TrialLog,
    tracker: Tracker,
    folder: Path,
) -> None:
    sweep = plan.sweep
    settings = sweep.settings
    known = [
        entry
        for entry in sorted(log.entries.values(), key=lambda entry: entry.number)
        if entry.identity == plan.identity(entry.point)
    ]
    finished = {point_id(entry.point): entry.reports for entry in known if entry.finished}
    by_epoch = settings.scheduler != "none"
    objective = TrialObjective(
        sweep=sweep,
        store=store,
        data_key=plan.data_key,
        scale=reference(sweep.base, plan.recorded),
        by_epoch=by_epoch,
        tag=tracker.tag,
        past=finished,
        widest=widest_searches(sweep, plan.points or (), plan.data_key),
    )
    # A scheduler or a searcher learns from earlier trials, so those tell their reports again.
    again = by_epoch or plan.points is None
    if plan.points is not None:
        points = [p for p in plan.points if again or point_id(p) not in finished]
        search = Search(points=points, trials=len(points))
    else:
        search = Search(
            points=[encode(sweep, entry.point) for entry in known],
            suggest=SpaceDraw(sweep),
            decode=lambda drawn: decode(sweep, drawn),
            trials=plan.trials,
            seed=settings.search.seed,
        )
    configs = [sweep.base, *map(sweep.config, plan.points or ())]
    run_trials(
        objective,
        search,
        Plan(
            name=settings.name,
            objectives=[(one.metric, one.direction) for one in settings.objective],
            scheduler=settings.scheduler,
            max_reports=max(len(epochs(config, by_epoch)) for config in configs),
            concurrent=settings.concurrent or _at_once(sweep.base),
            loggers=settings.loggers,
            folder=folder,
        ),
        sweep.base.compute,
        tracker,
    )


def _at_once(base: Config) -> int:
    """Enough trials that workers never wait for the next one."""
    slots = worker_slots(base.compute, cluster_nodes(), gpu=False)
    return min(_MOST_AT_ONCE, slots + 2)


def _none_succeeded(log: TrialLog, rows: Sequence[TrialRow]) -> str:
    failures = [entry.failure for entry in log.entries.values() if entry.failure]
    if not rows:
        return "No trial ended within the budget. Raise it and run the same command again."
    return f"No trial succeeded; the first of {len(failures)} that failed: {failures[0]}"


# -- the winner ------------------------------------------------------------------------


def _final(
    plan: SweepPlan, store: ArtifactStore, log: TrialLog, best: TrialRow, console: Console
) -> FinalRow | None:
    """A whole run of the best setting, its students and episodes seen by no trial."""
    settings = plan.sweep.settings
    if settings.final is None:
        return None
    point = next(e.point for e in log.entries.values() if e.row and e.row.keys == best.keys)
    config = final_config(plan.sweep, point)
    console.note(f"final run of trial {best.number}, with fresh seeds and episodes")
    result = run(config, console=console)
    metrics = [m for m in metrics_of(plan.sweep) if m != "cpu_seconds"]
    nodes = read_from(build_graph(config, plan.data_key), metrics)
    found = read_metrics(store, nodes, metrics, reference(config, plan.recorded))
    names = ("score", "score_error", "offline", "offline_low", "offline_high")
    return FinalRow(
        settings=best.settings,
        run_folder=str(result.folder),
        seeds=settings.final.seeds,
        episodes=settings.final.episodes,
        **{name: found.get(name) for name in names},
        sweep_score=best.score,
    )


def final_config(sweep: Sweep, point: Point | Mapping[str, Any]) -> Config:
    """The winner's configuration, its students and episodes numbered beyond every trial's."""
    final = sweep.settings.final
    assert final is not None, "asked for"
    config = sweep.config(point)
    seeds = _largest(sweep, "distill.seeds", "distill.first_seed")
    episodes = _largest(sweep, "evaluate.episodes", "evaluate.first_episode")
    return config.model_copy(
        update={
            "distill": config.distill.model_copy(
                update={"seeds": final.seeds, "first_seed": seeds}
            ),
            "evaluate": config.evaluate.model_copy(
                update={"episodes": final.episodes, "first_episode": episodes}
            ),
        }
    )


def _largest(sweep: Sweep, *keys: str) -> int:
    """The sum of the largest values that settings can take: no trial's number reaches it."""
    total = 0
    for key in keys:
        domain = sweep.settings.space.get(key)
        values = (domain.values() or ()) if domain is not None else ()
        total += max([int(sweep.base_value(key)), *map(int, values)])
    return total


# -- the record ------------------------------------------------------------------------


def _record(
    plan: SweepPlan,
    store: ArtifactStore,
    rows: Sequence[TrialRow],
    best: TrialRow,
    final: FinalRow | None,
    log: TrialLog,
) -> SweepRecord:
    sweep = plan.sweep
    base = sweep.base
    cpu, wall = log.spent()
    environment = plan.recorded.environment
    return SweepRecord(
        name=base.name,
        objectives=tuple((o.metric, _WORDS[o.direction]) for o in sweep.settings.objective),
        rollout=base.generate.mode,
        environment=None if environment is None else environment.id,
        environment_kwargs=None if environment is None else environment.kwargs,
        base=base.model_dump(mode="json"),
        space={
            key: json.loads(domain.model_dump_json(exclude_none=True, exclude_defaults=True))
            for key, domain in sweep.settings.space.items()
        },
        trials=tuple(rows),
        winner=best.number,
        final=final,
        cpu_seconds=round(cpu, 3),
        wall_seconds=round(wall, 3),
        single_run_cpu_seconds=_single_run(plan, store, rows),
        artifacts=_artifacts(rows),
    )


def _artifacts(rows: Sequence[TrialRow]) -> dict[str, tuple[int, int]]:
    """Stage → distinct artifacts, times used."""
    used: dict[str, list[str]] = {}
    for row in rows:
        for name, key in row.keys.items():
            used.setdefault(stage_of(name), []).append(key)
    return {stage: (len(set(keys)), len(keys)) for stage, keys in used.items()}


def _single_run(plan: SweepPlan, store: ArtifactStore, rows: Sequence[TrialRow]) -> float:
    """CPU seconds of one run of the base settings: of its own artifacts, else like ones."""
    graph = build_graph(plan.sweep.base, plan.data_key)
    seconds: dict[str, list[float]] = {}
    for row in rows:
        for name, key in row.keys.items():
            stage = stage_of(name)
            seconds.setdefault(stage, []).append(_seconds(store, stage, key))
    total = 0.0
    for node in graph.values():
        artifact = store.find(node.key)
        if artifact is not None:
            total += float(artifact.info.get("cpu_seconds", 0.0))
        elif node.stage in seconds:
            total += sum(seconds[node.stage]) / len(seconds[node.stage])
    return round(total, 3)


def _seconds(store: ArtifactStore, stage: str, digest: str) -> float:
    artifact = store.find(ArtifactKey(stage=stage, digest=digest))
    return 0.0 if artifact is None else float(artifact.info.get("cpu_seconds", 0.0))


def _report(folder: Path) -> Path:
    from tskd_ray.report.sweep.html import write_sweep_report

    return write_sweep_report(folder)
