"""What every verb needs: the console that the flags ask for, YAML arguments."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from tskd_ray.errors import ConfigError

if TYPE_CHECKING:
    from tskd_ray.console import Console

Command = Callable[..., None]

PRESETS = ", ".join(
    sorted(path.stem for path in (Path(__file__).parent.parent / "presets").glob("*.yaml"))
)
"""As `config.load.preset_names`, which would load what help need not wait for."""


class InOrder(click.Group):
    """Lists its commands as they were written: in the order of use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def make_console(
    *, quiet: bool = False, as_json: bool = False, run: str | None = None
) -> Console:
    """The console that the flags ask for; what our modules log goes there too.

    Make it before any work: an unheard warning goes to standard error, past `--json`.

    Args:
        quiet: Warnings and the result only.
        as_json: One JSON object per line.
        run: Name of the run or sweep that it tells of, for those.
    """
    from tskd_ray.console import Console

    if quiet and as_json:
        raise ConfigError("--quiet and --json exclude each other. Got both. Leave one out.")
    console = Console(mode="json" if as_json else "quiet" if quiet else "auto", run=run)
    handler, logger = _ToConsole(console), logging.getLogger("tskd_ray")
    logger.addHandler(handler)
    click.get_current_context().call_on_close(lambda: logger.removeHandler(handler))
    return console


_FIELDS = ("stage", "shard")
"""That a module may give its warning as `extra`."""


class _ToConsole(logging.Handler):
    """Warnings that modules log, in the console's own form."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        known = {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        self.console.warn(record.getMessage(), **known)


def yaml_mapping(text: str | None) -> dict[str, Any] | None:
    """The value of --environment-kwargs."""
    if text is None:
        return None
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if not isinstance(value, dict):
        raise ConfigError(
            "--environment-kwargs must be a YAML mapping. "
            f"Got {text!r}. Write for example '{{xml_file: walker2d.xml}}'."
        )
    return cast("dict[str, Any]", value)
