"""The README's commands exist and its settings load."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tskd_ray
from commands import bash_lines, check_command, resolve

ROOT = Path(tskd_ray.__file__).parent.parent
README = (ROOT / "README.md").read_text()
LINES = bash_lines(README)
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
NAMED = sorted(set(re.findall(r"`(tskd(?: [a-z]+)+)", README)))


def test_it_opens_with_the_two_commands() -> None:
    assert [line.split()[:2] for line in LINES[:2]] == [
        ["make", "quickstart"],
        ["make", "test"],
    ]


@pytest.mark.parametrize("line", LINES)
def test_each_command_exists(line: str) -> None:
    if line.startswith("scripts/check"):
        assert line.split()[1] in (ROOT / "scripts/check").read_text()
    else:
        check_command(line)


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
