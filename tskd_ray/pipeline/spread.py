"""The two stages whose work is spread over many workers: generation, and the hop search."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tskd_ray.config.schema import Config, RadiusConfig
from tskd_ray.data.arrays import load_arrays, save_arrays
from tskd_ray.data.trajectories import EnvironmentSpec, Trajectories
from tskd_ray.distributed.generate import Arrays, Shard, generate_shards, plan_shards
from tskd_ray.distributed.outcome import torch_threads
from tskd_ray.distributed.stitch import decide_hops_distributed
from tskd_ray.pipeline.artifacts import ArtifactKey, ArtifactStore
from tskd_ray.pipeline.stages import Work
from tskd_ray.progress import Progress

_COLUMNS = (
    "observations", "actions", "rewards", "offsets", "terminated", "truncated", "origin",
    "source_episode", "source_step", "episode_id", "episode_origin",
)  # fmt: skip


class GenerationWorker:
    """Holds the teacher; a shard is a range of trajectory numbers of one epoch."""

    def __init__(
        self,
        store: ArtifactStore,
        inputs: Mapping[str, ArtifactKey],
        config: Config,
        epoch: int,
    ) -> None:
        folders = {name: fetch(store, key) for name, key in inputs.items()}
        self.teacher, self.first_id = load_teacher(folders, config, epoch)
        self.config, self.epoch = config, epoch

    def process(self, shard: Shard) -> Arrays:
        """Generate the shard's trajectories; `cpu_seconds` tells the cost."""
        from tskd_ray.diffusion.rollout import generate

        started = time.process_time()
        generated = generate(
            self.teacher,
            self.config.generate,
            ids=range(shard.payload["start"], shard.payload["stop"]),
            seed=self.config.seed,
            epoch=self.epoch,
            first_id=self.first_id,
        )
        columns = {name: getattr(generated.trajectories, name) for name in _COLUMNS}
        return {
            **columns,
            "ends": generated.ends,
            "disagreement": generated.disagreement,
            "cpu_seconds": np.array(time.process_time() - started),
        }


def load_teacher(folders: Mapping[str, Path], config: Config, epoch: int) -> tuple[Any, int]:
    """The teacher, and the first episode id of an epoch's trajectories."""
    from tskd_ray.diffusion.rollout import Teacher

    recorded = load_arrays(folders["data"])
    teacher = Teacher.load(dict(folders), recorded, config.compute.device)
    first = int(recorded.episode_id.max()) + 1 + (epoch - 1) * config.generate.trajectories
    return teacher, first


def run_generation(
    store: ArtifactStore,
    key: ArtifactKey,
    inputs: Mapping[str, ArtifactKey],
    config: Config,
    epoch: int,
    progress: Progress,
) -> None:
    """Generate an epoch's trajectories, shard by shard; finished shards outlive a kill."""
    from tskd_ray.diffusion.rollout import End
    from tskd_ray.diffusion.vitals import plan_errors

    started = time.monotonic()
    count = config.generate.trajectories
    shards = plan_shards(count, config.generate.shard_size)
    kept = store.shards(key)
    finished = kept.finished()
    cpu: list[float] = []

    def keep(number: int, arrays: Arrays) -> None:
        # Cost is no part of the result: the same shard must have the same bytes.
        cpu.append(float(arrays["cpu_seconds"]))
        kept.write(number, {k: v for k, v in arrays.items() if k != "cpu_seconds"})

    generate_shards(
        partial(GenerationWorker, store, dict(inputs), config, epoch),
        [shard for shard in shards if shard.id not in finished],
        config.compute,
        on_result=keep,
        progress=progress,
    )
    folders = {name: fetch(store, input_key) for name, input_key in inputs.items()}
    recorded = load_arrays(folders["data"])
    parts, ends, disagreement = [], [], []
    for _, arrays in kept.read_all([shard.id for shard in shards]):
        parts.append(_trajectories(arrays, recorded.environment))
        ends.append(arrays["ends"])
        disagreement.append(arrays["disagreement"])
    trajectories = Trajectories.concatenate(parts)
    counts = np.bincount(np.concatenate(ends).astype(np.int64), minlength=len(End))
    with torch_threads(config.compute.threads), store.attempt(key, ids=range(count)) as attempt:
        teacher, first = load_teacher(folders, config, epoch)
        vitals = plan_errors(teacher, recorded, config.generate, config.seed)
        cut = counts[End.LEFT_BOX] + counts[End.DISAGREEMENT]
        vitals |= {
            "cut_share": float(cut) / count,
            "disagreement": float(np.concatenate(disagreement).mean()),
            **{f"ends_{end.name.lower()}": int(counts[end]) for end in End},
        }
        save_arrays(trajectories, attempt.folder)
        _write(attempt.folder / "vitals.json", vitals)
        attempt.ids += [int(number) - first for number in trajectories.episode_id]
        attempt.info |= {
            "environment_steps": trajectories.n_steps,
            "wall_seconds": round(time.monotonic() - started, 3),
            "cpu_seconds": round(sum(cpu), 3),
        }


def run_stitching(work: Work, problem_folder: Path) -> None:
    """One epoch of Algorithm 4 on D ∪ new; the hop search goes through Ray Data.

    Args:
        work: The stage; its inputs are D, the new trajectories, V, the dynamics, the inverse
            dynamics and DDR-II.
        problem_folder: Where the frozen snapshot is written for the workers to map; on storage
            that all of them reach.
    """
    from tskd_ray.diffusion.ddr import RewardDiffuser
    from tskd_ray.models.forward_dynamics import ForwardDynamics
    from tskd_ray.models.inverse_dynamics import InverseDynamics
    from tskd_ray.models.value import TwinValue
    from tskd_ray.stitching.epoch import finish_epoch
    from tskd_ray.stitching.problem import hop_problem

    config, settings = work.config, work.config.stitch
    joined = work.joined()
    (value_folder,) = (path for name, path in work.inputs.items() if name.startswith("value-"))
    with torch_threads(config.compute.threads):
        radius = _radius(joined, config)
        problem = hop_problem(
            joined,
            value=TwinValue.load(value_folder).predict,
            log_density=ForwardDynamics.load(work.inputs["dynamics"]),
            radius=radius,
            candidate=settings.candidate,
            metric=settings.metric,
            search=settings.search,
        )
        problem.save(problem_folder)
        decisions = decide_hops_distributed(
            problem_folder, joined.n_steps, config.compute, progress=work.progress
        )
        rewards = RewardDiffuser.load(work.inputs["ddr2"], config.compute.device)
        spec = joined.environment
        limit = spec.max_episode_steps if spec is not None else None
        generated = sum(
            load_arrays(path).n_episodes
            for name, path in work.inputs.items()
            if name.startswith("generate-")
        )
        result = finish_epoch(
            joined,
            problem,
            decisions,
            action=InverseDynamics.load(work.inputs["inverse-dynamics"]).predict,
            reward=partial(
                rewards.reward, sampler=config.teacher.reward_sampler, seed=config.seed
            ),
            acceptance=settings.acceptance,
            improvement=settings.improvement,
            on_cycle=settings.on_cycle,
            max_length=int(limit or joined.lengths.max()),
            keep=joined.n_episodes - generated,
        )
    save_arrays(replace(result.trajectories, environment=spec), work.out)
    work.write_json("counts", {"radius": radius, "counts": asdict(result.counts)})


def fetch(store: ArtifactStore, key: ArtifactKey) -> Path:
    """The folder of a finished artifact, on this machine."""
    artifact = store.find(key)
    assert artifact is not None, f"{key.stage} runs after its inputs"
    return store.fetch(artifact)


def _radius(trajectories: Trajectories, config: Config) -> float:
    from tskd_ray.stitching.radius import suggest_radius

    radius = config.stitch.radius
    if isinstance(radius, RadiusConfig):
        return suggest_radius(
            trajectories.observations,
            radius.neighbours,
            config.seed,
            metric=config.stitch.metric,
        )
    return float(radius)


def _trajectories(
    arrays: Mapping[str, Any], environment: EnvironmentSpec | None
) -> Trajectories:
    return Trajectories(**{name: arrays[name] for name in _COLUMNS}, environment=environment)


def _write(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
