"""Quality against cost of ways of sampling: a table, a sentence, a picture, one page.

n trajectories by each setting, from the same starts and under the same noise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from tskd_ray.config.schema import GenerateConfig
from tskd_ray.evaluation.quality import Quality
from tskd_ray.report.documents import read_document
from tskd_ray.report.plots import _INK, GROUP_COLORS, _svg
from tskd_ray.report.study import Cell, Table, write_page

WORSE = 1.1
"""Step error, over the best one, that still counts as good."""


@dataclass(frozen=True, kw_only=True)
class SamplerRow:
    """One setting, what its trajectories are worth and what a step of them cost."""

    sampler: str
    steps: int
    replan_every: int
    warm_steps: int | None
    quality: Quality
    seconds_per_step: float  # of CPU, or of a GPU by the clock

    @classmethod
    def of(
        cls, settings: GenerateConfig, quality: Quality, seconds_per_step: float
    ) -> SamplerRow:
        """From the settings that were tried."""
        return cls(
            sampler=settings.sampler.name,
            steps=settings.sampler.steps,
            replan_every=settings.replan_every,
            warm_steps=settings.warm_steps,
            quality=quality,
            seconds_per_step=seconds_per_step,
        )

    @property
    def label(self) -> str:
        """`ddim 5, replan 4, warm 2`."""
        return _label(self.sampler, self.steps, self.replan_every, self.warm_steps)


def setting_label(settings: GenerateConfig) -> str:
    """The label of the row that these settings will have."""
    sampler = settings.sampler
    return _label(sampler.name, sampler.steps, settings.replan_every, settings.warm_steps)


def _label(sampler: str, steps: int, replan_every: int, warm_steps: int | None) -> str:
    warm = "" if warm_steps is None else f", warm {warm_steps}"
    return f"{sampler} {steps}, replan {replan_every}{warm}"


@dataclass(frozen=True, kw_only=True)
class SamplerStudy:
    """sampler.json: the configured setting first, then its neighbours."""

    rows: tuple[SamplerRow, ...]
    rollout: str
    device: str

    def knee(self) -> SamplerRow:
        """The cheapest setting that is as good as any.

        As good: its returns fall short of the best mean by no more than that one's standard
        error (Breiman et al. 1984), and its step error is at most `WORSE` times that of the
        setting with that mean, or of the configured one if that is larger.
        """
        best = max(self.rows, key=lambda row: row.quality.mean_return).quality
        bound = WORSE * max(best.step_error, self.rows[0].quality.step_error)
        least = best.mean_return - best.return_error
        good = [
            row
            for row in self.rows
            if row.quality.step_error <= bound and row.quality.mean_return >= least
        ]
        return min(good, key=lambda row: row.seconds_per_step)


def study_table(study: SamplerStudy) -> Table:
    """By setting: cost, claimed return, errors, distance; cheapest first."""
    ours, knee = study.rows[0], study.knee()
    rows: list[list[Cell]] = []
    for row in sorted(study.rows, key=lambda row: row.seconds_per_step):
        q = row.quality
        marks = [name for name, this in (("configured", ours), ("knee", knee)) if row is this]
        rows.append(
            [
                ", ".join([row.label, *marks]),
                round(1000 * row.seconds_per_step, 3),
                round(row.seconds_per_step / ours.seconds_per_step, 2),
                round(q.mean_return, 1),
                round(q.return_error, 1),
                round(q.mean_length, 1),
                round(q.step_error, 4),
                None if q.reward_error is None else round(q.reward_error, 4),
                round(q.distance, 3),
            ]
        )
    n, judge = len(ours.quality.returns), ours.quality.judged_by
    title = f"By setting, {n} trajectories each: cost and worth; steps judged by the {judge}"
    return (
        title,
        [
            "setting", "ms per step", "of configured", "claimed return", "±", "length",
            "step error, sd", "reward error", "distance",
        ],
        rows,
    )  # fmt: skip


def study_text(study: SamplerStudy) -> str:
    """What to use, by which rule, and what it does not tell."""
    ours, knee = study.rows[0], study.knee()
    if knee is ours:
        text = "The configured setting is the knee: nothing tried is cheaper and as good. "
    else:
        ratio = ours.seconds_per_step / knee.seconds_per_step
        warm = "null" if knee.warm_steps is None else knee.warm_steps
        text = (
            f"Try generate.sampler.name={knee.sampler} generate.sampler.steps={knee.steps} "
            f"generate.replan_every={knee.replan_every} generate.warm_steps={warm}: "
            f"{ratio:.2g} times the speed of the configured setting. "
        )
    return text + (
        "It is the cheapest whose claimed returns fall short of the best by no more than their "
        f"standard error, and whose steps are at most {WORSE:g} times as wrong. "
        "Claimed returns are predictions: only a student's score tells the worth."
    )


def write_study(study: SamplerStudy, name: str, folder: Path) -> Path:
    """Write sampler.json and sampler.html, one self-contained file, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    document = asdict(study) | {"suggestion_text": study_text(study)}
    (folder / "sampler.json").write_text(json.dumps(document, indent=1) + "\n")
    return write_page(
        folder / "sampler.html",
        name=name,
        heading="What sampling costs, and what it is worth",
        about=f"rollout {study.rollout}, on {study.device}. {SETTINGS_TOLD}",
        advice=study_text(study),
        notes=[],
        picture=Markup(draw_study(study)),
        tables=[study_table(study)],
    )


SETTINGS_TOLD = (
    "Setting: sampler and its steps, replanning interval, steps left to a plan that begins "
    "from the one before (warm)."
)


def read_study(folder: Path) -> SamplerStudy | None:
    """What `write_study` left in a run's folder; None if it was never asked for.

    Raises:
        StorageError: If the file is damaged.
    """
    path = folder / "sampler" / "sampler.json"
    if not path.is_file():
        return None
    return read_document(path, SamplerStudy, writer="tskd generate --tune-sampler")


def draw_study(study: SamplerStudy) -> str:
    """Return, step error and distance over the cost of a step, as SVG in the page's colours."""

    def draw(figure: Figure) -> None:
        panels = figure.subplots(3, 1, sharex=True)
        _draw(panels[0], study, "Claimed return, with its standard error", _returns(study.rows))
        errors = [(row.quality.step_error, 0.0) for row in study.rows]
        _draw(panels[1], study, "One-step error, in sd of a true step", errors)
        distances = [(row.quality.distance, 0.0) for row in study.rows]
        _draw(panels[2], study, "Distance to the nearest recorded state", distances)
        panels[0].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        panels[2].set_xlabel(
            "milliseconds per environment step (ring: configured, cross: knee)"
        )

    return _svg("sampler", (8.0, 8.0), draw)


def _returns(rows: Sequence[SamplerRow]) -> list[tuple[float, float]]:
    return [(row.quality.mean_return, row.quality.return_error) for row in rows]


_FAMILIES = (("ddim", "#4477aa"), ("dpmpp_2m", "#009988"), ("ddpm", "#cc3d7e"))


def _draw(
    axes: Axes, study: SamplerStudy, title: str, values: Sequence[tuple[float, float]]
) -> None:
    knee = study.knee()
    colors = dict(_FAMILIES)
    for row, (value, error) in zip(study.rows, values, strict=True):
        cost = 1000 * row.seconds_per_step
        marker = "o" if row.warm_steps is None else "^"
        axes.errorbar(
            cost, value, error or None, color=colors[row.sampler], marker=marker, ms=5, lw=1
        )
        if row is study.rows[0]:
            axes.plot(cost, value, marker="o", ms=12, mfc="none", color=_INK)
        if row is knee:
            axes.plot(cost, value, marker="x", ms=11, color=GROUP_COLORS["selected"])
    for name, color in _FAMILIES:
        if any(row.sampler == name for row in study.rows):
            axes.plot([], [], color=color, marker="o", ls="none", label=name)
    if any(row.warm_steps is not None for row in study.rows):
        axes.plot([], [], color=_INK, marker="^", ls="none", label="warm start")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(title, loc="left")
