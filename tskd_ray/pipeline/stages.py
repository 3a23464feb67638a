"""What each stage does, as functions of folders: the same in a Ray task and in this process.

A stage reads its inputs' folders, writes its parts into `out` and may keep training state in
`scratch`, which outlives a kill. Generation and the hop search are spread over workers and live
in `spread.py` and `hops.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tskd_ray.config.schema import Config
from tskd_ray.data.arrays import load_arrays, save_arrays
from tskd_ray.data.returns import steps_cost
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.pipeline.diffusers import train_diffuser
from tskd_ray.pipeline.extension_stages import (
    fit_generator,
    fit_reward,
    walks_by_extension,
)
from tskd_ray.pipeline.hop_models import action_model, reward_model, true_rewards
from tskd_ray.pipeline.reward_errors import measure_reward_errors
from tskd_ray.pipeline.small_models import (
    count_flops,
    fit_cross_value,
    fit_value,
    train_action_vae,
    train_dynamics,
    train_inverse_dynamics,
    train_reward_mlp,
    train_reward_wgan,
    train_termination,
    train_transition,
)
from tskd_ray.progress import Progress, silent

if TYPE_CHECKING:
    from tskd_ray.stitching.hops import HopDecisions

REPLAYED_EPISODES = 20


@dataclass(frozen=True, kw_only=True)
class Work:
    """One stage of one run, ready to be done."""

    name: str  # of the node: "students-tskd"
    config: Config
    inputs: Mapping[str, Path]  # folder of each input, by node name
    out: Path
    scratch: Path
    progress: Progress = silent
    info: dict[str, Any] = field(default_factory=dict[str, Any])  # figures for the manifest
    told: dict[str, float] = field(default_factory=dict[str, float])
    """What the stage tells of its work: `cpu_seconds` of other processes, `flops_per_item` of
    its progress."""

    def joined(self) -> Trajectories:
        """D' = D ∪ new: the trajectory inputs, recorded or stitched first (D15)."""
        names = [
            n
            for n in self.inputs
            if n.split("-")[0] in ("data", "stitch", "generate", "select")
        ]
        return Trajectories.concatenate([load_arrays(self.inputs[name]) for name in names])

    def only(self, prefix: str) -> Path:
        """Folder of the one input whose name begins so."""
        (folder,) = (path for name, path in self.inputs.items() if name.startswith(prefix))
        return folder

    def write_json(self, name: str, document: Any) -> None:
        """A JSON part."""
        text = json.dumps(document, indent=1, sort_keys=True)
        (self.out / f"{name}.json").write_text(text + "\n")


def stitch(work: Work) -> None:
    """One epoch of Algorithm 4 on D ∪ new, from its hop decisions to the next D."""
    from tskd_ray.models.value import TwinValue
    from tskd_ray.stitching.epoch import finish_epoch
    from tskd_ray.stitching.given import finish_given

    config, settings = work.config, work.config.stitch
    joined = work.joined()
    spec = joined.environment
    limit = spec.max_episode_steps if spec is not None else None
    generated = sum(
        load_arrays(path).n_episodes
        for name, path in work.inputs.items()
        if name.startswith("generate-")
    )
    whole = _whole_walks_only(work)
    action = action_model(settings.action_model, work.inputs)
    if settings.reward_model == "simulator":
        reward = true_rewards(spec, action)
    else:
        reward = reward_model(settings.reward_model, work.inputs, config, action)
    common: dict[str, Any] = {
        "action": action,
        "reward": reward,
        "acceptance": settings.acceptance,
        "improvement": settings.improvement,
        "max_length": int(limit or joined.lengths.max()),
        "whole": whole,
        "keep": joined.n_episodes - generated,
    }
    if settings.extended:
        value = TwinValue.load(work.only("value-")).predict
        walks = walks_by_extension(joined, config, value, int(work.name.split("-")[1]))
        result, about = finish_given(joined, walks, **common), {"radius": None}
    else:
        hops = work.only("hops-")
        about = json.loads((hops / "hops.json").read_text())
        result = finish_epoch(
            joined,
            load_decisions(hops),
            neighbours=about.pop("neighbours"),  # told among the counts
            on_cycle=settings.on_cycle,
            **common,
        )
    save_arrays(replace(result.trajectories, environment=spec), work.out)
    about |= {"whole": whole} if whole else {}
    work.write_json("counts", {**about, "counts": asdict(result.counts)})


def _whole_walks_only(work: Work) -> bool:
    """D24 asks it of the recorded data, which later epochs do not have: the first one says."""
    if "data" in work.inputs:
        return steps_cost(load_arrays(work.inputs["data"]))
    counts = json.loads((work.only("stitch-") / "counts.json").read_text())
    return bool(counts.get("whole", False))


def load_decisions(folder: Path) -> HopDecisions:
    """What a `hops` stage decided: all transitions, or those that walks reach."""
    from tskd_ray.stitching.hops import HopDecisions

    candidate = np.load(folder / "candidate.npy", allow_pickle=False)
    some = folder / "transitions.npy"
    transitions = np.load(some, allow_pickle=False) if some.is_file() else None
    return HopDecisions(
        transitions=np.arange(len(candidate)) if transitions is None else transitions,
        candidate=candidate,
        verdict=np.load(folder / "verdict.npy", allow_pickle=False),
    )


def select_trajectories(work: Work) -> None:
    """D_BC: what of D_K the student learns from."""
    from tskd_ray.training.select import select

    trajectories = work.joined()
    selection = select(trajectories, work.config.select)
    save_arrays(trajectories.take(selection.indices), work.out)
    document = {
        "thresholds": selection.thresholds,
        "survivors": selection.survivors,
        "warnings": selection.warnings,
    }
    work.write_json("selection", document)


def train_students(work: Work) -> None:
    """The students of one dataset: recorded, the recorded that selection keeps, or D_BC."""
    from tskd_ray.models.policy import Policy
    from tskd_ray.training.distill import distill
    from tskd_ray.training.select import select

    rows = work.name.removeprefix("students-")
    trajectories = work.joined()
    if rows == "filtered":
        trajectories = trajectories.take(select(trajectories, work.config.select).indices)
    # One name for all rows of the table: the same first weights and batch numbers.
    students = distill(
        {"student": trajectories},
        work.config.distill,
        work.config.seed,
        checkpoints=work.config.evaluate.checkpoints,
        resume=work.scratch,
        progress=work.progress,
    )["student"]
    seeds = work.config.distill.seeds
    first = students.final[0]
    if work.config.distill.method == "bc" and isinstance(first, Policy):
        count_flops(work, first.network, work.config.distill.fit, seeds)
    for step, policies in zip(students.steps, students.policies, strict=True):
        for number, policy in enumerate(policies):
            policy.save(work.out / f"step-{step}" / f"seed-{number}")
    work.write_json(
        "students",
        {
            "steps": students.steps,
            "seeds": seeds,
            "episodes": trajectories.n_episodes,
            "transitions": trajectories.n_steps,
        },
    )


def first_student(folder: Path) -> Path:
    """Of a `students` stage's folder: the first seed, final weights."""
    steps = json.loads((folder / "students.json").read_text())["steps"]
    return folder / f"step-{steps[-1]}" / "seed-0"


def score_students(work: Work) -> None:
    """Returns of every checkpoint and seed in the environment."""
    from tskd_ray.evaluation.simulate import evaluate
    from tskd_ray.models.students import load_student

    folder = work.only("students-")
    about = json.loads((folder / "students.json").read_text())
    policies = [
        load_student(folder / f"step-{step}" / f"seed-{number}")
        for step in about["steps"]
        for number in range(about["seeds"])
    ]
    environment = load_arrays(work.inputs["data"]).environment
    assert environment is not None, "checked when the run was planned"
    returns = evaluate(
        policies,
        environment,
        work.config.evaluate.episodes,
        work.config.seed,
        first=work.config.evaluate.first_episode,
        progress=work.progress,
    )
    shape = (len(about["steps"]), about["seeds"], work.config.evaluate.episodes)
    np.save(work.out / "returns.npy", returns.reshape(shape))
    work.write_json("about", about)


def estimate_students(work: Work) -> None:
    """What the final students would earn, from the recorded data alone."""
    from tskd_ray.evaluation.offline import estimate_returns
    from tskd_ray.models.sequence_policy import SequencePolicy
    from tskd_ray.models.students import load_student

    folder = work.only("students-")
    about = json.loads((folder / "students.json").read_text())
    final = folder / f"step-{about['steps'][-1]}"
    students = [load_student(final / f"seed-{number}") for number in range(about["seeds"])]
    policies = [one for one in students if not isinstance(one, SequencePolicy)]
    assert len(policies) == about["seeds"], "a student that remembers has no such stage"
    recorded = load_arrays(work.inputs["data"])
    found = estimate_returns(policies, recorded, seed=work.config.seed)
    document = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in vars(found).items()
    }
    work.write_json("offline", {**document, "share_of_best": found.share_of_best})


def check_fidelity(work: Work) -> None:
    """Generated steps and returns against the simulator: measured afterwards, never used."""
    from tskd_ray.errors import DataError
    from tskd_ray.evaluation.fidelity import one_step_fidelity, replay_returns

    recorded = load_arrays(work.inputs["data"])
    generated = load_arrays(work.only("generate-"))
    environment = recorded.environment
    assert environment is not None, "checked when the run was planned"
    try:
        fidelity = one_step_fidelity(
            generated, environment, work.config.seed, step_std=recorded.step_std()
        )
    except DataError as error:
        work.write_json("fidelity", {"unavailable": str(error)})
        return
    count = min(generated.n_episodes, REPLAYED_EPISODES)
    episodes = np.linspace(0, generated.n_episodes - 1, count).astype(np.int64)
    earned = replay_returns(generated, environment, episodes)
    work.write_json(
        "fidelity",
        {
            **fidelity.summary(),
            "reward_sd": float(recorded.rewards.std(dtype=np.float64)),
            "claimed_return": float(generated.returns[episodes].mean()),
            "replayed_return": float(earned.mean()),
        },
    )


TASKS: dict[str, Callable[[Work], None]] = {
    "advantage": fit_cross_value,
    "ddr1": train_diffuser,
    "ddr2": train_diffuser,
    "inverse-dynamics": train_inverse_dynamics,
    "transition": train_transition,
    "termination": train_termination,
    "dynamics": train_dynamics,
    "action-vae": train_action_vae,
    "reward-mlp": train_reward_mlp,
    "reward-wgan": train_reward_wgan,
    "reward-extension": fit_reward,
    "generator": fit_generator,
    "value": fit_value,
    "stitch": stitch,
    "select": select_trajectories,
    "students": train_students,
    "scores": score_students,
    "offline": estimate_students,
    "fidelity": check_fidelity,
    "reward-errors": measure_reward_errors,
}
"""Stages that are one task each, by stage name."""
