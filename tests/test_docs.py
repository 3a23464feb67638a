"""What code and documents cite is in the repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tskd_ray

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
    assert {f"D{number}" for number in range(1, 24)} | {"D6b"} == LISTED


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_cited_exists(path: Path) -> None:
    text = path.read_text()
    assert set(re.findall(r"\bD\d+b?\b(?!-)", text)) <= LISTED
    names = {record.name[:3] for record in (ROOT / "docs/decisions").glob("*.md")}
    assert set(re.findall(r"decisions?[/ ](\d{3})\b", text)) <= names
    for link in re.findall(r"\]\(([^)\s]+)\)", text) if path.suffix == ".md" else ():
        assert link.startswith(("https://", "#")) or (path.parent / link).exists(), link
