"""report.html: one file that shows a run, with nothing fetched from anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from tskd_ray.console import duration
from tskd_ray.report import plots
from tskd_ray.report.data import ReportData, load_report_data
from tskd_ray.report.sampler import SamplerStudy, draw_study, read_study, study_text
from tskd_ray.report.tables import compare, is_normalized, number_text, score_text
from tskd_ray.report.templates import template

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
    page = render(load_report_data(run_folder), read_study(run_folder))
    path.write_text(page, encoding="utf-8")
    return path


def render(data: ReportData, study: SamplerStudy | None = None) -> str:
    """The page: self-contained HTML; sections without data are left out.

    Args:
        data: What the run left.
        study: What `tskd generate --tune-sampler` left, if it was asked.
    """
    filters = {"duration": duration, "score": score_text, "number": number_text}
    config: dict[str, Any] = dict(data.run.config)
    return template("report.html.j2", filters).render(
        run=data.run,
        metrics=data.metrics,
        rollout=ROLLOUTS[data.run.rollout],
        normalized=is_normalized(data.metrics.scores),
        headline=compare(data.metrics.scores),
        pictures=_pictures(data),
        study=None if study is None else (Markup(draw_study(study)), study_text(study)),
        panels=[
            (panel.title, Markup(plots.panel(panel, f"panel{number}")))
            for number, panel in enumerate(data.plots.panels)
        ],
        wall_seconds=sum(stage.wall_seconds for stage in data.run.stages),
        cpu_seconds=sum(stage.cpu_seconds for stage in data.run.stages),
        settings=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        colors=plots.GROUP_COLORS,
    )


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
    return {name: Markup(svg) for name, svg in drawn.items()}
