"""The command `tskd`: reads what the user wrote, calls the pipeline, says what came of it.

Everything heavy is imported inside the commands, so that `tskd --help` answers at once.
Exit codes: 0 done · 2 the user's input is wrong · 130 interrupted · 143 terminated · 1 anything
else.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from types import FrameType

import click

import tskd_ray
from tskd_ray.cli.common import PRESETS, InOrder
from tskd_ray.cli.datasets import data
from tskd_ray.cli.policies import export_policy
from tskd_ray.cli.reproductions import reproduce
from tskd_ray.cli.runs import STAGES, config_command, report, run, stage_command
from tskd_ray.cli.status import status
from tskd_ray.cli.storages import storage
from tskd_ray.cli.sweeps import sweep
from tskd_ray.errors import InputError, StageError, TskdError


def main() -> None:
    """Entry point of `tskd`: turns errors into one line and an exit code."""
    terminated = _Termination()
    signal.signal(signal.SIGTERM, terminated)
    code = exit_code(sys.argv[1:])
    sys.exit(_TERMINATED if code == _INTERRUPTED and terminated.came else code)


_INTERRUPTED, _TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


class _Termination:
    """What `ray job stop`, `docker stop` or an eviction asks for, obeyed as Ctrl-C is."""

    def __init__(self) -> None:
        self.came = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        signal.signal(number, signal.SIG_DFL)  # a second one ends the command at once
        raise KeyboardInterrupt


def exit_code(arguments: list[str]) -> int:
    """Run one command; errors become a line on standard error."""
    try:
        cli.main(arguments, prog_name="tskd", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _complain("interrupted; run the same command to resume", _INTERRUPTED)
    except Exception as error:  # noqa: BLE001  the last line of defence, which reports it
        return _complain(_message(error), 2 if isinstance(error, InputError) else 1)
    return 0


def _message(error: Exception) -> str:
    if isinstance(error, StageError):
        return f"{error} (Run the same command to resume.)"
    if isinstance(error, TskdError):
        return str(error)
    return (
        f"unexpected {type(error).__name__}: {error} "
        "(TSKD_DEBUG=1 shows where; the same command resumes.)"
    )


def _complain(message: str, code: int) -> int:
    if os.environ.get("TSKD_DEBUG", "0") not in ("", "0"):
        traceback.print_exc()
    click.echo(f"tskd: {message.strip()}", err=True)
    return code


@click.group(
    cls=InOrder,
    help=f"""From a recorded dataset to an augmented one and a small policy, on Ray.

    Settings come from a YAML file or a preset ({PRESETS}), then from section.key=value
    arguments; `tskd config` prints them all. What is finished is never done again.
    """,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 96},
    epilog="Example: tskd run    (the built-in quick start: minutes, on two CPU cores)",
)
@click.version_option(tskd_ray.__version__, prog_name="tskd")
def cli() -> None:
    """All commands; the help is above, since a docstring cannot list the presets."""


COMMANDS = (
    run,
    *map(stage_command, STAGES),
    report,
    sweep,
    reproduce,
    status,
    config_command,
    data,
    storage,
    export_policy,
)
for command in COMMANDS:
    cli.add_command(command)
