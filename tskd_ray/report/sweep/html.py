"""report.html of a sweep: one file, with nothing fetched from anywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from tskd_ray.console import duration
from tskd_ray.report.agreement import agreement
from tskd_ray.report.documents import write_whole
from tskd_ray.report.html import ROLLOUTS
from tskd_ray.report.sweep import plots
from tskd_ray.report.sweep.data import SweepRecord, TrialRow, read_sweep
from tskd_ray.report.sweep.measures import (
    Metric,
    importance,
    interaction,
    is_normalized,
    measured,
    metric_of,
    ranked,
    value_text,
    varied,
)
from tskd_ray.report.tables import number_text
from tskd_ray.report.templates import template


def write_sweep_report(folder: Path) -> Path:
    """Write `report.html` from sweep.json in `folder`.

    Raises:
        StorageError: If the folder holds no sweep.
    """
    path = folder / "report.html"
    write_whole(path, render(read_sweep(folder)).encode())
    return path


def render(record: SweepRecord) -> str:
    """The page: self-contained HTML; sections without data are left out."""
    filters: dict[str, Callable[..., str]] = {
        "duration": duration,
        "number": number_text,
        "value": value_text,
        "pm": _plus_minus,
        "interval": _interval,
    }
    metric = metric_of(record)
    score_label = "normalized score" if is_normalized(record) else "return"
    shares = importance(record, metric)
    single = record.single_run_cpu_seconds
    return template("sweep.html.j2", filters).render(
        sweep=record,
        metric=metric,
        score_label=score_label,
        rollout=ROLLOUTS.get(record.rollout, record.rollout),
        winner=next((t for t in record.trials if t.number == record.winner), None),
        trials=ranked(record, metric),
        states={
            state: sum(trial.state == state for trial in record.trials)
            for state in ("done", "stopped", "failed")
        },
        names=record.names,
        has_score=any(trial.score is not None for trial in record.trials),
        has_offline=any(trial.offline is not None for trial in record.trials),
        agreement=agreement(
            [trial.offline for trial in record.trials], [trial.score for trial in record.trials]
        ),
        single_runs=record.cpu_seconds / single if single else None,
        alone=sum(trial.full_cpu_seconds for trial in record.trials),
        seeds=_setting(record, "distill", "seeds"),
        episodes=_setting(record, "evaluate", "episodes"),
        importance=shares,
        heat_names=interaction(record, shares),
        pictures=_pictures(record, metric, score_label, shares),
        settings=_setting_pictures(record, metric),
        base=yaml.safe_dump(dict(record.base), sort_keys=False, allow_unicode=True),
        space=yaml.safe_dump(dict(record.space), sort_keys=False, allow_unicode=True),
    )


def _setting(record: SweepRecord, section: str, name: str) -> Any:
    return record.base.get(section, {}).get(name)


def _pictures(
    record: SweepRecord, metric: Metric, score_label: str, shares: Any
) -> dict[str, Markup]:
    """Each picture that there is data for."""
    drawn: dict[str, str] = {}
    pairs = measured(record, metric)
    several = varied(record, [trial for trial, _ in pairs])
    names = interaction(record, shares)
    if len(pairs) > 1 and several:
        drawn["parallel"] = plots.parallel(record, metric)
    if names and pairs:
        drawn["heat"] = plots.heat(record, metric, names)
    if shares:
        drawn["importance"] = plots.shares(shares)
    if record.trials:
        drawn["costs"] = plots.costs(record)
    if pairs:
        drawn["front"] = plots.front(record, metric)
    if any(trial.offline is not None and trial.score is not None for trial in record.trials):
        drawn["estimates"] = plots.estimates(record, score_label)
    return {name: Markup(svg) for name, svg in drawn.items()}


def _setting_pictures(record: SweepRecord, metric: Metric) -> list[tuple[str, Markup]]:
    done: list[TrialRow] = [trial for trial, _ in measured(record, metric)]
    return [
        (name, Markup(plots.setting(record, metric, name, number)))
        for number, name in enumerate(varied(record, done))
    ]


def _plus_minus(value: float | None, error: float | None) -> str:
    """`71.8 ± 2.1`."""
    if value is None:
        return "–"
    return f"{value:,.1f}" + ("" if error is None else f" ± {error:,.1f}")


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    """`203.4 (181.8 to 223.4)`."""
    if value is None:
        return "–"
    return f"{value:,.1f}" + (
        "" if low is None or high is None else f" ({low:,.1f} to {high:,.1f})"
    )
