"""`tskd reproduce`: the paper's tables and figures on one's own data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tskd_ray.cli.common import make_console

if TYPE_CHECKING:
    from tskd_ray.console import Console
    from tskd_ray.pipeline.reproduce.reproduce import Reproduced


@click.command(
    short_help="The paper's tables and figures, with baselines and ablations.",
    epilog="Example: tskd reproduce table1 figure4 --data datasets/ --seeds 3 --budget 120",
)
@click.argument("arguments", nargs=-1, metavar="EXPERIMENT... [KEY=VALUE]...")
@click.option(
    "--data",
    multiple=True,
    metavar="NAME=SOURCE|FOLDER",
    help="Recorded data of a task, such as hopper-medium=FILE.hdf5, or a folder that holds "
    "hopper-medium.hdf5 and others; of medium and expert, medium-expert is mixed. "
    "[default: the built-in half of hopper-medium-replay]",
)
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="Only these tasks.")
@click.option(
    "--row", "rows", multiple=True, metavar="ID", help="Only these rows, as bc-best-10 or tskd."
)
@click.option("--preset", default="small", show_default=True, help="Preset or YAML file.")
@click.option(
    "--seeds", default=1, show_default=True, help="Runs, each with a teacher of its own."
)
@click.option(
    "--budget", type=float, metavar="MINUTES", help="Begin nothing new after so many minutes."
)
@click.option("--quiet", is_flag=True, help="Warnings and the result only.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def reproduce(
    arguments: tuple[str, ...],
    data: tuple[str, ...],
    tasks: tuple[str, ...],
    rows: tuple[str, ...],
    preset: str,
    seeds: int,
    budget: float | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure one of the paper's tables or figures here, the paper's numbers beside.

    EXPERIMENT is table1 (all ways to a policy, on every task), table2 (planning time), table3
    (parameters), figure3 and figure6 (what generation and stitching contribute), figure4
    (number of generated trajectories), figure5 (reward errors), ablations (one setting changed
    at a time), students (AWR, cloning the best steps alone, TD3+BC, IQL, CQL and DT on recorded
    and on augmented data, docs/students.md), fidelity (augmented data against the simulator),
    or all. KEY=VALUE is any setting of a run, as distill.seeds=3 or storage=FOLDER.

    Rows share what they have in common, with each other and with other commands; first seeds
    come first. After a kill or at the end of the budget, the same command goes on. Results lie
    in <storage>/reproduce/EXPERIMENT: results.md, results.json, figure.svg, figure.png. These
    tell of the rows, tasks and seeds that the last command named: to join several, name all.
    """
    from tskd_ray.config.load import is_override
    from tskd_ray.errors import ConfigError

    console = make_console(quiet=quiet, as_json=as_json)
    names = tuple(one for one in arguments if not is_override(one))
    if not names:
        raise ConfigError(
            "tskd reproduce needs an EXPERIMENT, such as table1. Got none. See tskd reproduce "
            "--help."
        )
    from tskd_ray.pipeline.reproduce.reproduce import Request
    from tskd_ray.pipeline.reproduce.reproduce import reproduce as do

    request = Request(
        experiments=names,
        data=data,
        tasks=tasks,
        rows=rows,
        preset=preset,
        overrides=tuple(one for one in arguments if is_override(one)),
        seeds=seeds,
        budget=budget,
    )
    for one in do(request, console=console):
        _show(console, one)


def _show(console: Console, one: Reproduced) -> None:
    from tskd_ray.report.reproduce.tables import score_rows

    results = one.results
    if results.kind == "scores":
        columns, rows = score_rows(results)
        console.table(results.title, columns, rows)
    told: dict[str, object] = {"results": str(one.folder / "results.md")}
    failures = sum(bool(cell.failure) for cell in results.cells)
    if failures:
        told["cells without a result"] = failures
    if results.left:
        told["cells left"] = f"{results.left}; the same command goes on"
    console.data(results.title, told)
