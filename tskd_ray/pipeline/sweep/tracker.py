"""The driver's view of a sweep: told of every trial, it keeps the record and tells the user."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from tskd_ray.config.load_sweep import Sweep
from tskd_ray.console import Cell, Console
from tskd_ray.distributed.metrics import RunMetrics
from tskd_ray.distributed.outcome import Failure
from tskd_ray.distributed.tune import Metrics
from tskd_ray.distributed.usage import ProcessTree
from tskd_ray.errors import StorageError
from tskd_ray.pipeline.artifacts import ArtifactStore
from tskd_ray.pipeline.graph import build_graph
from tskd_ray.pipeline.sweep.log import Entry, TrialLog, flat
from tskd_ray.pipeline.sweep.plan import SweepPlan
from tskd_ray.pipeline.sweep.trial import (
    at_epoch,
    cpu_seconds,
    made_for,
    point_id,
    read_from,
)
from tskd_ray.report.sweep.data import TrialRow

_SAVE_SECONDS = 5.0

_SHOWN = 8
"""Trials of the table that a terminal shows while a sweep runs, besides those running."""


class Tracker:
    """A `Listener` of the trials."""

    def __init__(
        self, plan: SweepPlan, store: ArtifactStore, log: TrialLog, tag: str, console: Console
    ) -> None:
        self.plan, self.store, self.log, self.tag = plan, store, log, tag
        self.console = console
        self._started: dict[str, float] = {}
        self._reports: dict[str, list[Metrics]] = {}
        self.lost = False
        """Whether a trial failed for no fault of its own, so that trying again helps."""
        self._usage = ProcessTree()
        self._begun = self._saved = time.monotonic()
        self._before = log.spent()
        self._own = time.process_time()
        self._marginal = 0.0
        self._made = 0
        self._spent = False
        self._metrics = RunMetrics(tag)
        self._metrics.__enter__()
        self._trials = self._metrics.listen("trials", console.progress("trials"))
        self._artifacts = self._metrics.listen("artifacts", console.progress("artifacts"))
        names = list(plan.sweep.settings.space)
        short = [name.rpartition(".")[2] for name in names]
        shown = short if len(set(short)) == len(short) else names
        self._board = console.board(("trial", metrics_of(plan.sweep)[0], "±", *shown, "CPU s"))
        self._tell()

    @property
    def sweep(self) -> Sweep:
        """The settings."""
        return self.plan.sweep

    def cost(self) -> tuple[float, float]:
        """CPU and wall seconds of the sweep, earlier commands included."""
        cpu, wall = self._before
        # On a cluster that others started, what workers took is known by artifacts alone.
        here = max(self._usage.cpu_seconds, time.process_time() - self._own + self._marginal)
        return cpu + here, wall + time.monotonic() - self._begun

    def keep_bill(self) -> None:
        """Note what the sweep has cost up to now."""
        self.log.note_spent(*self.cost())

    def close(self) -> None:
        """Stop counting."""
        self._usage.close()
        self._metrics.__exit__(None, None, None)

    # -- told by the trials ------------------------------------------------------------

    def started(self, settings: Mapping[str, Any]) -> None:
        name = point_id(settings)
        self._started.setdefault(name, time.monotonic())
        self._reports[name] = []
        old = self.log.of(settings)
        if old is None or (old.row is None and old.digests != self.plan.digests(settings)):
            self.log.write(self._entry(settings))
        self._tell()

    def reported(self, settings: Mapping[str, Any], metrics: Metrics) -> None:
        kept = {key: float(value) for key, value in metrics.items() if key in _REPORTED}
        self._reports.setdefault(point_id(settings), []).append(kept)
        if kept["last"]:
            self._end(settings, "done")

    def stopped(self, settings: Mapping[str, Any]) -> None:
        if self._reports.get(point_id(settings)):
            self._end(settings, "stopped")

    def failed(self, settings: Mapping[str, Any], failure: Failure | None) -> None:
        self.lost = self.lost or failure is None
        text = "its process was lost" if failure is None else failure.summary
        if failure is not None and failure.error is not None:
            text = str(failure.error)
        self._end(settings, "failed", failure=text)

    def tick(self, made: int, running: Sequence[str]) -> None:
        self._made = max(self._made, made)
        self._metrics.running(["trials", "artifacts", *running])
        most = max(self.plan.to_make, self._made)
        if most:
            self._artifacts(self._made, most, running=float(len(running)))
        if time.monotonic() > self._saved + _SAVE_SECONDS:
            self._saved = time.monotonic()
            with suppress(StorageError):  # it is noted again in a moment
                self.keep_bill()

    def spent(self) -> bool:
        if not self._spent:
            budget = self.sweep.settings.budget
            cpu, wall = self.cost() if budget.hours or budget.cpu_hours else (0.0, 0.0)
            self._spent = bool(
                (budget.hours and wall > 3600 * budget.hours)
                or (budget.cpu_hours and cpu > 3600 * budget.cpu_hours)
            )
        return self._spent

    # -- inside ------------------------------------------------------------------------

    def _entry(self, settings: Mapping[str, Any], **found: Any) -> Entry:
        return Entry(
            number=self._number(settings),
            point=settings,
            identity=self.plan.identity(settings),
            digests=self.plan.digests(settings),
            **found,
        )

    def _number(self, settings: Mapping[str, Any]) -> int:
        if self.plan.points is not None:
            return self.plan.points.index(dict(settings))
        old = self.log.of(settings)
        if old is not None:
            return old.number
        return 1 + max((entry.number for entry in self.log.entries.values()), default=-1)

    def _end(self, settings: Mapping[str, Any], state: Any, failure: str = "") -> None:
        name = point_id(settings)
        old = self.log.of(settings)
        if old is not None and old.finished and old.identity == self.plan.identity(settings):
            return  # told again by an earlier command's reports
        reports = self._reports.get(name, [])
        entry = self._entry(settings, reports=tuple(reports), failure=failure)
        row = self._row(entry, state, time.monotonic() - self._started.get(name, self._begun))
        self._marginal += row.marginal_cpu_seconds
        self.log.write(
            Entry(
                number=entry.number, point=settings, identity=entry.identity,
                digests=entry.digests, row=row, reports=entry.reports, failure=failure,
            )
        )  # fmt: skip
        if failure:
            self.console.warn(f"trial {entry.number} failed: {failure}")
        else:
            self._announce(row)
        self._tell()

    def _row(self, entry: Entry, state: Any, wall_seconds: float) -> TrialRow:
        found = dict(entry.reports[-1]) if entry.reports else {}
        config = self.sweep.config(entry.point)
        k = int(found.get("epochs", config.stitch.epochs))
        graph = build_graph(at_epoch(config, k), self.plan.data_key)
        nodes = read_from(graph, metrics_of(self.sweep))
        names = ("score", "score_error", "offline", "offline_low", "offline_high")
        return TrialRow(
            number=entry.number,
            settings=flat(entry.point),
            state=state,
            **{name: found.get(name) for name in names},
            marginal_cpu_seconds=cpu_seconds(
                self.store, nodes, made_for(self.tag, entry.point)
            ),
            full_cpu_seconds=cpu_seconds(self.store, nodes),
            wall_seconds=round(wall_seconds, 3),
            keys={node.name: node.key.digest for node in nodes},
        )

    def _announce(self, row: TrialRow) -> None:
        metric = metrics_of(self.sweep)[0]
        value = getattr(row, metric, None)
        shown = "" if value is None else f"{metric} {value:.4g}"
        error = row.score_error if metric == "score" else None
        shown += "" if error is None else f" ± {error:.2g}"
        settings = ", ".join(f"{key} {value}" for key, value in row.settings.items())
        self.console.note(f"trial {row.number} {row.state}: {shown} ({settings})")

    def _tell(self) -> None:
        rows = finished_rows(self.log, self.plan)
        best = winner(rows, self.sweep)
        metric = metrics_of(self.sweep)[0]
        known: dict[str, float] = {} if best is None else {"best": getattr(best, metric)}
        self._trials(len(rows), self.plan.trials, **known)
        self._board([*self._best_rows(rows, best), *self._running_rows()])

    def _best_rows(self, rows: Sequence[TrialRow], best: TrialRow | None) -> list[list[Cell]]:
        """The best trials so far, best first."""
        metric = metrics_of(self.sweep)[0]
        done = [row for row in rows if row.state == "done"]
        return [
            [
                f"{row.number}{' (best)' if row is best else ''}",
                getattr(row, "full_cpu_seconds" if metric == "cpu_seconds" else metric),
                row.score_error if metric == "score" else None,
                *(_setting(row.settings, name) for name in self.sweep.settings.space),
                row.full_cpu_seconds,
            ]
            for row in sorted(done, key=partial(rank, sweep=self.sweep))[:_SHOWN]
        ]

    def _running_rows(self) -> list[list[Cell]]:
        """Trials that have begun and not ended."""
        running = [e for e in self.log.entries.values() if e.row is None]
        return [
            [
                f"{entry.number} …",
                None,
                None,
                *(_setting(flat(entry.point), name) for name in self.sweep.settings.space),
                None,
            ]
            for entry in sorted(running, key=lambda entry: entry.number)
            if point_id(entry.point) in self._started
        ]


def _setting(settings: Mapping[str, Any], name: str) -> Cell:
    """A setting's value, or the parts of one that has parts."""
    if name in settings:
        return settings[name]
    parts = [
        f"{key.removeprefix(name + '.')} {value}"
        for key, value in settings.items()
        if key.startswith(name + ".")
    ]
    return ", ".join(parts) or None


_REPORTED = (
    "score", "score_error", "offline", "offline_low", "offline_high", "cpu_seconds", "epochs",
    "last",
)  # fmt: skip


def metrics_of(sweep: Sweep) -> list[str]:
    """Of the objectives, the one that names the winner first."""
    return [objective.metric for objective in sweep.settings.objective]


def finished_rows(log: TrialLog, plan: SweepPlan) -> list[TrialRow]:
    """Rows of this sweep's trials that ended, in order; those of an earlier space left out."""
    known = plan.points
    # A point's number follows from the space, which may have grown since the row was kept.
    wanted = {point_id(point): number for number, point in enumerate(known or ())}
    rows = [
        replace(entry.row, number=wanted.get(name, entry.row.number))
        for name, entry in log.entries.items()
        if entry.row is not None
        and (known is None or name in wanted)
        and entry.identity == plan.identity(entry.point)
    ]
    return sorted(rows, key=lambda row: row.number)


def winner(rows: Sequence[TrialRow], sweep: Sweep) -> TrialRow | None:
    """The best trial by the first objective; ties go to the cheaper, then to the earlier."""
    done = (row for row in rows if row.state == "done")
    return min(done, key=partial(rank, sweep=sweep), default=None)


def rank(row: TrialRow, sweep: Sweep) -> tuple[float, float, int]:
    """Sorts trials that are done: the best first."""
    objective = sweep.settings.objective[0]
    sign = -1.0 if objective.direction == "max" else 1.0
    cost = row.full_cpu_seconds
    value = cost if objective.metric == "cpu_seconds" else getattr(row, objective.metric)
    return sign * value, cost, row.number
