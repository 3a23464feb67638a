"""From a run's artifacts to its figures: `metrics.json` and the arrays behind the pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tskd_ray.config.schema import Config
from tskd_ray.data.arrays import load_arrays
from tskd_ray.data.environments import reference_scores
from tskd_ray.data.trajectories import Origin, Trajectories
from tskd_ray.evaluation.simulate import normalized_score
from tskd_ray.report.data import (
    Curve,
    EpochCounts,
    Metrics,
    Panel,
    PlotData,
    Projection,
    Score,
    ScoreRow,
    VitalSign,
)
from tskd_ray.report.projection import project_states
from tskd_ray.types import Float64Array

Folders = Mapping[str, Path]
"""Folder of each finished node of the run, by name."""

ROW_NAMES = {
    "recorded": "BC, all recorded",
    "filtered": "BC, selected recorded",
    "tskd": "TSKD student",
}
CURVE_NAMES = {
    "ddr1": "DDR-I",
    "ddr2": "DDR-II",
    "inverse-dynamics": "inverse dynamics",
    "transition": "transition ensemble",
    "termination": "termination",
    "dynamics": "forward dynamics",
}


def reference(config: Config, recorded: Trajectories) -> tuple[float, float] | None:
    """(random, expert) returns: the user's, else the table's, else unknown."""
    if config.data.reference_scores is not None:
        return config.data.reference_scores
    if recorded.environment is None:
        return None
    return reference_scores(recorded.environment.id)


def build_metrics(config: Config, folders: Folders, warnings: list[str]) -> Metrics:
    """Scores, counts and vital signs of whatever has finished so far."""
    recorded = load_arrays(folders["data"])
    scale = reference(config, recorded)
    rows = [_dataset_row("Recorded data", recorded, scale)]
    for name in ROW_NAMES:
        if f"scores-{name}" in folders:
            rows.append(_score_row(name, folders, scale))
    selection = _read(folders, "select", "selection") or {}
    warnings = [*warnings, *selection.get("warnings", [])]
    signs = [*_teacher_signs(folders), *_value_signs(folders)]
    return Metrics(
        scores=tuple(rows),
        epochs=tuple(_epoch(config, folders, name) for name in _named(folders, "stitch-")),
        vital_signs=tuple(signs),
        survivors={name: kept for name, (kept, _) in selection.get("survivors", {}).items()},
        warnings=tuple(warnings),
        extra=_extra(folders),
    )


def build_plots(folders: Folders) -> PlotData:
    """Return distributions, learning curves and the projection of states."""
    recorded = load_arrays(folders["data"])
    returns: dict[Any, tuple[float, ...]] = {"recorded": _floats(recorded.returns)}
    generated = [load_arrays(folders[name]) for name in _named(folders, "generate-")]
    if generated:
        returns["generated"] = _floats(np.concatenate([part.returns for part in generated]))
    last = _named(folders, "stitch-")[-1:]
    stitched = load_arrays(folders[last[0]]) if last else None
    if stitched is not None:
        new = stitched.episode_origin == Origin.STITCHED
        returns["stitched"] = _floats(stitched.returns[new])
    if "select" in folders:
        returns["selected"] = _floats(load_arrays(folders["select"]).returns)
    return PlotData(
        returns=returns,
        panels=tuple(_panels(folders)),
        projection=_projection(recorded, generated, stitched),
    )


def _projection(
    recorded: Trajectories, generated: list[Trajectories], stitched: Trajectories | None
) -> Projection:
    """Recorded and generated states, and the hops that the last epoch's episodes hold."""
    parts = [recorded.observations, *(part.observations for part in generated)]
    origin = np.full(sum(len(part) for part in parts), Origin.GENERATED, dtype=np.int8)
    origin[: len(parts[0])] = Origin.RECORDED
    hops = None
    if stitched is not None:
        rows = stitched.step_state[stitched.origin == Origin.STITCHED]
        first = len(origin)
        parts += [stitched.observations[rows], stitched.observations[rows + 1]]
        origin = np.concatenate(
            [origin, np.full(2 * len(rows), Origin.STITCHED, dtype=np.int8)]
        )
        numbers = np.arange(len(rows))
        hops = np.stack([first + numbers, first + len(rows) + numbers], axis=1)
    return project_states(np.concatenate(parts), origin, hops)


# -- scores ----------------------------------------------------------------------------


def _dataset_row(
    name: str, trajectories: Trajectories, scale: tuple[float, float] | None
) -> ScoreRow:
    mean = float(trajectories.returns.mean())
    return ScoreRow(
        name=name,
        final=Score(
            mean_return=mean,
            normalized=None
            if scale is None
            else float(normalized_score(np.array(mean), scale)),
        ),
        episodes=trajectories.n_episodes,
        detail="mean return of the dataset itself",
    )


def _score_row(name: str, folders: Folders, scale: tuple[float, float] | None) -> ScoreRow:
    folder = folders[f"scores-{name}"]
    returns = np.load(folder / "returns.npy")  # (checkpoints, seeds, episodes)
    about = json.loads((folder / "about.json").read_text())
    per_seed = returns.mean(axis=2)
    best = int(per_seed.mean(axis=1).argmax())
    return ScoreRow(
        name=ROW_NAMES[name],
        final=_score(per_seed[-1], scale),
        best=_score(per_seed[best], scale),
        seeds=per_seed.shape[1],
        episodes=about["episodes"],
        detail=f"{about['transitions']:,} transitions; best at step {about['steps'][best]:,}",
    )


def _score(per_seed: Float64Array, scale: tuple[float, float] | None) -> Score:
    values = per_seed if scale is None else normalized_score(per_seed, scale)
    return Score(
        mean_return=float(per_seed.mean()),
        return_error=_standard_error(per_seed),
        normalized=None if scale is None else float(values.mean()),
        normalized_error=None if scale is None else _standard_error(values),
        per_seed=_floats(values),
    )


def _standard_error(values: Float64Array) -> float | None:
    if len(values) < 2:
        return None
    return float(values.std(ddof=1) / np.sqrt(len(values)))


# -- counts and vital signs (D23) ------------------------------------------------------


def _epoch(config: Config, folders: Folders, name: str) -> EpochCounts:
    document = _read(folders, name, "counts") or {}
    counts = document["counts"]
    quantiles = ("0%", "25%", "50%", "75%", "100%")
    return EpochCounts(
        epoch=int(name.split("-")[1]),
        transitions=counts["transitions"],
        radius=document["radius"],
        neighbours=dict(zip(quantiles, counts["neighbours"], strict=True)),
        hops_accepted=counts["hops_accepted"],
        refused={
            "no neighbour": counts["refused_no_neighbour"],
            "no better value": counts["refused_no_better"],
            "dynamics": counts["refused_dynamics"],
        },
        hops_used=counts["hops_used"],
        trajectories=counts["episodes"],
        replaced=counts["replaced"],
        replaced_by_cycle_or_clock=counts["replaced_cyclic"] + counts["replaced_foreign_limit"],
        ends={
            kind: counts[f"ends_{kind}"] for kind in ("terminated", "truncated", "cycle", "cap")
        },
    )


def _teacher_signs(folders: Folders) -> list[VitalSign]:
    signs: list[VitalSign] = []
    for name in _named(folders, "generate-")[:1]:
        vitals = _read(folders, name, "vitals") or {}
        first, inside = vitals["first_step_error"], vitals["interior_step_error"]
        signs.append(
            VitalSign(
                name="Plan: first step out of the history",
                value=first,
                threshold="below 0.3 sd of a true step",
                warns=first > 0.3,
                meaning=f"inside the plan {inside:.2f}; when far above, train DDR-I longer",
            )
        )
        cut = vitals["cut_share"]
        signs.append(
            VitalSign(
                name="Generated episodes cut",
                value=cut,
                threshold="below 0.2",
                warns=cut > 0.2,
                meaning="left the data's box, or the ensemble disagreed; lower the guidance",
            )
        )
    fidelity = _read(folders, "fidelity", "fidelity")
    if fidelity and "unavailable" not in fidelity:
        bias, error = fidelity["reward_error_bias"], fidelity["step_error_median"]
        claimed, earned = fidelity["claimed_return"], fidelity["replayed_return"]
        signs += [
            VitalSign(
                name="Generated: one-step error against the simulator",
                value=error,
                threshold="below 0.3 sd of a true step",
                warns=error > 0.3,
                meaning="median over sampled steps",
            ),
            VitalSign(
                name="Generated: claimed − true reward, mean per step",
                value=bias,
                threshold="within 0.05 sd of a reward",
                warns=abs(bias) > 0.05 * fidelity["reward_sd"],
                meaning=f"rms {fidelity['reward_error_rms']:.3f}; "
                f"a reward's sd {fidelity['reward_sd']:.2f}",
            ),
            VitalSign(
                name="Generated: replayed over claimed return",
                value=earned / claimed if claimed else None,
                meaning=f"{earned:.0f} of {claimed:.0f}, actions played open loop: "
                "small errors grow, so below 1 is normal",
            ),
        ]
    return signs


def _value_signs(folders: Folders) -> list[VitalSign]:
    signs: list[VitalSign] = []
    for name in _named(folders, "value-"):
        metrics = _read(folders, name, "metrics") or {}
        value, truth = metrics["mean_value"], metrics["mean_monte_carlo"]
        ratio = value / truth if truth else float("nan")
        signs.append(
            VitalSign(
                name=f"{name}: mean V over Monte-Carlo return",
                value=ratio,
                threshold="0.67 to 1.5",
                warns=not 0.67 <= ratio <= 1.5,
                meaning=f"{value:.1f} against {truth:.1f}; when far below, fit V longer",
            )
        )
    return signs


def _extra(folders: Folders) -> dict[str, float]:
    extra: dict[str, float] = {}
    for name in ("inverse-dynamics", "transition", "termination", "dynamics", "fidelity"):
        document = _read(folders, name, "fidelity" if name == "fidelity" else "metrics") or {}
        for key, value in document.items():
            if isinstance(value, int | float):
                extra[f"{name}.{key}"] = float(value)
    return extra


# -- curves ----------------------------------------------------------------------------


def _panels(folders: Folders) -> list[Panel]:
    panels: list[Panel] = []
    for title, names in (
        ("Diffusion teachers", ("ddr1", "ddr2")),
        ("Serving models", ("inverse-dynamics", "transition", "termination")),
        ("Stitching models", ("dynamics", *_named(folders, "value-"))),
    ):
        curves = [_curve(folders, name) for name in names if name in folders]
        if curves:
            log_y = all(min(curve.y) > 0 for curve in curves)
            panels.append(Panel(title=title, log_y=log_y, curves=tuple(curves)))
    scores = [_checkpoints(folders, name) for name in ROW_NAMES if f"scores-{name}" in folders]
    if scores:
        panels.append(
            Panel(title="Students in the environment", y_label="return", curves=tuple(scores))
        )
    return panels


def _curve(folders: Folders, name: str) -> Curve:
    points = _read(folders, name, "curve") or []
    return Curve(
        name=CURVE_NAMES.get(name, name),
        x=tuple(float(step) for step, _ in points),
        y=tuple(float(loss) for _, loss in points),
    )


def _checkpoints(folders: Folders, name: str) -> Curve:
    folder = folders[f"scores-{name}"]
    per_seed = np.load(folder / "returns.npy").mean(axis=2)
    steps = json.loads((folder / "about.json").read_text())["steps"]
    return Curve(
        name=ROW_NAMES[name],
        x=_floats(np.asarray(steps)),
        y=_floats(per_seed.mean(axis=1)),
        error=tuple(_standard_error(row) or 0.0 for row in per_seed),
    )


# -- reading ---------------------------------------------------------------------------


def _named(folders: Folders, prefix: str) -> list[str]:
    return sorted(
        (name for name in folders if name.startswith(prefix)),
        key=lambda n: int(n.split("-")[1]),
    )


def _read(folders: Folders, node: str, name: str) -> Any:
    if node not in folders:
        return None
    path = folders[node] / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
