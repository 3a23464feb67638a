"""`tskd run`, the verbs of single stages, and what they would read: `tskd config`."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tskd_ray.cli.common import PRESETS, Command, make_console
from tskd_ray.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from tskd_ray.config.schema import Config
    from tskd_ray.console import Console
    from tskd_ray.pipeline.run import RunResult

STAGES = {
    "train": "Train the teacher and what serves it.",
    "generate": "Generate trajectories with the teacher.",
    "stitch": "Generate and stitch, all epochs.",
    "distill": "Select the best trajectories and train the students on them.",
    "evaluate": "Score the students in the environment.",
}
"""Each stage's verb and help; what comes before is done first, and nothing twice."""

_EXAMPLE = "data.source=hopper.hdf5 data.environment=Hopper-v5"


_SETTINGS = click.argument("settings", nargs=-1, metavar="[CONFIG] [SECTION.KEY=VALUE]...")


def _settings(command: Command) -> Command:
    """The arguments that all verbs of a run share."""
    for decorate in (
        click.option("--json", "as_json", is_flag=True, help="One JSON object per line."),
        click.option("--quiet", is_flag=True, help="Warnings and the result only."),
        _SETTINGS,
    ):
        command = decorate(command)
    return command


@click.command(
    help=f"""All stages, from the dataset to the student's score and the report.

    CONFIG is a YAML file or a preset ({PRESETS}); without it, quickstart. A SECTION.KEY=VALUE
    wins over the file; `tskd config` prints them all. What an earlier call finished in the same
    storage=FOLDER (default tskd_storage) is not done again.

    RAY_ADDRESS, in the environment, names the Ray cluster to use; without it, one is started on
    this machine. TSKD_DEBUG=1 adds the traceback to an error.

    Exit codes: 0 done, 2 your input is wrong, 130 interrupted, 143 terminated (SIGTERM), 1
    anything else.
    """,
    short_help="All stages, from the dataset to the report.",
    epilog="Example: tskd run small data.source=mujoco/hopper/medium-v0 stitch.epochs=2",
)
@_settings
def run(settings: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """All stages; the help is above, since a docstring cannot list the presets."""
    _run(settings, quiet=quiet, as_json=as_json)


def _run(
    settings: tuple[str, ...], *, quiet: bool, as_json: bool, until: str | None = None
) -> None:
    config = _config(settings)
    console = make_console(quiet=quiet, as_json=as_json, run=config.name)
    from tskd_ray.pipeline.run import run as run_pipeline

    _show_result(console, run_pipeline(config, until=until, console=console))


def _show_result(console: Console, result: RunResult) -> None:
    if result.table:
        from tskd_ray.report.tables import compare, score_table

        console.table("Scores", *score_table(result.table))
        for sentence in compare(result.table):
            console.note(sentence)
    _show_paths(console, result.folder, result.report)


def _show_paths(console: Console, folder: Path, report: Path | None) -> None:
    paths = {"run": str(folder)} | ({} if report is None else {"report": str(report)})
    console.data("Done", paths)


def stage_command(name: str) -> click.Command:
    """The verb of one stage."""
    if name in _OF_THEIR_OWN:
        return _OF_THEIR_OWN[name]

    @click.command(name, help=STAGES[name], epilog=f"Example: tskd {name} small {_EXAMPLE}")
    @_settings
    def stage(settings: tuple[str, ...], quiet: bool, as_json: bool) -> None:
        _run(settings, quiet=quiet, as_json=as_json, until=name)

    return stage


@click.command(
    short_help=STAGES["stitch"], epilog=f"Example: tskd stitch small {_EXAMPLE} --explain"
)
@click.option(
    "--explain",
    is_flag=True,
    help="Stitch nothing: tell what radii mean on the first epoch's data, and suggest some.",
)
@_settings
def stitch(settings: tuple[str, ...], quiet: bool, as_json: bool, explain: bool) -> None:
    """Generate and stitch, all epochs.

    With --explain, only what the first epoch needs is done (nothing twice). Then, by radius:
    neighbours, accepted hops and refusals, ends of walks, replaced trajectories; as tables and
    as explain/explain.html in the run's folder.
    """
    if not explain:
        _run(settings, quiet=quiet, as_json=as_json, until="stitch")
        return
    config = _config(settings)
    console = make_console(quiet=quiet, as_json=as_json, run=config.name)
    from tskd_ray.pipeline.explain import explain_run
    from tskd_ray.report.explain import explain_tables, suggestion_text

    result = explain_run(config, console=console)
    for title, columns, rows in explain_tables(result.explanation):
        console.table(title, columns, rows)
    for note in result.explanation.notes:
        console.note(note)
    console.data(
        "Done",
        {"suggestion": suggestion_text(result.explanation), "page": str(result.page)},
    )


@click.command(
    short_help=STAGES["generate"],
    epilog=f"Example: tskd generate small {_EXAMPLE} --tune-sampler",
)
@click.option(
    "--tune-sampler",
    is_flag=True,
    help="Try many settings on a few trajectories each: tell cost and worth, suggest one.",
)
@_settings
def generate(settings: tuple[str, ...], quiet: bool, as_json: bool, tune_sampler: bool) -> None:
    """Generate trajectories with the teacher.

    With --tune-sampler, only the teacher is trained (nothing twice). Then, for the configured
    sampler and for those that differ from it in kind, steps, replanning interval or warm start:
    claimed return, one-step error, reward error, distance to the data, cost of a step; as a
    table and as sampler/sampler.html in the run's folder, and in the run's report.
    """
    if not tune_sampler:
        _run(settings, quiet=quiet, as_json=as_json, until="generate")
        return
    config = _config(settings)
    console = make_console(quiet=quiet, as_json=as_json, run=config.name)
    from tskd_ray.pipeline.tune_sampler import tune_sampler as tune
    from tskd_ray.report.sampler import study_table, study_text

    result = tune(config, console=console)
    console.table(*study_table(result.study))
    console.data("Done", {"suggestion": study_text(result.study), "page": str(result.page)})


_OF_THEIR_OWN: dict[str, click.Command] = {"generate": generate, "stitch": stitch}
"""Verbs with an option that others lack."""


@click.command(
    short_help="Write the report of a run, first doing what it lacks.",
    epilog="Example: tskd report tskd_storage/runs/quickstart",
)
@_settings
def report(settings: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """Write the report of a run.

    Of a run's folder: from what is in it. Of a CONFIG: all stages first, as `tskd run`.
    """
    folder = _run_folder(settings)
    if folder is None:
        _run(settings, quiet=quiet, as_json=as_json, until="report")
        return
    from tskd_ray.report.html import write_report

    console = make_console(quiet=quiet, as_json=as_json, run=folder.name)
    _show_paths(console, folder, write_report(folder))


@click.command(
    name="config",
    short_help="Print the complete settings that a run would use.",
    epilog="Example: tskd config small stitch.epochs=3",
)
@_SETTINGS
def config_command(settings: tuple[str, ...]) -> None:
    """Print the complete settings that a run would use, as YAML.

    Redirected into a file, they are a CONFIG to edit.
    """
    from tskd_ray.config.load import config_to_yaml

    click.echo(config_to_yaml(_config(settings)), nl=False)


def _run_folder(settings: tuple[str, ...]) -> Path | None:
    """The folder that the one argument names, unless it can only be a CONFIG."""
    from tskd_ray.config.load import preset_names

    folder = Path(settings[0]) if len(settings) == 1 else None
    if folder is None:
        return None
    if not folder.is_dir():
        _require_config(folder)
        return None
    is_run = (folder / "run.json").is_file() or settings[0] not in preset_names()
    return folder if is_run else None


def _require_config(path: Path) -> None:
    """Refuse the path of a run that is not there; what may be meant as a CONFIG passes."""
    from tskd_ray.config.load import is_file, is_override

    if is_override(str(path)) or is_file(path) or path.suffix in (".yaml", ".yml"):
        return
    if path.parent == Path():
        return  # a preset, misspelt or not: runs are named by the path of their folder
    runs = [entry.parent.name for entry in sorted(path.parent.glob("*/run.json"))]
    near = get_close_matches(path.name, runs, n=3, cutoff=0.0)
    hint = f"Runs there: {', '.join(near)}." if near else "Check the path."
    raise StorageError(
        "A report is of a run's folder, <storage>/runs/<name>, or of a CONFIG. "
        f"Got {str(path)!r}, which does not exist. {hint}"
    )


def _config(settings: tuple[str, ...]) -> Config:
    from tskd_ray.config.load import is_override, load_config

    sources = [text for text in settings if not is_override(text)]
    if len(sources) > 1:
        raise ConfigError(
            "At most one CONFIG may be given; other arguments read section.key=value. "
            f"Got {', '.join(sources)}."
        )
    overrides = [text for text in settings if is_override(text)]
    return load_config(sources[0] if sources else None, overrides)
