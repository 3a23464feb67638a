"""The command `tskd`: reads what the user wrote, calls the pipeline, says what came of it.

Everything heavy is imported inside the commands, so that `tskd --help` answers at once.
Exit codes: 0 done · 2 the user's input is wrong · 130 interrupted · 1 anything else.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import tskd_ray
from tskd_ray.errors import ConfigError, InputError, StageError, TskdError

if TYPE_CHECKING:
    from tskd_ray.config.schema import Config
    from tskd_ray.console import Console

Command = Callable[..., None]

STAGES = {
    "train": "Train the teacher and what serves it.",
    "generate": "Generate trajectories with the teacher.",
    "stitch": "Generate and stitch, all epochs.",
    "distill": "Select the best trajectories and train the students on them.",
    "evaluate": "Score the students in the environment.",
    "report": "Everything, as `tskd run` does; of a finished run, write its report again.",
}
"""Each stage's verb and help; it runs what comes before, and is done once."""


def main() -> None:
    """Entry point of `tskd`: turns errors into one line and an exit code."""
    sys.exit(exit_code(sys.argv[1:]))


def exit_code(arguments: list[str]) -> int:
    """Run one command; errors become a line on standard error."""
    try:
        cli.main(arguments, prog_name="tskd", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _complain("interrupted; run the same command to resume", 130)
    except InputError as error:
        return _complain(str(error), 2)
    except StageError as error:
        return _complain(f"{error} (Run the same command to resume.)", 1)
    except TskdError as error:
        return _complain(str(error), 1)
    except Exception as error:  # noqa: BLE001  the last line of defence, which reports it
        return _complain(
            f"unexpected {type(error).__name__}: {error} "
            "(TSKD_DEBUG=1 shows where; the same command resumes.)",
            1,
        )
    return 0


def _complain(message: str, code: int) -> int:
    if os.environ.get("TSKD_DEBUG", "0") not in ("", "0"):
        traceback.print_exc()
    click.echo(f"tskd: {' '.join(message.split())}", err=True)
    return code


# -- runs ------------------------------------------------------------------------------


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 96},
    epilog="Example: tskd run    (the built-in quick start: minutes, on two CPU cores)",
)
@click.version_option(tskd_ray.__version__, prog_name="tskd")
def cli() -> None:
    """From a recorded dataset to an augmented one and a small policy, on Ray.

    Settings come from a YAML file or a preset (quickstart, small, paper), then from
    section.key=value arguments. What is finished is never done again.
    """


def _settings(command: Command) -> Command:
    """The arguments that all verbs of a run share."""
    for decorate in (
        click.option("--json", "as_json", is_flag=True, help="One JSON object per line."),
        click.option("--quiet", is_flag=True, help="Warnings and the result only."),
        click.argument("settings", nargs=-1, metavar="[CONFIG] [SECTION.KEY=VALUE]..."),
    ):
        command = decorate(command)
    return command


@cli.command(
    epilog="Example: tskd run small data.source=mujoco/hopper/medium-v0 stitch.epochs=2",
)
@_settings
def run(settings: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """All stages: data, teacher, generation, stitching, selection, distillation, scores, report.

    CONFIG is a YAML file or a preset; without it, the built-in quick start.
    """
    _run(settings, quiet=quiet, as_json=as_json)


def _run(
    settings: tuple[str, ...], *, quiet: bool, as_json: bool, until: str | None = None
) -> None:
    from tskd_ray.pipeline.run import run as run_pipeline

    config = _config(settings)
    console = _console(quiet=quiet, as_json=as_json)
    result = run_pipeline(config, until=until, console=console)
    console.result(result.folder, result.report)


def _add_stage(name: str, text: str) -> None:
    @cli.command(name, help=text, epilog=f"Example: tskd {name} small stitch.epochs=1")
    @_settings
    def stage(settings: tuple[str, ...], quiet: bool, as_json: bool) -> None:
        finished = _finished_run(settings) if name == "report" else None
        if finished is None:
            _run(settings, quiet=quiet, as_json=as_json, until=name)
        else:
            from tskd_ray.report.html import write_report

            report = write_report(finished)
            _console(quiet=quiet, as_json=as_json).result(finished, report)

    del stage  # the group holds it


for _name, _text in STAGES.items():
    _add_stage(_name, _text)


def _finished_run(settings: tuple[str, ...]) -> Path | None:
    folder = Path(settings[0]) if len(settings) == 1 else None
    return folder if folder is not None and (folder / "run.json").is_file() else None


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


def _console(*, quiet: bool, as_json: bool) -> Console:
    from tskd_ray.console import Console

    if quiet and as_json:
        raise ConfigError("--quiet and --json exclude each other. Got both. Leave one out.")
    return Console(mode="json" if as_json else "quiet" if quiet else "auto")
