"""What is measured of a run only where somebody asks for it: the extras of its graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tskd_ray.data.arrays import load_arrays
from tskd_ray.data.trajectories import Origin
from tskd_ray.pipeline.stages import Work, first_student

if TYPE_CHECKING:
    from tskd_ray.diffusion.ddr import TrajectoryDiffuser


def score_planner(work: Work) -> None:
    """Returns of the teacher acting in the environment itself, as `scores` of a student."""
    from tskd_ray.diffusion.teacher import Teacher
    from tskd_ray.evaluation.planner import evaluate_planner
    from tskd_ray.models.arithmetic import Arithmetic

    config = work.config
    recorded = load_arrays(work.inputs["data"])
    teacher = Teacher.load(
        dict(work.inputs), recorded, config.compute.device, Arithmetic.of(config.compute)
    )
    returns = evaluate_planner(
        teacher,
        config.generate,
        seeds=config.distill.seeds,
        episodes=config.evaluate.episodes,
        seed=config.seed,
        first=config.evaluate.first_episode,
        slots=config.compute.slots,
        progress=work.progress,
    )
    np.save(work.out / "returns.npy", returns[None])  # (1, seeds, episodes): no checkpoints
    parameters = _parameters(teacher.diffuser)
    work.write_json(
        "about", {"replan_every": config.generate.replan_every, "parameters": parameters}
    )


def check_origins(work: Work) -> None:
    """How true the steps of each origin are, in what the student learned from and before.

    Of `recorded`, `generated` and `stitched` steps of D_K: the step repeated in the simulator,
    the distance to the recorded states; and what share of its claimed return an episode of
    D_BC earns when its actions are replayed.
    """
    from tskd_ray.evaluation.fidelity import one_step_fidelity, replay_returns
    from tskd_ray.evaluation.quality import coverage, distances

    recorded, selected = (load_arrays(work.inputs[name]) for name in ("data", "select"))
    (last,) = (path for name, path in work.inputs.items() if name.startswith("stitch-"))
    trajectories = load_arrays(last)
    environment = recorded.environment
    assert environment is not None, "checked when the run was planned"
    seed, unit = work.config.seed, recorded.step_std()
    found: dict[str, object] = {}
    for origin in Origin:
        steps = np.flatnonzero(trajectories.origin == origin)
        if not len(steps):
            continue
        fidelity = one_step_fidelity(
            trajectories, environment, seed, among=steps, step_std=unit
        )
        states = trajectories.observations[trajectories.step_state[steps] + 1]
        away = distances(states, recorded, seed)
        found[origin.name.lower()] = {
            "steps": len(steps),
            **fidelity.summary(),
            "distance_median": float(np.median(away)),
            "distance_p95": float(np.quantile(away, 0.95)),
            "coverage": coverage(states, recorded, seed),
        }
    rows = np.arange(min(selected.n_episodes, REPLAYED))
    earned = replay_returns(selected, environment, rows)
    for origin in Origin:
        mine = selected.episode_origin[rows] == origin
        if mine.any():
            entry = found.setdefault(origin.name.lower(), {})
            assert isinstance(entry, dict)
            claimed = selected.returns[rows][mine]
            entry["episodes_replayed"] = int(mine.sum())
            entry["claimed_return"] = float(claimed.mean())
            entry["replayed_return"] = float(earned[mine].mean())
    work.write_json("origins", found)


def time_planning(work: Work) -> None:
    """Seconds that teacher and student take to decide on recorded states (Table 2)."""
    from tskd_ray.diffusion.teacher import Teacher
    from tskd_ray.evaluation.latency import deciding_seconds, planner
    from tskd_ray.evaluation.simulate import deciding
    from tskd_ray.models.students import load_student
    from tskd_ray.models.threads import torch_threads

    config = work.config
    recorded = load_arrays(work.inputs["data"])
    teacher = Teacher.load(dict(work.inputs), recorded)
    student = load_student(first_student(work.inputs["students-tskd"]))
    act = deciding(student, 1)
    nothing, first = np.zeros(1), np.zeros(1, dtype=np.int64)
    published = config.generate.model_copy(
        update={
            "sampler": config.generate.sampler.model_copy(
                update={"name": "ddpm", "steps": teacher.diffuser.settings.diffusion_steps}
            )
        }
    )
    deciders = {
        "student": lambda state: act(state, nothing, first),
        "teacher": planner(teacher, config.generate),
        "teacher, all denoising steps": planner(teacher, published),
    }
    size = _parameters(teacher.diffuser)
    with torch_threads(1):
        rows = {
            name: {
                "seconds_per_step": deciding_seconds(decide, recorded.observations),
                "parameters": student.n_parameters if name == "student" else size,
            }
            for name, decide in deciders.items()
        }
    work.write_json("planning", rows)


def time_published(work: Work) -> None:
    """As `time_planning`, of the paper's own network and sampler, untrained."""
    from tskd_ray.config.load import load_config
    from tskd_ray.diffusion.ddr import TrajectoryDiffuser
    from tskd_ray.evaluation.latency import deciding_seconds, plans
    from tskd_ray.models.threads import torch_threads

    recorded = load_arrays(work.inputs["data"])
    paper = load_config("paper")
    diffuser = TrajectoryDiffuser(paper.teacher, recorded.observation_dim)
    diffuser.fit_codec(recorded, work.config.seed)
    diffuser.model.eval()
    with torch_threads(1):
        seconds = deciding_seconds(plans(diffuser, paper.generate), recorded.observations)
    name = f"the paper's network and sampler ({paper.generate.sampler.steps} steps)"
    work.write_json(
        "planning", {name: {"seconds_per_step": seconds, "parameters": _parameters(diffuser)}}
    )


def _parameters(diffuser: TrajectoryDiffuser) -> int:
    return sum(one.numel() for one in diffuser.model.parameters())


REPLAYED = 200
"""Episodes of D_BC, at most."""


MEASURES: dict[str, Callable[[Work], None]] = {
    "planner": score_planner,
    "origins": check_origins,
    "planning": time_planning,
    "planning-paper": time_published,
}
"""Stages that are one task each, by stage name."""
