"""MODEL_CARD.md: what a policy was made from, how well it does, and its limits.

Figures come from run.json and metrics.json; those of the files, from the export's own checks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tskd_ray.config.schema.student import METHODS
from tskd_ray.export.description import LICENSE, Description, harmless
from tskd_ray.models.policy import Policy
from tskd_ray.report.data import ReportData, ScoreRow

CARD = "MODEL_CARD.md"

FileFacts = tuple[str, int, str, float | None, float | None]
"""Name, bytes, SHA-256, largest error, mean return."""

STUDENT = "TSKD student"

_ROLLOUTS = {
    "dynamics": "an ensemble learned from the same data; the environment was not touched",
    "model": "the diffusion model's own prediction; the environment was not touched",
    "environment": "the simulator, whose rewards were not read: **not purely offline**",
    "extension": "an extension's own code (generate.method), which this card cannot vouch for",
}


def model_card(
    policy: Policy, run: ReportData, files: Sequence[FileFacts], rows: int, episodes: int
) -> str:
    """The card's text.

    Args:
        policy: What was exported.
        run: What its run tells.
        files: What was written.
        rows: Recorded observations that the files were checked on.
        episodes: On which each was scored; 0: on none.
    """
    parts = [
        _head(policy, run),
        _data(run),
        _scores(policy, run),
        _limits(run),
        _files(files, rows, episodes),
        (
            "## License",
            f"The code in these files is {LICENSE}. The weights were learned from the dataset "
            "named above, whose terms apply to them.",
        ),
    ]
    return "\n\n".join(line for part in parts for line in part) + "\n"


def _head(policy: Policy, run: ReportData) -> Iterator[str]:
    about = Description.of(run.run, policy)
    widths = " → ".join(str(width) for width in policy.network.widths)
    yield f"# Model card: {harmless(run.run.name)}"
    yield (
        f"A policy for `{about.environment}`: a ReLU network of widths {widths} with "
        f"{policy.n_parameters:,} parameters, from observations in raw units to actions within "
        f"[{_list(policy.low)}] and [{_list(policy.high)}]. It is deterministic and learned "
        f"by {_method(run)} from selected trajectories, recorded and augmented (Trajectory "
        "Stitching Knowledge Distilling)."
    )
    yield _table(
        ("what", "value"),
        [*about.items().items(), ("tskd_ray", run.run.versions.get("tskd_ray", "unknown"))],
    )


def _method(run: ReportData) -> str:
    distill = run.run.config.get("distill")
    method = distill.get("method", "bc") if isinstance(distill, Mapping) else "bc"
    known = {**METHODS, "bc": "behaviour cloning"}
    return known.get(str(method), harmless(str(method)))


def _data(run: ReportData) -> Iterator[str]:
    config = run.run.config
    generate, stitch = _section(config, "generate"), _section(config, "stitch")
    select, distill = _section(config, "select"), _section(config, "distill")
    yield "## Training data"
    rows: list[tuple[str, object]] = []
    for row in run.metrics.scores:
        if row.seeds == 0:
            rows.append((row.name, f"{row.episodes} episodes, {_score(row)}"))
        if row.name == STUDENT:
            rows.append(("the student's", f"{row.episodes} episodes, {row.detail}"))
    kept = ", ".join(f"{count} {name}" for name, count in run.metrics.survivors.items())
    rollout = run.run.rollout
    rows += [
        ("selected, by origin", kept or "unknown"),
        ("rollout mode", f"{rollout}: next states from {_ROLLOUTS[rollout]}")
        if rollout in _ROLLOUTS
        else ("rollout mode", "none: nothing was generated"),
        ("generated trajectories, for each epoch", generate.get("trajectories")),
        ("stitching epochs", stitch.get("epochs")),
        (
            "selection",
            f"returns within {select.get('slack')} of the best ({select.get('scope')}), at "
            f"least {select.get('minimum_episodes')} episodes",
        ),
        ("student seeds of the run", distill.get("seeds")),
    ]
    yield _table(("what", "value"), rows)


def _scores(policy: Policy, run: ReportData) -> Iterator[str]:
    yield "## Score"
    rows = [row for row in run.metrics.scores if row.seeds]
    if not rows:
        yield "The run scored no student in the environment."
        return
    episodes = _section(run.run.config, "evaluate").get("episodes")
    yield (
        f"Final students over {episodes} evaluation episodes each: mean over student seeds ± "
        "standard error. Normalised: 0 is a random, 100 an expert policy."
    )
    yield _table(
        ("policy", "seeds", "normalised", "return", "by seed"),
        [(r.name, r.seeds, _normalized(r), _return(r), _each(r.final.per_seed)) for r in rows],
    )
    student = next((row for row in rows if row.name == STUDENT), None)
    if student is not None and student.final.per_seed:
        values = student.final.per_seed
        yield (
            f"This policy is the student of the first seed, not of the luckiest: "
            f"{values[0]:.1f}; the run's students range from {min(values):.1f} to "
            f"{max(values):.1f}. One teacher: students of another may differ by more."
        )


def _limits(run: ReportData) -> Iterator[str]:
    yield "## Limits"
    rollout = run.run.rollout
    limits = [
        "Scores are the simulator's. Nothing here was tried on a machine.",
        "It knows the states of its training data. Far from them its actions mean nothing, and "
        "nothing in it tells.",
        "Actions stay within the bounds; nothing else is guaranteed: no limit of rate, no safe "
        "state. A NaN in the observation gives NaN actions.",
        "Observations must have the environment's order and units.",
    ]
    if rollout == "environment":
        limits.append(
            "Its training data were moved by the simulator: it is not purely offline."
        )
    limits += [f"The run warned: {harmless(warning)}" for warning in run.metrics.warnings]
    yield "\n".join(f"- {limit}" for limit in limits)


def _files(files: Sequence[FileFacts], rows: int, episodes: int) -> Iterator[str]:
    yield "## Files"
    yield (
        f"Each was run on {rows:,} recorded observations beside the PyTorch policy; the "
        "largest difference is in half action ranges."
        + (f" Returns are means over {episodes} episodes of this file." if episodes else "")
    )
    yield _table(
        ("file", "bytes", "largest error", "return", "SHA-256"),
        [
            (
                f"`{name}`",
                f"{size:,}",
                "not checked: no C compiler" if error is None else f"{error:.2g}",
                "–" if score is None else f"{score:.0f}",
                f"`{digest}`",
            )
            for name, size, digest, error, score in files
        ],
    )


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def _score(row: ScoreRow) -> str:
    normalized = row.final.normalized
    told = "" if normalized is None else f" ({normalized:.1f} normalised)"
    return f"mean return {row.final.mean_return:.0f}{told}"


def _normalized(row: ScoreRow) -> str:
    return _with_error(row.final.normalized, row.final.normalized_error, 1)


def _return(row: ScoreRow) -> str:
    return _with_error(row.final.mean_return, row.final.return_error, 0)


def _with_error(value: float | None, error: float | None, digits: int) -> str:
    if value is None:
        return "–"
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def _list(values: Any) -> str:
    return ", ".join(f"{float(value):.4g}" for value in values)


def _each(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(cell: object) -> str:
    return str(cell).replace("|", "/").replace("\n", " ")
