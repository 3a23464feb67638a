"""What code and documents cite is in the repository."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import tskd_ray
from commands import bash_lines, check_command
from tskd_ray.config.schema import Section

ROOT = Path(tskd_ray.__file__).parent.parent
ALGORITHM = (ROOT / "docs/algorithm.md").read_text()
LISTED = set(re.findall(r"^\| (D\d+b?) \|", ALGORITHM, re.MULTILINE))
TEXTS = sorted(
    path
    for folder, pattern in (
        ("tskd_ray", "*.py"), ("tests", "*.py"), ("scripts", "*.py"), ("docs", "*.md")
    )
    for path in (ROOT / folder).rglob(pattern)
)  # fmt: skip


def test_all_decisions_of_the_algorithm_are_listed() -> None:
    assert {f"D{number}" for number in range(1, 26)} | {"D6b"} == LISTED


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_cited_exists(path: Path) -> None:
    text = path.read_text()
    assert set(re.findall(r"\bD\d+b?\b(?!-)", text)) <= LISTED
    names = {record.name[:3] for record in (ROOT / "docs/decisions").glob("*.md")}
    assert set(re.findall(r"decisions?[/ ](\d{3})\b", text)) <= names
    for link in re.findall(r"\]\(([^)\s]+)\)", text) if path.suffix == ".md" else ():
        assert link.startswith(("https://", "#")) or (path.parent / link).exists(), link


PAGES = sorted((ROOT / "docs").rglob("*.md"))
COMMANDS = sorted(
    {
        line
        for page in PAGES
        for line in bash_lines(page.read_text())
        if line.startswith(("tskd ", "make ", "ray job submit ")) and "…" not in line
    }
)


@pytest.mark.parametrize("line", COMMANDS)
def test_each_command_exists(line: str) -> None:
    check_command(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_blocks_parse(page: Path) -> None:
    blocks = re.findall(r"^ *```(\w*)\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
    for language, code in blocks:
        if language == "python":
            ast.parse(code)
        if language in ("yaml", "yml"):
            yaml.safe_load(code)


def test_the_reference_tells_each_public_name() -> None:
    page = (ROOT / "docs/reference/python.md").read_text()
    homes = re.findall(r"^::: (tskd_ray\..*)\.(\w+)$", page, re.MULTILINE)
    assert sorted(name for _, name in homes) == sorted(tskd_ray.__all__)
    for home, name in homes:
        assert getattr(tskd_ray, name).__module__ == home


def test_the_reference_tells_each_package() -> None:
    page = (ROOT / "docs/reference/modules.md").read_text()
    packages = {
        path.parent.name
        for path in (ROOT / "tskd_ray").glob("*/__init__.py")
        if path.parent.name != "cli"  # its commands have a page of their own
    }
    assert set(re.findall(r"^::: tskd_ray\.(\w+)$", page, re.MULTILINE)) == packages


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="without mkdocs: make docs installs it")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("docs", "tskd_ray"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    command = "-m mkdocs build -q --strict -f docs/site/mkdocs.yml"
    done = subprocess.run(
        [sys.executable, *command.split()],
        check=False, capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    site = tmp_path / "build/site"
    texts = {path: path.read_text() for path in site.rglob("*.html")}
    for page in PAGES:
        assert site / page.relative_to(ROOT / "docs").with_suffix(".html") in texts
    for path, text in texts.items():
        # Nothing is fetched from elsewhere, and what is linked within is there.
        assert not re.search(r'<(?:script|img|link)[^>]* (?:src|href)="https?:', text), path
        folder = site if path.name == "404.html" else path.parent
        for link in re.findall(r'<(?:a|img)[^>]* (?:src|href)="([^":#?]+)["#?]', text):
            assert (folder / link.lstrip("/")).exists(), (path, link)
    assert "guidance" in texts[site / "reference/settings.html"]
    assert "tskd data export" in texts[site / "reference/commands.html"]


def test_the_page_of_settings_has_every_section() -> None:
    page = (ROOT / "docs/reference/settings.md").read_text()
    told = set(re.findall(r"^::: (\S+)$", page, re.MULTILINE))
    sections, left = list[type[Section]](), [Section]
    while left:
        below = left.pop().__subclasses__()
        sections += below
        left += below
    ours = [one for one in sections if one.__module__.startswith("tskd_ray.config.schema.")]
    assert len(ours) > 10
    for one in ours:
        assert {one.__module__, f"{one.__module__}.{one.__qualname__}"} & told, one
