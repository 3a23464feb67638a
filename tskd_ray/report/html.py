"""report.html: one file that shows a run, with nothing fetched from anywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tskd_ray.console import duration
from tskd_ray.report import plots
from tskd_ray.report.data import ReportData, Score, ScoreRow, load_report_data

ROLLOUTS = {
    "model": "offline: the diffusion model predicts the next state",
    "dynamics": "offline: a learned dynamics ensemble moves the state",
    "environment": "online: actions are executed in the environment, rewards are not read",
    "none": "no trajectories were generated",
}


def write_report(run_folder: Path) -> Path:
    """Write `report.html` from run.json, metrics.json and plots.json in `run_folder`.

    Raises:
        StorageError: If the folder holds no run.
    """
    path = run_folder / "report.html"
    path.write_text(render(load_report_data(run_folder)), encoding="utf-8")
    return path


def render(data: ReportData) -> str:
    """The page: self-contained HTML; sections without data are left out."""
    environment = Environment(
        loader=PackageLoader("tskd_ray.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=duration, score=_score, number=_number)
    config: dict[str, Any] = dict(data.run.config)
    return environment.get_template("report.html.j2").render(
        run=data.run,
        metrics=data.metrics,
        rollout=ROLLOUTS[data.run.rollout],
        headline=compare(data.metrics.scores),
        pictures=_pictures(data),
        panels=[
            (panel.title, Markup(plots.panel(panel, f"panel{number}")))  # noqa: S704  our SVG
            for number, panel in enumerate(data.plots.panels)
        ],
        wall_seconds=sum(stage.wall_seconds for stage in data.run.stages),
        cpu_seconds=sum(stage.cpu_seconds for stage in data.run.stages),
        settings=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        colors=plots.GROUP_COLORS,
    )


def compare(rows: Sequence[ScoreRow]) -> list[str]:
    """The last row, which is the student, against each other policy, in words.

    Less than two standard errors of the difference apart is "no difference" (ALGORITHM §3).
    """
    if not rows or not rows[-1].seeds:
        return []
    student, sentences = rows[-1], list[str]()
    mean, error = _main(student.final)
    for row in rows[:-1]:
        other, other_error = _main(row.final)
        if not row.seeds or error is None or other_error is None:
            continue
        spread = math.hypot(error, other_error)
        gap = mean - other
        if spread == 0 or abs(gap) < 2 * spread:
            sentences.append(
                f"No difference from {row.name}: {mean:.1f} against {other:.1f}, "
                "less than two standard errors apart."
            )
        else:
            side = "above" if gap > 0 else "below"
            sentences.append(
                f"{abs(gap):.1f} {side} {row.name}: {mean:.1f} against {other:.1f}, "
                f"{abs(gap) / spread:.1f} standard errors."
            )
    return sentences


def _main(score: Score) -> tuple[float, float | None]:
    if score.normalized is not None:
        return score.normalized, score.normalized_error
    return score.mean_return, score.return_error


def _score(score: Score | None, *, normalized: bool) -> str:
    if score is None or (normalized and score.normalized is None):
        return "–"
    mean, error = score.mean_return, score.return_error
    if normalized and score.normalized is not None:
        mean, error = score.normalized, score.normalized_error
    digits = ".1f" if normalized else ",.0f"
    return f"{mean:{digits}}" + ("" if error is None else f" ± {error:{digits}}")


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _pictures(data: ReportData) -> dict[str, Markup]:
    """Each picture that there is data for."""
    drawn: dict[str, str] = {}
    if data.metrics.scores:
        drawn["scores"] = plots.scores(data.metrics.scores)
    if any(data.plots.returns.values()):
        drawn["returns"] = plots.returns(data.plots.returns)
    if data.plots.projection is not None and data.plots.projection.points:
        drawn["projection"] = plots.projection(data.plots.projection)
    if data.metrics.epochs:
        drawn["decisions"] = plots.decisions(data.metrics.epochs)
    if data.run.stages:
        drawn["costs"] = plots.costs(data.run.stages)
    return {name: Markup(svg) for name, svg in drawn.items()}  # noqa: S704  our own SVG
