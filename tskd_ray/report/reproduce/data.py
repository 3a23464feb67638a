"""What an experiment measured: results.json, and the statistics that tables show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Kind = Literal["scores", "planning", "parameters", "reward-errors", "origins"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row on one task with one run seed."""

    task: str
    row: str  # its id
    seed: int  # of the run: another teacher, other resets
    command: str
    """What computes the same artifact, and the rest of its run."""
    key: str = ""  # of the artifact that told
    scores: tuple[float, ...] = ()  # of each final student, mean over its episodes
    normalized: bool = False
    figures: dict[str, Any] = field(default_factory=dict[str, Any])
    """Of other kinds than "scores": what the artifact says."""
    cpu_seconds: float = 0.0  # of it and all that it needs, were it alone
    failure: str = ""
    """Why there is nothing."""


@dataclass(frozen=True, kw_only=True)
class RowTitle:
    """A row as tables call it."""

    id: str
    title: str
    x: float | None = None


@dataclass(frozen=True, kw_only=True)
class Results:
    """results.json of an experiment."""

    experiment: str
    title: str
    kind: Kind
    preset: str
    overrides: tuple[str, ...]
    rollout: str
    tasks: tuple[str, ...]
    sources: dict[str, str]  # of each task's data
    rows: tuple[RowTitle, ...]
    seeds: int  # asked for
    episodes: int  # of each student
    cells: tuple[Cell, ...]
    left: int  # cells that the budget did not reach
    versions: dict[str, str]

    def of(self, task: str, row: str) -> list[Cell]:
        """Finished cells, by seed."""
        found = [c for c in self.cells if (c.task, c.row) == (task, row) and not c.failure]
        return sorted(found, key=lambda cell: cell.seed)

    def score(self, task: str, row: str) -> Statistic | None:
        """Mean and standard error of final students, or None without any."""
        return statistic([cell.scores for cell in self.of(task, row)])


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """A mean with its standard error."""

    mean: float
    error: float | None  # None: a single value
    over: Literal["runs", "students"]
    runs: int
    students: int  # of each run

    def text(self) -> str:
        """`71.8 ± 2.1 (3 × 5)`: runs × students; the error as `over` says."""
        error = "" if self.error is None else f" ± {self.error:.1f}"
        return f"{self.mean:.1f}{error} ({self.runs} × {self.students})"


def statistic(scores: Sequence[Sequence[float]]) -> Statistic | None:
    """Over runs if there are several, since teachers differ more than students do.

    Args:
        scores: Of each run its students'.
    """
    if not scores:
        return None
    values = [float(np.mean(one)) for one in scores] if len(scores) > 1 else list(scores[0])
    error = None
    if len(values) > 1:
        error = float(np.std(values, ddof=1) / math.sqrt(len(values)))
    return Statistic(
        mean=float(np.mean(values)),
        error=error,
        over="runs" if len(scores) > 1 else "students",
        runs=len(scores),
        students=len(scores[0]),
    )


def difference(ours: Statistic, other: Statistic) -> tuple[float, float | None]:
    """Ours − other, and its standard error."""
    gap = ours.mean - other.mean
    if ours.error is None or other.error is None:
        return gap, None
    return gap, math.hypot(ours.error, other.error)
