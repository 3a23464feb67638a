"""The README's commands exist and its settings load."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

import tskd_ray
from tskd_ray.cli import cli
from tskd_ray.config.load import is_override, load_config

ROOT = Path(tskd_ray.__file__).parent.parent
README = (ROOT / "README.md").read_text()
LINES = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
NAMED = sorted(set(re.findall(r"`(tskd(?: [a-z]+)+)", README)))


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that `words` name, and its arguments."""
    command: click.Command = cli
    while isinstance(command, click.Group):
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    return command, words


def test_it_opens_with_the_two_commands() -> None:
    assert [line.split()[:2] for line in LINES[:2]] == [
        ["make", "quickstart"],
        ["make", "test"],
    ]


@pytest.mark.parametrize("line", LINES)
def test_each_command_exists(line: str) -> None:
    words = shlex.split(line)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[0] == "scripts/check":
        assert words[1] in (ROOT / "scripts/check").read_text()
    else:
        if words[:3] == ["ray", "job", "submit"]:
            words = words[words.index("--") + 1 :]
            assert words[:3] == ["python", "-m", "tskd_ray"]
            words = ["tskd", *words[3:]]
        assert words[0] == "tskd"
        command, arguments = resolve(words[1:])
        with command.make_context(words[-1], arguments) as context:
            settings = context.params.get("settings", ())
        overrides = [setting for setting in settings if is_override(setting)]
        if settings:
            config = load_config(settings[0], overrides)
            assert not config.data.source.endswith(".hdf5") or config.data.environment
            assert len(overrides) == len(settings) - 1


@pytest.mark.parametrize("name", NAMED)
def test_each_verb_that_is_named_exists(name: str) -> None:
    resolve(name.split()[1:])


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python_examples_use_public_names(code: str) -> None:
    used = {
        node.attr
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "tskd_ray"
    }
    assert used
    assert used <= set(tskd_ray.__all__)


def test_the_example_on_plain_arrays_runs_without_ray() -> None:
    (code,) = [code for code in PYTHON if "from_episodes" in code]
    checks = """
import sys
assert "ray" not in sys.modules
assert stitched.counts.hops_used > 0
assert (stitched.returns[stitched.replaced] > recorded.returns[stitched.replaced]).all()
assert returns.shape == (2, 5)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code + checks],
        check=False, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    scores = dict(line.split() for line in done.stdout.splitlines())
    assert float(scores["stitched"]) > float(scores["recorded"])


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert all(link.startswith("https://") or (ROOT / link).exists() for link in links), links
