"""report.html: one file that shows a run, with nothing fetched from anywhere."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from tskd_ray.console import duration
from tskd_ray.report import plots
from tskd_ray.report.data import PlotData, ReportData, load_report_data
from tskd_ray.report.documents import write_whole
from tskd_ray.report.films import picture_uri, read_films
from tskd_ray.report.sampler import SamplerStudy, draw_study, read_study, study_text
from tskd_ray.report.tables import compare, is_normalized, number_text, score_text
from tskd_ray.report.templates import template
from tskd_ray.report.walks import draw_walk, viewer_data

ROLLOUTS = {
    "model": "offline: the diffusion model predicts the next state",
    "dynamics": "offline: a learned dynamics ensemble moves the state",
    "environment": "online: actions are executed in the environment, rewards are not read",
    "extension": "an extension's, by whatever means it has (generate.method)",
    "none": "no trajectories were generated",
}


def write_report(run_folder: Path) -> Path:
    """Write `report.html` from run.json, metrics.json and plots.json in `run_folder`.

    Raises:
        StorageError: If the folder holds no run.
    """
    path = run_folder / "report.html"
    page = render(load_report_data(run_folder), read_study(run_folder), load_films(run_folder))
    write_whole(path, page.encode())
    return path


@dataclass(frozen=True, kw_only=True)
class ShownFilm:
    """One policy's pictures as data URIs."""

    title: str
    steps: int
    earned: float
    motion: str
    strip: str


@dataclass(frozen=True, kw_only=True)
class ShownFilms:
    """Films, or why there are none."""

    shown: tuple[ShownFilm, ...] = ()
    trouble: str = ""


def load_films(run_folder: Path) -> ShownFilms | None:
    """The films in a run's folder, ready for the page; None if it was not asked for any.

    Raises:
        StorageError: If their record is damaged.
    """
    films = read_films(run_folder)
    if films is None:
        return None
    return ShownFilms(
        shown=tuple(
            ShownFilm(
                title=film.title,
                steps=film.steps,
                earned=film.earned,
                motion=picture_uri(run_folder, f"{film.name}.gif"),
                strip=picture_uri(run_folder, f"{film.name}.png"),
            )
            for film in films.films
        ),
        trouble=films.trouble,
    )


def render(
    data: ReportData,
    study: SamplerStudy | None = None,
    films: ShownFilms | None = None,
) -> str:
    """The page: self-contained HTML; sections without data are left out.

    Args:
        data: What the run left.
        study: What `tskd generate --tune-sampler` left, if it was asked.
        films: Of the students.
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
        films=films,
        viewer=_viewer(data.plots),
        panels=[
            (panel.title, Markup(plots.panel(panel, f"panel{number}")))
            for number, panel in enumerate(data.plots.panels)
        ],
        wall_seconds=sum(stage.wall_seconds for stage in data.run.stages),
        cpu_seconds=sum(stage.cpu_seconds for stage in data.run.stages),
        settings=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        colors=plots.GROUP_COLORS,
    )


def _viewer(data: PlotData) -> dict[str, Any] | None:
    """What steps through stitched trajectories; None if there are none."""
    if not data.walks:
        return None
    script = files("tskd_ray.report").joinpath("viewer.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    best = data.walks[0]
    return {
        "script": Markup(script),  # our own file; data come as JSON beside it
        "hash": Markup(f"sha256-{digest}"),  # the only script that the page may run
        "data": viewer_data(data.walks, data.projection),
        "still": Markup(draw_walk(best)),
        "best": best,
        "count": len(data.walks),
        "of": best.of,
        "origins": plots._ORIGINS,
    }


def _pictures(data: ReportData) -> dict[str, Markup]:
    """Each picture that there is data for."""
    drawn: dict[str, str] = {}
    if data.metrics.scores:
        drawn["scores"] = plots.scores(data.metrics.scores)
    if any(data.plots.returns.values()):
        drawn["returns"] = plots.returns(data.plots.returns)
    if data.plots.projection is not None and data.plots.projection.points:
        drawn["projection"] = plots.projection(data.plots.projection)
    if any(epoch.refused for epoch in data.metrics.epochs):
        drawn["decisions"] = plots.decisions(data.metrics.epochs)
    if data.run.stages:
        drawn["costs"] = plots.costs(data.run.stages)
    return {name: Markup(svg) for name, svg in drawn.items()}
