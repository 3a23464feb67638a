"""An experiment as Markdown: what was measured, the paper's numbers beside, what differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tskd_ray.report.reproduce.data import Cell, Kind, Results, Statistic, difference
from tskd_ray.report.reproduce.paper import OURS, TABLE1, TABLE2, TABLE3, TSKD_ERROR
from tskd_ray.report.tables import number_text

BC_SIZED = ("bc", "bc-best-5", "bc-best-10", "bc-best-25", "bc-selected", "mbts", "stitching")
"""Rows whose policy is the student's size and that no diffusion teacher taught."""
_STEPS = (200, 400, 600, 800, 1000)


def markdown(results: Results) -> str:
    """The whole page."""
    parts = [f"# {results.title}", _about(results), *_BODIES[results.kind](results)]
    failures = [
        f"- {cell.task}, {_title(results, cell.row)}, seed {cell.seed}: {cell.failure}"
        for cell in results.cells
        if cell.failure
    ]
    if failures:
        parts += ["Without a result:", "\n".join(failures)]
    parts += ["Each number again, with all else of its run:", _commands(results)]
    return "\n\n".join(parts) + "\n"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def score_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the scores, for the page and for the terminal."""
    body = [
        [row.title, *(_score_text(results.score(task, row.id)) for task in results.tasks)]
        for row in results.rows
    ]
    return ["", *results.tasks], body


def _about(results: Results) -> str:
    lines = [
        f"Preset `{results.preset}`, or the one laid over it for a task"
        + (f", {' '.join(f'`{o}`' for o in results.overrides)}" if results.overrides else "")
        + f"; generation by `rollout: {results.rollout}`. Data: "
        + "; ".join(f"{task} from `{source}`" for task, source in results.sources.items())
        + ".",
    ]
    if results.left:
        done = len(results.cells)
        lines.append(
            f"**Incomplete**: {done} of {done + results.left} cells; the same command goes on."
        )
    return "\n\n".join(lines)


def _title(results: Results, row: str) -> str:
    return next((one.title for one in results.rows if one.id == row), row) or row


# -- scores ----------------------------------------------------------------------------


def _scores(results: Results) -> list[str]:
    normalized = any(cell.normalized for cell in results.cells)
    unit = "D4RL-normalised returns" if normalized else "Returns"
    parts = [
        f"{unit} of final policies over {results.episodes} resets each: mean ± standard error "
        "(runs × students of each run). The error is over runs where there are several, since "
        "teachers differ more than students; else over students.",
        table(*score_rows(results)),
    ]
    costs = _costs(results)
    if costs:
        parts.append(costs)
    parts += _comparison(results)
    shown = [task for task in results.tasks if task in TABLE1]
    if shown and any(row.id in OURS for row in results.rows):
        parts += _paper(results, shown)
    return parts


def _score_text(found: Statistic | None) -> str:
    return "–" if found is None else found.text()


def _costs(results: Results) -> str:
    seconds = [cell.cpu_seconds for cell in results.cells if cell.row == "tskd"]
    if not seconds:
        return ""
    return (
        f"A TSKD student costs {np.mean(seconds) / 60:.0f} CPU minutes from the recorded data "
        "on, were it computed alone."
    )


def _comparison(results: Results) -> list[str]:
    """TSKD against each other row, in standard errors."""
    others = [row for row in results.rows if row.id != "tskd"]
    if not any(row.id == "tskd" for row in results.rows) or not others:
        return []
    body: list[list[str]] = []
    for task in results.tasks:
        ours = results.score(task, "tskd")
        if ours is None:
            continue
        for row in others:
            other = results.score(task, row.id)
            if other is not None:
                body.append([task, row.title, *_gap(ours, other)])
    if not body:
        return []
    columns = ["task", "TSKD against", "difference", "in standard errors", ""]
    return ["## TSKD against each row", table(columns, body), *_verdicts(results)]


def _gap(ours: Statistic, other: Statistic) -> list[str]:
    gap, error = difference(ours, other)
    if not error:
        return [f"{gap:+.1f}", "–", "a single value each"]
    ratio = gap / error
    verdict = "no difference" if abs(ratio) < 2 else "above" if ratio > 0 else "below"
    return [f"{gap:+.1f} ± {error:.1f}", f"{ratio:+.1f}", verdict]


def _verdicts(results: Results) -> list[str]:
    """Against the best of the rows that need no teacher, chosen by these very scores."""
    lines: list[str] = []
    for task in results.tasks:
        ours = results.score(task, "tskd")
        rivals = {row.title: results.score(task, row.id) for row in results.rows
                  if row.id in BC_SIZED}  # fmt: skip
        known = {title: found for title, found in rivals.items() if found is not None}
        if ours is None or not known:
            continue
        best = max(known, key=lambda title: known[title].mean)
        gap, error = difference(ours, known[best])
        told = f"{gap:+.1f}" + ("" if error is None else f" ± {error:.1f}")
        line = f"- {task}: the best BC-sized baseline is {best}, {known[best].text()}: {told}."
        plain = results.score(task, "bc")
        if plain is not None and plain.mean > 0:
            line += f" Gain over plain BC: {100 * (ours.mean / plain.mean - 1):+.0f} %"
            theirs = TABLE1.get(task)
            if theirs is not None:
                paper = 100 * (theirs["TSKD"] / theirs["BC"] - 1)
                line += f" (the paper, on other data: {paper:+.0f} %)"
            line += "."
        lines.append(line)
    return ["\n".join(lines)] if lines else []


def _paper(results: Results, tasks: Sequence[str]) -> list[str]:
    methods = list(dict.fromkeys(m for task in tasks for m in TABLE1[task]))
    body = [
        [
            f"{method} (here: {_title(results, ours)})" if ours else method,
            *(_theirs(task, method) for task in tasks),
        ]
        for method in methods
        for ours in [_row_of(results, method)]
    ]
    return [
        "## The paper's Table 1, on D4RL's v2 files: different data",
        table(["", *tasks], body),
    ]


def _row_of(results: Results, method: str) -> str:
    rows = {row.id for row in results.rows}
    return next((row for row, name in OURS.items() if name == method and row in rows), "")


def _theirs(task: str, method: str) -> str:
    value = TABLE1[task].get(method)
    if value is None:
        return "–"
    error = f" ± {TSKD_ERROR[task]}" if method == "TSKD" else ""
    return f"{value}{error}"


# -- other kinds -----------------------------------------------------------------------


def _merged(results: Results, task: str) -> dict[str, dict[str, object]]:
    """Figures of a task's cells by name; of several seeds the first."""
    found: dict[str, dict[str, object]] = {}
    for row in results.rows:
        for cell in results.of(task, row.id)[:1]:
            found |= cell.figures
    return found


def _planning(results: Results) -> list[str]:
    parts = [
        "Seconds that deciding takes, for so many steps one after the other, on one core of "
        "this machine: mean ± standard deviation of five series. The environment's own time is "
        "not in it. The paper's network is untrained: time does not depend on weights."
    ]
    for task in results.tasks:
        found = _merged(results, task)
        if not found:
            continue
        student = np.mean(np.asarray(found["student"]["seconds_per_step"], dtype=float))
        body: list[list[str]] = []
        for name, one in found.items():
            series = np.asarray(one["seconds_per_step"], dtype=float)
            share = student / series.mean()
            body.append(
                [name, *(_times(series, steps) for steps in _STEPS), f"{100 * share:.3g} %"]
            )
        columns = [task, *(f"{steps} steps" for steps in _STEPS), "student's share"]
        parts.append(table(columns, body))
    theirs = [[name, f"{mean} ± {error}"] for name, (mean, error) in TABLE2.items()]
    parts.append("The paper's Table 2, seconds per 200 steps on an RTX 3080 (student: 0.88 %):")
    return [*parts, table(["", "200 steps"], theirs)]


def _times(series: np.ndarray, steps: int) -> str:
    spread = series.std(ddof=1) if len(series) > 1 else 0.0
    return f"{steps * series.mean():.3g} ± {steps * spread:.2g}"


def _parameters(results: Results) -> list[str]:
    parts: list[str] = []
    for task in results.tasks:
        body = [
            [name, f"{one['parameters']:,}"]
            for name, one in _merged(results, task).items()
            if "all denoising steps" not in name
        ]
        parts.append(table([task, "parameters"], body))
    theirs = [[name, f"{millions} M"] for name, millions in TABLE3.items()]
    return [*parts, "The paper's Table 3, Hopper:", table(["", "parameters"], theirs)]


def _origins(results: Results) -> list[str]:
    parts = [
        "Steps of D_K by origin, each repeated in the simulator from the same state with the "
        "same action. State errors are in sd of a true step; distances are to the nearest "
        "recorded state, each dimension by its sd; coverage is the share of recorded states "
        "that have one of these near. Replayed: what the selected episodes' actions really "
        "earn from the same first state, open loop."
    ]
    columns = (
        ("steps", "steps"),
        ("step_error_median", "state error, median"),
        ("step_error_p95", "95 %"),
        ("reward_error_rms", "reward error, rms"),
        ("reward_error_bias", "bias"),
        ("distance_median", "distance, median"),
        ("distance_p95", "95 %"),
        ("coverage", "coverage"),
        ("claimed_return", "claimed return"),
        ("replayed_return", "replayed"),
    )
    for task in results.tasks:
        body = [
            [name, *(number_text(_float(one.get(key))) for key, _ in columns)]
            for name, one in _merged(results, task).items()
        ]
        parts.append(table([task, *(title for _, title in columns)], body))
    return parts


def _reward_errors(results: Results) -> list[str]:
    parts = [
        "Mean squared error of predicted rewards, on recorded steps and on fresh true ones: "
        "the simulator's answers to states and actions of generated trajectories, which no "
        "model saw."
    ]
    for task in results.tasks:
        found = _merged(results, task)
        names = list(dict.fromkeys(key for one in found.values() for key in one))
        body = [
            [name, *(number_text(_float(one.get(key))) for key in names)]
            for name, one in found.items()
        ]
        parts.append(table([task, *names], body))
    return parts


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _commands(results: Results) -> str:
    rows = _last_seed(results.cells)
    return "```bash\n" + "\n".join(cell.command for cell in rows) + "\n```"


def _last_seed(cells: Sequence[Cell]) -> list[Cell]:
    """One cell of each row and task: other seeds differ in `seed` and `name` alone."""
    return list({(cell.task, cell.row): cell for cell in reversed(cells)}.values())[::-1]


_BODIES: dict[Kind, Callable[[Results], list[str]]] = {
    "scores": _scores,
    "planning": _planning,
    "parameters": _parameters,
    "origins": _origins,
    "reward-errors": _reward_errors,
}
