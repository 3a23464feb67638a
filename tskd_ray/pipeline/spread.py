"""The two stages whose work is spread over many workers: generation, and the hop search."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tskd_ray.config.schema import Config
from tskd_ray.data.arrays import load_arrays, save_arrays
from tskd_ray.data.returns import steps_cost
from tskd_ray.data.trajectories import EnvironmentSpec, Trajectories
from tskd_ray.distributed.generate import Arrays, Shard, generate_shards, plan_shards
from tskd_ray.distributed.tasks import Task, run_tasks
from tskd_ray.errors import DataError
from tskd_ray.pipeline.artifacts import ArtifactKey, ArtifactStore
from tskd_ray.pipeline.cost import Meter, Rate
from tskd_ray.pipeline.extension_stages import by_extension
from tskd_ray.progress import Progress, silent
from tskd_ray.types import Int8Array, IntArray

_COLUMNS = (
    "observations", "actions", "rewards", "offsets", "terminated", "truncated", "origin",
    "source_episode", "source_step", "episode_id", "episode_origin",
)  # fmt: skip


class GenerationWorker:
    """Holds the teacher, or an extension; a shard is a range of trajectory numbers."""

    def __init__(
        self,
        store: ArtifactStore,
        inputs: Mapping[str, ArtifactKey],
        config: Config,
        epoch: int,
    ) -> None:
        self._accounted = time.process_time()  # so that the first shard pays for loading
        folders = {name: fetch(store, key) for name, key in inputs.items()}
        made_by = _extension if config.generate.extended else _teacher
        self.made = made_by(folders, config, epoch)

    def process(self, shard: Shard) -> Arrays:
        """Generate the shard's trajectories; `cpu_seconds` tells the cost."""
        made = self.made(range(shard.payload["start"], shard.payload["stop"]))
        before, self._accounted = self._accounted, time.process_time()
        return {**made, "cpu_seconds": np.array(self._accounted - before)}


def _teacher(
    folders: Mapping[str, Path], config: Config, epoch: int
) -> Callable[[range], Arrays]:
    from tskd_ray.diffusion.rollout import generate

    teacher, first_id = load_teacher(folders, config, epoch)

    def made(numbers: range) -> Arrays:
        generated = generate(
            teacher,
            config.generate,
            ids=numbers,
            seed=config.seed,
            epoch=epoch,
            first_id=first_id,
            slots=config.compute.slots,
        )
        return {
            **_columns(generated.trajectories),
            "ends": generated.ends,
            "disagreement": generated.disagreement,
        }

    return made


def _extension(
    folders: Mapping[str, Path], config: Config, epoch: int
) -> Callable[[range], Arrays]:
    first_id = _first_id(load_arrays(folders["data"]), config, epoch)
    generated = by_extension(folders, config, epoch, first_id)
    return lambda numbers: _columns(generated(numbers))


def _columns(trajectories: Trajectories) -> Arrays:
    return {name: getattr(trajectories, name) for name in _COLUMNS}


def load_teacher(folders: Mapping[str, Path], config: Config, epoch: int) -> tuple[Any, int]:
    """The teacher, and the first episode id of an epoch's trajectories."""
    from tskd_ray.diffusion.teacher import Teacher
    from tskd_ray.models.arithmetic import Arithmetic

    recorded = load_arrays(folders["data"])
    arithmetic = Arithmetic.of(config.compute)
    teacher = Teacher.load(dict(folders), recorded, config.compute.device, arithmetic)
    return teacher, _first_id(recorded, config, epoch)


def _first_id(recorded: Trajectories, config: Config, epoch: int) -> int:
    """Above all ids that the data know: steps of theirs may come from episodes long gone."""
    last = int(max(recorded.episode_id.max(), recorded.source_episode.max()))
    return last + 1 + (epoch - 1) * config.generate.trajectories


def run_generation(
    store: ArtifactStore,
    key: ArtifactKey,
    inputs: Mapping[str, ArtifactKey],
    config: Config,
    epoch: int,
    progress: Progress,
    info: Mapping[str, Any],
) -> None:
    """Generate an epoch's trajectories, shard by shard; finished shards outlive a kill."""
    meter = Meter()
    count = config.generate.trajectories
    shards = plan_shards(count, config.generate.shard_size)
    kept = store.shards(key)
    finished = kept.finished()
    here = 0.0  # CPU seconds of shards made in this process, which the meter has seen

    def keep(number: int, arrays: Arrays) -> None:
        # Cost is no part of the result: the same shard must have the same bytes.
        nonlocal here
        here += float(arrays["cpu_seconds"]) if config.compute.mode == "local" else 0.0
        kept.note_cost(number, float(arrays["cpu_seconds"]))
        kept.write(number, {k: v for k, v in arrays.items() if k != "cpu_seconds"})

    rate = Rate(progress)
    left = [shard for shard in shards if shard.id not in finished]
    rate(0, sum(shard.items for shard in left))
    generate_shards(
        partial(GenerationWorker, store, dict(inputs), config, epoch),
        left,
        config.compute,
        on_result=keep,
        progress=rate,
    )
    folders = {name: fetch(store, input_key) for name, input_key in inputs.items()}
    recorded = load_arrays(folders["data"])
    done = [arrays for _, arrays in kept.read_all([shard.id for shard in shards])]
    parts = [_trajectories(arrays, recorded.environment) for arrays in done]
    trajectories = made = Trajectories.concatenate(parts)
    columns: dict[str, Any] = {}
    vitals = None
    if not config.generate.extended:
        errors = _apart(meter, config, plan_vitals, store=store, inputs=dict(inputs))
        columns = {
            name: np.concatenate([arrays[name] for arrays in done])
            for name in ("ends", "disagreement")
        }
        vitals = errors | _ends(columns)
        if steps_cost(recorded):
            whole = _whole(columns["ends"])
            vitals["dropped"] = made.n_episodes - len(whole)
            trajectories = made.take(whole)
            columns = {name: column[whole] for name, column in columns.items()}
    with store.attempt(key, ids=range(count)) as attempt:
        save_arrays(trajectories, attempt.folder)
        for name, column in columns.items():
            np.save(attempt.folder / f"{name}.npy", column)
        if vitals is not None:
            _write(attempt.folder / "vitals.json", vitals)
        first = _first_id(recorded, config, epoch)
        attempt.ids += [int(number) - first for number in made.episode_id]
        meter.elsewhere += kept.cpu_seconds() - here
        figures = {
            "environment_steps": made.n_steps,
            **meter.figures(),
            **_steps_per_second(rate, config, made),
        }
        attempt.info |= {**figures, **info}


def _ends(columns: Mapping[str, Any]) -> dict[str, float]:
    """How all episodes ended, and how much the ensemble disagreed."""
    from tskd_ray.diffusion.rollout import End

    ends = columns["ends"].astype(np.int64)
    counts = np.bincount(ends, minlength=len(End))
    cut = counts[End.LEFT_BOX] + counts[End.DISAGREEMENT]
    return {
        "cut_share": float(cut) / len(ends),
        "disagreement": float(columns["disagreement"].mean()),
        **{f"ends_{end.name.lower()}": int(counts[end]) for end in End},
    }


def _whole(ends: Int8Array) -> IntArray:
    """The episodes that were not cut (D24).

    Raises:
        DataError: If all were.
    """
    from tskd_ray.diffusion.rollout import End

    whole = np.flatnonzero((ends != End.LEFT_BOX) & (ends != End.DISAGREEMENT))
    if not len(whole):
        raise DataError(
            "Where rewards are negative on average, generated episodes that were cut are "
            f"dropped (D24), and one must be left. All {len(ends)} left the data's box, or the "
            "ensemble disagreed. Raise generate.box_margin or generate.max_disagreement, or "
            "train the teacher longer."
        )
    return whole


def _steps_per_second(rate: Rate, config: Config, made: Trajectories) -> dict[str, float]:
    """Environment steps per second of this command, and the diffusion network's arithmetic."""
    per_second = rate.figures().get("rate", 0.0) * made.n_steps / made.n_episodes
    if not per_second:
        return {}
    settings = config.generate
    if settings.extended:
        return {"rate": round(per_second, 3)}
    from tskd_ray.diffusion.ddr import TrajectoryDiffuser

    diffuser = TrajectoryDiffuser(config.teacher, made.observation_dim)
    share = (settings.warm_steps or settings.sampler.steps) / settings.sampler.steps
    flops = diffuser.plan_flops(settings.sampler) * share / settings.replan_every
    return {"rate": round(per_second, 3), "flop_per_second": round(per_second * flops)}


def plan_vitals(
    *,
    store: ArtifactStore,
    config: Config,
    inputs: Mapping[str, ArtifactKey],
    progress: Progress = silent,
) -> tuple[dict[str, float], float]:
    """`plan_errors` of a saved teacher, and its CPU seconds; a task of `run_tasks`."""
    from tskd_ray.diffusion.vitals import plan_errors

    meter = Meter()
    folders = {name: fetch(store, key) for name, key in inputs.items()}
    teacher, _ = load_teacher(folders, config, epoch=1)
    recorded = load_arrays(folders["data"])
    errors = plan_errors(teacher, recorded, config.generate, config.seed)
    return errors, meter.own_seconds


def _apart(
    meter: Meter, config: Config, function: Callable[..., tuple[Any, float]], **arguments: Any
) -> Any:
    """What the driver must not compute, since only workers hold the GPU."""
    name = function.__name__
    task = Task(function=function, arguments={"config": config, **arguments})
    result, cpu_seconds = run_tasks({name: task}, config.compute)[name]
    if config.compute.mode != "local":
        meter.elsewhere += cpu_seconds
    return result


def fetch(store: ArtifactStore, key: ArtifactKey) -> Path:
    """The folder of a finished artifact, on this machine."""
    artifact = store.find(key)
    assert artifact is not None, f"{key.stage} runs after its inputs"
    return store.fetch(artifact)


def _trajectories(
    arrays: Mapping[str, Any], environment: EnvironmentSpec | None
) -> Trajectories:
    return Trajectories(**{name: arrays[name] for name in _COLUMNS}, environment=environment)


def _write(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
