"""`tskd sweep`: many settings for little more than the price of one run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tskd_ray.cli.common import make_console

if TYPE_CHECKING:
    from tskd_ray.console import Console
    from tskd_ray.pipeline.sweep.plan import SweepPlan
    from tskd_ray.pipeline.sweep.sweep import SweepResult

_SHOWN = 10


@click.command(
    short_help="Try many settings, run the best one anew.",
    epilog="Example: tskd sweep tune_configs/quickstart.yaml search.trials=8",
)
@click.argument("sweep_file", metavar="FILE", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--dry-run", is_flag=True, help="Only tell what would be computed.")
@click.option("--quiet", is_flag=True, help="Warnings and the result only.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def sweep(
    sweep_file: Path, overrides: tuple[str, ...], dry_run: bool, quiet: bool, as_json: bool
) -> None:
    """Try many settings, then run the best one with fresh seeds and episodes.

    FILE says what to vary and how; tune_configs/ has some. A KEY=VALUE wins over it: of the
    sweep (search.trials=8, concurrent=2) or of the run that it varies (distill.seeds=2). What
    trials have in common is computed once. After a kill the same command goes on; no trial that
    is finished is done again.
    """
    from tskd_ray.config.load_sweep import load_sweep

    loaded = load_sweep(sweep_file, overrides)
    console = make_console(quiet=quiet, as_json=as_json, run=loaded.base.name)
    from tskd_ray.pipeline.artifacts import ArtifactStore
    from tskd_ray.pipeline.sweep.plan import plan_sweep

    plan = plan_sweep(loaded, ArtifactStore(loaded.base.storage))
    _show_plan(console, plan)
    if dry_run:
        return
    from tskd_ray.pipeline.sweep.sweep import run_sweep

    _show_result(console, run_sweep(loaded, console=console, plan=plan))


def _show_plan(console: Console, plan: SweepPlan) -> None:
    settings = plan.sweep.settings
    rows = [(stage.stage, stage.distinct, stage.uses, stage.there) for stage in plan.stages]
    totals = [sum(column) for column in zip(*(row[1:] for row in rows), strict=True)]
    rows.append(("all", totals[0], totals[1], totals[2]))
    title = f"Sweep {settings.name}: {plan.trials} trials, {settings.search.method}"
    if not plan.exact:
        title += "; at most these artifacts, since points follow from results"
    console.table(title, ("stage", "artifacts", "uses", "there already"), rows)


def _show_result(console: Console, result: SweepResult) -> None:
    record = result.record
    metric, direction = record.objectives[0]
    sign = -1.0 if direction == "maximize" else 1.0
    done = [trial for trial in record.trials if trial.state == "done"]

    def value(trial: Any) -> float:
        return trial.full_cpu_seconds if metric == "cpu_seconds" else getattr(trial, metric)

    best = sorted(done, key=lambda trial: (sign * value(trial), trial.full_cpu_seconds))
    columns = ["trial", metric, *record.names, "CPU s alone", "CPU s here"]
    rows = [
        [
            f"{trial.number}{' (winner)' if trial.number == record.winner else ''}",
            value(trial),
            *(trial.settings.get(name) for name in record.names),
            trial.full_cpu_seconds,
            trial.marginal_cpu_seconds,
        ]
        for trial in best[:_SHOWN]
    ]
    console.table(f"Best of {len(record.trials)} trials", columns, rows)
    single = record.single_run_cpu_seconds
    told: dict[str, object] = {
        "sweep": str(result.folder),
        "cpu seconds": round(record.cpu_seconds, 1),
        "cost in single runs": round(record.cpu_seconds / single, 2) if single else None,
    }
    if record.final is not None:
        final = record.final
        told |= {
            "final run": final.run_folder,
            "final score, fresh seeds and episodes": _number(final.score, final.score_error),
            "its score in the sweep, optimistic": _number(final.sweep_score, None),
        }
    if result.report is not None:
        told["report"] = str(result.report)
    console.data("Done", told)


def _number(value: float | None, error: float | None) -> str | None:
    if value is None:
        return None
    return f"{value:.1f}" if error is None else f"{value:.1f} ± {error:.1f}"
