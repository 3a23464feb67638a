"""Command lines that documents show, checked against the program."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click

import tskd_ray
from tskd_ray.cli import cli
from tskd_ray.config.load import is_override, load_config

ROOT = Path(tskd_ray.__file__).parent.parent


def bash_lines(text: str) -> list[str]:
    """Commands of the bash blocks of a Markdown text, without comments and continued lines."""
    return [
        line.partition(" #")[0].strip()
        for block in re.findall(r"^ *```bash\n(.*?)```", text, re.DOTALL | re.MULTILINE)
        for line in block.replace("\\\n", " ").splitlines()
        if line.strip() and not line.strip().startswith("#")
    ]


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that `words` name, and its arguments."""
    command: click.Command = cli
    while isinstance(command, click.Group):
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    return command, words


def check_command(line: str) -> None:
    """`make` has the target; `tskd` takes the arguments, and the settings load."""
    words = shlex.split(line.partition(" > ")[0])
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    if words[:3] == ["ray", "job", "submit"]:
        words = words[words.index("--") + 1 :]
        assert words[:3] == ["python", "-m", "tskd_ray"]
        words = ["tskd", *words[3:]]
    if words[:2] == ["pip", "install"]:
        files = [word for word in words if word.endswith(".lock")]
        assert files
        assert all((ROOT / file).is_file() for file in files)
        return
    assert words[0] == "tskd"
    command, arguments = resolve(words[1:])
    with command.make_context(words[-1], arguments) as context:
        settings = context.params.get("settings", ())
    overrides = [setting for setting in settings if is_override(setting)]
    if settings:
        config = load_config(settings[0], overrides)
        assert not config.data.source.endswith(".hdf5") or config.data.environment
        assert len(overrides) == len(settings) - 1
