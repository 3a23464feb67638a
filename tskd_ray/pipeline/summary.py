"""From a run's artifacts to its figures: `metrics.json` and the arrays behind the pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from tskd_ray.config.schema import Config
from tskd_ray.config.schema.student import METHODS
from tskd_ray.data.arrays import load_arrays
from tskd_ray.data.environments import normalized_score, reference_scores
from tskd_ray.data.trajectories import Origin, Trajectories
from tskd_ray.pipeline.vital_signs import Folders, named, read_json, vital_signs
from tskd_ray.report.agreement import Agreement, agreement
from tskd_ray.report.data import (
    Curve,
    EpochCounts,
    Metrics,
    OfflineRow,
    Panel,
    PlotData,
    Projection,
    Score,
    ScoreRow,
    Walk,
)
from tskd_ray.report.projection import Plane, fit_plane, project_states
from tskd_ray.report.walks import describe_walks
from tskd_ray.types import Float64Array

ROW_NAMES = {
    "recorded": "{method}, all recorded",
    "filtered": "{method}, selected recorded",
    "tskd": "TSKD student",
}
CURVE_NAMES = {
    "advantage": "V for advantages",
    "ddr1": "DDR-I",
    "ddr2": "DDR-II",
    "inverse-dynamics": "inverse dynamics",
    "transition": "transition ensemble",
    "termination": "termination",
    "dynamics": "forward dynamics",
    "action-vae": "VAE of actions",
    "reward-mlp": "MLP of rewards",
    "reward-wgan": "WGAN of rewards",
}
SERVING_MODELS = (
    "advantage",
    "inverse-dynamics",
    "transition",
    "termination",
    "action-vae",
    "reward-mlp",
)
STITCHING_MODELS = ("reward-wgan", "dynamics")


def row_name(name: str, method: str) -> str:
    """What tables call the students of that dataset, trained by `distill.method`."""
    return ROW_NAMES[name].format(method=METHODS.get(method, method))


def reference(config: Config, recorded: Trajectories) -> tuple[float, float] | None:
    """(random, expert) returns: the user's, else the table's, else unknown."""
    if config.data.reference_scores is not None:
        return config.data.reference_scores
    if recorded.environment is None:
        return None
    return reference_scores(recorded.environment.id, recorded.environment.kwargs)


def build_metrics(config: Config, folders: Folders, warnings: list[str]) -> Metrics:
    """Scores, counts and vital signs of whatever has finished so far."""
    recorded, method = load_arrays(folders["data"]), config.distill.method
    scale = reference(config, recorded)
    rows = [_dataset_row("Recorded data", recorded, scale)]
    for name in ROW_NAMES:
        if f"scores-{name}" in folders:
            rows.append(_score_row(name, method, folders, scale))
    offline = tuple(
        _offline_row(name, method, folders)
        for name in ROW_NAMES
        if f"offline-{name}" in folders
    )
    selection = read_json(folders, "select", "selection") or {}
    epochs = tuple(_epoch(folders, name) for name in named(folders, "stitch-"))
    signs = vital_signs(folders, epochs)
    warnings = [
        *warnings,
        *selection.get("warnings", []),
        *_dropped_origins(folders, selection),
        *(
            f"{sign.name} is {sign.value:.3g}, not {sign.threshold}"
            for sign in signs
            if sign.warns
        ),
    ]
    return Metrics(
        rollout=config.generate.mode,
        replan_every=config.generate.replan_every,
        scores=tuple(rows),
        offline=offline,
        offline_agreement=_agreement(rows, offline),
        epochs=epochs,
        vital_signs=tuple(signs),
        survivors={name: kept for name, (kept, _) in selection.get("survivors", {}).items()},
        warnings=tuple(warnings),
        extra=_extra(folders),
    )


def build_plots(folders: Folders, method: str = "bc") -> PlotData:
    """Return distributions, learning curves and the projection of states."""
    recorded = load_arrays(folders["data"])
    returns: dict[Any, tuple[float, ...]] = {"recorded": _floats(recorded.returns)}
    generated = [load_arrays(folders[name]) for name in named(folders, "generate-")]
    if generated:
        returns["generated"] = _floats(np.concatenate([part.returns for part in generated]))
    last = named(folders, "stitch-")[-1:]
    stitched = load_arrays(folders[last[0]]) if last else None
    if stitched is not None:
        new = stitched.episode_origin == Origin.STITCHED
        returns["stitched"] = _floats(stitched.returns[new])
    if "select" in folders:
        returns["selected"] = _floats(load_arrays(folders["select"]).returns)
    recorded_states = np.full(recorded.n_states, Origin.RECORDED, dtype=np.int8)
    plane = fit_plane(recorded.observations, recorded_states)
    walks: tuple[Walk, ...] = ()
    if stitched is not None and (value := last[0].replace("stitch", "value")) in folders:
        from tskd_ray.models.value import TwinValue

        predict = TwinValue.load(folders[value]).predict
        walks = describe_walks(stitched, recorded, generated, predict, plane)
    return PlotData(
        returns=returns,
        panels=tuple(_panels(folders, method)),
        projection=_projection(recorded, generated, stitched, plane),
        walks=walks,
    )


def _projection(
    recorded: Trajectories,
    generated: list[Trajectories],
    stitched: Trajectories | None,
    plane: Plane | None,
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
    return project_states(np.concatenate(parts), origin, hops, plane=plane)


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


def _score_row(
    name: str, method: str, folders: Folders, scale: tuple[float, float] | None
) -> ScoreRow:
    folder = folders[f"scores-{name}"]
    returns = np.load(folder / "returns.npy")  # (checkpoints, seeds, episodes)
    about = json.loads((folder / "about.json").read_text())
    per_seed = returns.mean(axis=2)
    best = int(per_seed.mean(axis=1).argmax())
    return ScoreRow(
        name=row_name(name, method),
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


def _offline_row(name: str, method: str, folders: Folders) -> OfflineRow:
    found = read_json(folders, f"offline-{name}", "offline") or {}
    names = {field.name for field in fields(OfflineRow)} - {"name", "per_seed"}
    return OfflineRow(
        name=row_name(name, method),
        per_seed=_floats(found["per_seed"]),
        **{key: value for key, value in found.items() if key in names},
    )


def _agreement(scores: list[ScoreRow], offline: tuple[OfflineRow, ...]) -> Agreement | None:
    """Over every student that has both."""
    final = {row.name: row.final.per_seed for row in scores if row.seeds}
    pairs = [
        pair
        for row in offline
        if row.name in final
        for pair in zip(row.per_seed, final[row.name], strict=True)
    ]
    return agreement([pair[0] for pair in pairs], [pair[1] for pair in pairs])


# -- counts and vital signs (D23) ------------------------------------------------------


def _epoch(folders: Folders, name: str) -> EpochCounts:
    document = read_json(folders, name, "counts") or {}
    counts = document["counts"]
    quantiles = ("0%", "25%", "50%", "75%", "100%")
    extension = document["radius"] is None  # which decides walks, not transitions
    return EpochCounts(
        epoch=int(name.split("-")[1]),
        transitions=counts["transitions"],
        decided=None if extension else counts["decided"],
        argmax_recall=document.get("argmax_recall"),
        radius=document["radius"],
        neighbours={} if extension else dict(zip(quantiles, counts["neighbours"], strict=True)),
        hops_accepted=counts["hops_accepted"],
        refused={}
        if extension
        else {
            "no neighbour": counts["refused_no_neighbour"],
            "no better value": counts["refused_no_better"],
            "dynamics": counts["refused_dynamics"],
        },
        hops_used=counts["hops_used"],
        trajectories=counts["episodes"],
        replaced=counts["replaced"],
        replaced_by_cycle_or_clock=counts["replaced_cyclic"] + counts["replaced_foreign_limit"],
        ends={
            kind: counts[f"ends_{kind}"]
            for kind in ("terminated", "truncated", "cycle", "cap")
            if kind != "cycle" or not extension  # whose walks may go round, and on
        },
    )


def _dropped_origins(folders: Folders, selection: Mapping[str, Any]) -> list[str]:
    """An origin that the best T left out before selection saw it (D20)."""
    if (
        not selection
        or "generated" in selection["survivors"]
        or not named(folders, "generate-")
    ):
        return []
    return ["No generated episode is left as such among the best T: stitched over, or outdone."]


def _extra(folders: Folders) -> dict[str, float]:
    extra: dict[str, float] = {}
    for name in (*SERVING_MODELS, *STITCHING_MODELS, "fidelity"):
        document = (
            read_json(folders, name, "fidelity" if name == "fidelity" else "metrics") or {}
        )
        for key, value in document.items():
            if isinstance(value, int | float):
                extra[f"{name}.{key}"] = float(value)
    return extra


# -- curves ----------------------------------------------------------------------------


def _panels(folders: Folders, method: str) -> list[Panel]:
    panels: list[Panel] = []
    for title, names in (
        ("Diffusion teachers", ("ddr1", "ddr2")),
        ("Serving models", SERVING_MODELS),
        ("Stitching models", (*STITCHING_MODELS, *named(folders, "value-"))),
    ):
        curves = [_curve(folders, name) for name in names if name in folders]
        curves = [curve for curve in curves if curve.y]  # nothing to learn, nothing to draw
        if curves:
            log_y = all(min(curve.y) > 0 for curve in curves)
            panels.append(Panel(title=title, log_y=log_y, curves=tuple(curves)))
    scores = [
        _checkpoints(folders, name, method) for name in ROW_NAMES if f"scores-{name}" in folders
    ]
    if scores:
        panels.append(
            Panel(title="Students in the environment", y_label="return", curves=tuple(scores))
        )
    return panels


def _curve(folders: Folders, name: str) -> Curve:
    points = read_json(folders, name, "curve") or []
    return Curve(
        name=CURVE_NAMES.get(name, name),
        x=tuple(float(step) for step, _ in points),
        y=tuple(float(loss) for _, loss in points),
    )


def _checkpoints(folders: Folders, name: str, method: str) -> Curve:
    folder = folders[f"scores-{name}"]
    per_seed = np.load(folder / "returns.npy").mean(axis=2)
    steps = json.loads((folder / "about.json").read_text())["steps"]
    return Curve(
        name=row_name(name, method),
        x=_floats(np.asarray(steps)),
        y=_floats(per_seed.mean(axis=1)),
        error=tuple(_standard_error(row) or 0.0 for row in per_seed),
    )


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
