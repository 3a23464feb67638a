"""Scores as text, for the terminal and for the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tskd_ray.report.data import Score, ScoreRow


def score_table(rows: Sequence[ScoreRow]) -> tuple[list[str], list[list[str]]]:
    """Column titles and rows of the results table."""
    normalized = is_normalized(rows)
    unit = "normalized score" if normalized else "return"
    columns = ["policy", f"{unit}, final", "best checkpoint", "seeds", "episodes"]
    body = [
        [
            row.name,
            score_text(row.final, normalized=normalized),
            score_text(row.best, normalized=normalized),
            str(row.seeds or "–"),
            number_text(row.episodes),
        ]
        for row in rows
    ]
    return columns, body


def is_normalized(rows: Sequence[ScoreRow]) -> bool:
    """Whether reference scores were known."""
    return any(row.final.normalized is not None for row in rows)


def compare(rows: Sequence[ScoreRow]) -> list[str]:
    """The last row, which is the student, against each other policy, in words.

    Less than two standard errors of the difference apart is "no difference".
    """
    if not rows or not rows[-1].seeds:
        return []
    mean, error = _main(rows[-1].final)
    sentences: list[str] = []
    for row in rows[:-1]:
        other, other_error = _main(row.final)
        if not row.seeds or error is None or other_error is None:
            continue
        gap, spread = mean - other, math.hypot(error, other_error)
        both = f"{mean:,.1f} against {other:,.1f}"
        if abs(gap) <= 2 * spread:
            apart = "less than two standard errors apart"
            sentences.append(f"No difference from {row.name}: {both}, {apart}.")
        else:
            side = "above" if gap > 0 else "below"
            ratio = f", {abs(gap) / spread:.1f} standard errors" if spread else ""
            sentences.append(f"{abs(gap):,.1f} {side} {row.name}: {both}{ratio}.")
    return sentences


def score_text(score: Score | None, *, normalized: bool) -> str:
    """`71.8 ± 2.1`; returns without decimals."""
    if score is None or (normalized and score.normalized is None):
        return "–"
    mean, error = _main(score) if normalized else (score.mean_return, score.return_error)
    digits = ".1f" if normalized else ",.0f"
    return f"{mean:{digits}}" + ("" if error is None else f" ± {error:{digits}}")


def number_text(value: float | None) -> str:
    """Whole numbers in full, others to three digits; a dash for none."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _main(score: Score) -> tuple[float, float | None]:
    if score.normalized is not None:
        return score.normalized, score.normalized_error
    return score.mean_return, score.return_error
