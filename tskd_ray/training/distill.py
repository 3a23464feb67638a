"""Distillation: many students trained at once, by one of several methods (docs/algorithm.md).

M students (dataset x seed) · C checkpoints
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tskd_ray.config.schema import DistillConfig
from tskd_ray.data.extensions import (
    StudentMethod,
    calling,
    read_only,
    require_arrays,
    student_extension,
)
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.errors import DataError
from tskd_ray.models.batches import action_bounds
from tskd_ray.models.fit import fit
from tskd_ray.models.mlp import MemberKey
from tskd_ray.models.standardizer import Standardizer
from tskd_ray.models.students import ExtensionPolicy
from tskd_ray.progress import Progress, silent
from tskd_ray.seeding import seed_number
from tskd_ray.training.cloning import Cloning, Learner, Lessons
from tskd_ray.training.offline_rl import OfflineLearner
from tskd_ray.training.weighted_cloning import WeightedCloning


@dataclass(frozen=True, eq=False)
class Students:
    """All students of one dataset."""

    steps: tuple[int, ...]  # (C,) gradient steps behind each checkpoint; the last is final
    policies: tuple[tuple[Any, ...], ...]
    """C x seeds; `Policy`, or by the method another of `models.students.Student`."""

    @property
    def final(self) -> tuple[Any, ...]:
        """The fully trained policy of each seed."""
        return self.policies[-1]


def distill(
    datasets: Mapping[str, Trajectories],
    settings: DistillConfig | None = None,
    seed: int = 0,
    *,
    checkpoints: int = 5,
    resume: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Students]:
    """Train `settings.seeds` students on each dataset, by `settings.method`.

    Every student has the same architecture, steps and batch size, whatever the size of its
    dataset, and depends only on its dataset, its name and its seed: not on who trains beside it
    (up to rounding).

    Args:
        datasets: By name; the name is part of a student's random stream.
        settings: Method, seeds, widths and optimisation; default: `DistillConfig()`.
            `ema_decay` is for the final policies and not for the earlier checkpoints.
        seed: The run's seed.
        checkpoints: C, evenly spaced, the last one final; of an extension there is that alone.
        resume: Folder for the training state.
        progress: Told of the optimisation.

    Returns:
        The students by dataset.

    Raises:
        DataError: If there are no datasets, or they differ in widths.
        ConfigError: If the method needs a package, or is an extension, that is not installed.
        StageError: If an extension fails.
    """
    settings = settings or DistillConfig()
    _check_widths(datasets)
    extension = student_extension(settings)
    if extension is not None:
        return {
            name: _by_extension(extension, name, one, settings, seed)
            for name, one in datasets.items()
        }
    numbers = range(settings.first_seed, settings.first_seed + settings.seeds)
    keys: list[MemberKey] = [
        ("student", name, number) for name in datasets for number in numbers
    ]
    lessons = [
        Lessons(one, Standardizer.fit(one.observations), *action_bounds(one))
        for one in datasets.values()
    ]
    learner = _learner(settings.method)(lessons, settings, seed, keys)
    steps = checkpoint_steps(settings.fit.steps, checkpoints)
    training = _Training(learner, len(steps) - 1)

    def loss(step: int) -> Tensor:
        if step in steps:
            training.keep(steps.index(step))
        return learner.loss(step)

    fit(training, loss, settings.fit, resume=resume, progress=progress)
    snapshots = [training.kept(index) for index in range(len(steps) - 1)] + [learner.weights()]
    members = {key: member for member, key in enumerate(keys)}
    return {
        name: Students(
            steps,
            tuple(
                tuple(
                    learner.policy(
                        weights,
                        members["student", name, number],
                        {"dataset": name, "seed": number, "steps": step},
                    )
                    for number in numbers
                )
                for step, weights in zip(steps, snapshots, strict=True)
            ),
        )
        for name in datasets
    }


def _learner(method: str) -> Callable[..., Learner]:
    if method == "bc":
        return Cloning
    if method == "awr":
        return WeightedCloning
    if method == "dt":
        from tskd_ray.training.sequences import SequenceLearner

        return SequenceLearner
    return OfflineLearner


def _by_extension(
    extension: StudentMethod,
    name: str,
    trajectories: Trajectories,
    settings: DistillConfig,
    seed: int,
) -> Students:
    """Its students of one dataset, by name; how many steps it took nobody knows."""
    low, high = action_bounds(trajectories)

    def student(number: int) -> ExtensionPolicy:
        with calling(settings.method):
            fitted = extension.train(
                read_only(trajectories), seed_number(seed, "student", name, number)
            )
        return ExtensionPolicy(
            settings.method,
            settings.settings,
            require_arrays(settings.method, fitted),
            low,
            high,
            {"dataset": name, "seed": number},
        )

    numbers = range(settings.first_seed, settings.first_seed + settings.seeds)
    return Students((1,), (tuple(map(student, numbers)),))


def checkpoint_steps(steps: int, checkpoints: int) -> tuple[int, ...]:
    """`checkpoints` evenly spaced numbers of gradient steps, the last one `steps`."""
    return tuple(
        sorted({max(1, round(steps * k / checkpoints)) for k in range(1, checkpoints + 1)})
    )


class _Training(nn.Module):
    """Students in training and their earlier selves, as buffers: a resume brings them back."""

    def __init__(self, learner: Learner, n_kept: int) -> None:
        super().__init__()
        self.learner = learner
        self._parts = len(learner.weights())
        for number, part in enumerate(learner.weights()):
            self.register_buffer(f"kept{number}", torch.zeros(n_kept, *part.shape))

    @torch.no_grad()
    def keep(self, index: int) -> None:
        for number, part in enumerate(self.learner.weights()):
            self.get_buffer(f"kept{number}")[index].copy_(part)

    def kept(self, index: int) -> list[Tensor]:
        return [self.get_buffer(f"kept{number}")[index] for number in range(self._parts)]


def _check_widths(datasets: Mapping[str, Trajectories]) -> None:
    if not datasets:
        raise DataError("Distillation needs at least one dataset. Got none.")
    widths = {(part.observation_dim, part.action_dim) for part in datasets.values()}
    if len(widths) != 1:
        raise DataError(
            "Datasets distilled side by side must have the same widths. Got (observation, "
            f"action) widths {sorted(widths)}. Distill them in separate runs."
        )
