"""Trials through Ray Tune: which settings, in what order, stopped when, told to whom.

Tune searches, schedules and logs. The work of a trial is done by the workshop, so a trial holds
no CPU: with a share of one each, four trials would cost a two-core machine one of its cores.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tskd_ray.config.schema import ComputeConfig
from tskd_ray.distributed.outcome import Failure, outcome, raise_failure
from tskd_ray.distributed.workshop import Job, open_workshop
from tskd_ray.errors import StageError

Settings = Mapping[str, Any]
Metrics = Mapping[str, float]
Order = Callable[[Sequence[Job]], None]
"""Has jobs done, and raises what went wrong."""

_QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # an interrupt ends the command; the next one resumes
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
_TRIAL_MEMORY = 1 << 20  # a trial must ask for something


class Objective(Protocol):
    """What a trial does; runs in a process of its own and must be picklable."""

    def __call__(self, settings: Settings, order: Order) -> Iterable[Metrics]:
        """Metrics after each epoch, the last ones with `last` = 1."""
        raise NotImplementedError


class Listener(Protocol):
    """Whom the driver tells."""

    def started(self, settings: Settings) -> None:
        """A trial begins."""
        raise NotImplementedError

    def reported(self, settings: Settings, metrics: Metrics) -> None:
        """A trial reports; with `last` = 1 it is done."""
        raise NotImplementedError

    def stopped(self, settings: Settings) -> None:
        """The scheduler has stopped a trial that reported before."""
        raise NotImplementedError

    def failed(self, settings: Settings, failure: Failure | None) -> None:
        """A trial failed: for what the work raised, or None if its process was lost."""
        raise NotImplementedError

    def tick(self, made: int, running: Sequence[str]) -> None:
        """Now and then: jobs made so far, names of those running."""
        raise NotImplementedError

    def spent(self) -> bool:
        """Whether a budget is used up, so that all trials stop."""
        raise NotImplementedError


class Suggest(Protocol):
    """A point of a search space, drawn through Optuna's trial."""

    def __call__(self, trial: Any) -> None:
        """Call `trial.suggest_…` for each setting."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Search:
    """Which settings are tried."""

    points: Sequence[Settings] = ()
    """All of them; with `suggest`, those to begin with."""
    suggest: Suggest | None = None
    decode: Callable[[Settings], Settings] = dict
    """From what `suggest` drew to settings."""
    trials: int
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How trials are run."""

    name: str
    objectives: Sequence[tuple[str, str]]
    """(metric, "max" or "min"); the first one is the scheduler's."""
    scheduler: str
    max_reports: int
    """Reports of the longest trial."""
    concurrent: int
    loggers: Sequence[str]
    folder: Path
    """Of the sweep: logs and Tune's scratch go below it."""


def run_trials(
    objective: Objective,
    search: Search,
    plan: Plan,
    compute: ComputeConfig,
    listener: Listener,
) -> None:
    """Run all trials, until they or a budget end.

    Args:
        objective: What a trial does.
        search: Which.
        plan: How.
        compute: Of the jobs that trials order.
        listener: Told of everything, in this process.

    Raises:
        StageError: If Tune itself fails.
    """
    os.environ.update(_QUIET)
    import ray

    name = f"tskd-workshop-{uuid.uuid4().hex}"
    shop = open_workshop(name, compute, plan.name)
    try:
        with _quiet(), _scratch(plan.folder / "scratch") as scratch:
            _fit(objective, search, plan, name, shop, listener, scratch)
    finally:
        ray.kill(shop)


def _fit(
    objective: Objective,
    search: Search,
    plan: Plan,
    workshop: str,
    shop: Any,
    listener: Listener,
    scratch: Path,
) -> None:
    from ray import tune

    from tskd_ray.distributed.relay import Budget, Relay

    def decode(config: Settings) -> Settings:
        return settings_of(config, search.decode)

    bundle: dict[str, int | float] = {"CPU": 0, "memory": _TRIAL_MEMORY}
    trainable = tune.with_resources(
        partial(_trial, objective=objective, decode=search.decode, workshop=workshop),
        tune.PlacementGroupFactory([bundle]),
    )
    searcher = None if search.suggest is None else _optuna(search, plan)
    points = [dict(point) for point in search.points]
    space = {} if searcher is not None else {"settings": tune.grid_search(points)}
    tuner = tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=_scheduler(plan),
            num_samples=search.trials if searcher is not None else 1,
            max_concurrent_trials=plan.concurrent,
            reuse_actors=True,  # a process costs seconds
            trial_name_creator=str,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch),
            verbose=0,
            # what the work raises would come again; lost processes are the caller's to count
            failure_config=tune.FailureConfig(max_failures=0),
            stop=Budget(listener),
            callbacks=[Relay(listener, decode, shop), *_loggers(plan)],
        ),
    )
    try:
        tuner.fit()
    except tune.TuneError as error:
        raise StageError(
            f"Ray Tune failed: {' '.join(str(error).split())[:300]}. Run the same command "
            "again to resume."
        ) from error


def _trial(
    config: Settings,
    *,
    objective: Objective,
    decode: Callable[[Settings], Settings],
    workshop: str,
) -> None:
    """A trial: settings in, reports out."""
    import ray
    from ray import tune

    shop: Any = ray.get_actor(workshop)

    def order(jobs: Sequence[Job]) -> None:
        failure: Any = ray.get(shop.ensure.remote(list(jobs)))
        if failure is not None:
            raise_failure(failure, "A trial")

    def report_all() -> None:
        for metrics in objective(settings_of(config, decode), order):
            tune.report(dict(metrics))

    result = outcome(report_all)
    if isinstance(result, Failure):
        trial = tune.get_context().get_trial_id()
        ray.get(shop.note_failure.remote(trial, result))
        raise RuntimeError(result.summary)


def settings_of(config: Settings, decode: Callable[[Settings], Settings]) -> Settings:
    """The settings in a trial's Tune config."""
    return config["settings"] if "settings" in config else decode(config)


def _scheduler(plan: Plan) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule

    metric, mode = plan.objectives[0]
    common: dict[str, Any] = {"time_attr": "training_iteration", "metric": metric, "mode": mode}
    if plan.scheduler == "asha":
        return ASHAScheduler(**common, max_t=plan.max_reports, reduction_factor=2)
    if plan.scheduler == "median":
        return MedianStoppingRule(**common, grace_period=1, min_samples_required=3)
    return FIFOScheduler()


def _optuna(search: Search, plan: Plan) -> Any:
    """TPE; the points to begin with are suggested first, in order."""
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    from tskd_ray.distributed.suggest import ByNumber

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    metrics = [metric for metric, _ in plan.objectives]
    modes = [mode for _, mode in plan.objectives]
    several = len(metrics) > 1
    return OptunaSearch(
        space=search.suggest,
        metric=metrics if several else metrics[0],
        mode=modes if several else modes[0],
        points_to_evaluate=[dict(point) for point in search.points],
        sampler=ByNumber(search.seed),
    )


def _loggers(plan: Plan) -> list[Any]:
    from tskd_ray.distributed.relay import TensorBoard

    made: list[Any] = []
    for name in plan.loggers:
        if name == "tensorboard":
            made.append(TensorBoard(plan.folder / "tensorboard"))
        elif name == "mlflow":
            from ray.air.integrations.mlflow import MLflowLoggerCallback

            made.append(MLflowLoggerCallback(experiment_name=plan.name))
        else:
            from ray.air.integrations.wandb import WandbLoggerCallback

            made.append(WandbLoggerCallback(project=plan.name))
    return made


@contextlib.contextmanager
def _scratch(folder: Path) -> Generator[Path]:
    """A folder for Tune's own state, which nothing of ours reads."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Nothing from Tune on the user's terminal: failures are told by us."""
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.train", "ray.air")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
