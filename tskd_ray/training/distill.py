"""Distillation: many students cloned at once, as one batched network (docs/algorithm.md).

M students (dataset x seed) · B batch · S observation dim · A action dim · C checkpoints
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tskd_ray.config.schema import DistillConfig
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.errors import DataError
from tskd_ray.models.batches import BatchSampler, action_bounds, gather
from tskd_ray.models.fit import fit
from tskd_ray.models.mlp import BatchedMLP, MemberKey
from tskd_ray.models.policy import Policy, students_forward
from tskd_ray.models.standardizer import Standardizer
from tskd_ray.progress import Progress, silent
from tskd_ray.types import Float32Array


@dataclass(frozen=True, eq=False)
class Students:
    """All students of one dataset."""

    steps: tuple[int, ...]  # (C,) gradient steps behind each checkpoint; the last is final
    policies: tuple[tuple[Policy, ...], ...]  # C x seeds

    @property
    def final(self) -> tuple[Policy, ...]:
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
    """Clone the behaviour of each dataset into `settings.seeds` students.

    Every student has the same architecture, steps and batch size, whatever the size of its
    dataset, and depends only on its dataset, its name and its seed: not on who trains beside it
    (up to rounding).

    Args:
        datasets: By name; the name is part of a student's random stream.
        settings: Seeds, widths and optimisation; default: `DistillConfig()`. `ema_decay` is for
            the final policies and not for the earlier checkpoints.
        seed: The run's seed.
        checkpoints: C, evenly spaced, the last one final.
        resume: Folder for the training state.
        progress: Told of the optimisation.

    Returns:
        The students by dataset.

    Raises:
        DataError: If there are no datasets, or they differ in widths or action bounds.
    """
    settings = settings or DistillConfig()
    low, high = _common_bounds(datasets)
    scale = [Standardizer.fit(trajectories.observations) for trajectories in datasets.values()]
    tables = [
        _table(trajectories, standardizer, low, high)
        for trajectories, standardizer in zip(datasets.values(), scale, strict=True)
    ]
    sizes = [len(table) for table in tables]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    numbers = range(settings.first_seed, settings.first_seed + settings.seeds)
    keys: list[MemberKey] = [
        ("student", name, number) for name in datasets for number in numbers
    ]
    observation_dim = len(scale[0].mean_)
    network = BatchedMLP(observation_dim, len(low), settings.hidden, seed=seed, keys=keys)
    batches = BatchSampler(
        np.repeat(starts, settings.seeds).tolist(),
        np.repeat(sizes, settings.seeds).tolist(),
        settings.fit.batch_size,
        seed=seed,
        keys=keys,
    )
    table = torch.from_numpy(np.concatenate(tables))
    steps = checkpoint_steps(settings.fit.steps, checkpoints)
    training = _Training(network, len(steps) - 1)

    def loss(step: int) -> Tensor:
        if step in steps:
            training.keep(steps.index(step))
        rows = gather(table, batches(step))
        actions = students_forward(network, rows[..., :observation_dim])
        # Summed over students: each sees the gradient that it would see alone.
        return (actions - rows[..., observation_dim:]).square().mean((1, 2)).sum()

    fit(training, loss, settings.fit, resume=resume, progress=progress)
    networks = [training.kept(index) for index in range(len(steps) - 1)] + [network]
    return {
        name: Students(
            steps,
            tuple(
                tuple(
                    Policy(
                        snapshot.members([position * settings.seeds + place]),
                        standardizer,
                        low,
                        high,
                        {"dataset": name, "seed": number, "steps": step},
                    )
                    for place, number in enumerate(numbers)
                )
                for step, snapshot in zip(steps, networks, strict=True)
            ),
        )
        for position, (name, standardizer) in enumerate(zip(datasets, scale, strict=True))
    }


def checkpoint_steps(steps: int, checkpoints: int) -> tuple[int, ...]:
    """`checkpoints` evenly spaced numbers of gradient steps, the last one `steps`."""
    return tuple(
        sorted({max(1, round(steps * k / checkpoints)) for k in range(1, checkpoints + 1)})
    )


class _Training(nn.Module):
    """The network in training and its earlier selves, as buffers: a resume brings them back."""

    def __init__(self, network: BatchedMLP, n_kept: int) -> None:
        super().__init__()
        self.network = network
        self._n_kept = n_kept
        for number, parameter in enumerate(network.parameters()):
            self.register_buffer(f"kept{number}", torch.zeros(n_kept, *parameter.shape))

    @torch.no_grad()
    def keep(self, index: int) -> None:
        for number, parameter in enumerate(self.network.parameters()):
            self.get_buffer(f"kept{number}")[index].copy_(parameter)

    def kept(self, index: int) -> BatchedMLP:
        count = len(list(self.network.parameters()))
        layers = [self.get_buffer(f"kept{number}")[index] for number in range(count)]
        depth = count // 2  # all weights come before all biases
        return BatchedMLP.from_layers(layers[:depth], layers[depth:])


def _common_bounds(datasets: Mapping[str, Trajectories]) -> tuple[Float32Array, Float32Array]:
    if not datasets:
        raise DataError("Distillation needs at least one dataset. Got none.")
    widths = {(part.observation_dim, part.action_dim) for part in datasets.values()}
    if len(widths) != 1:
        raise DataError(
            "Datasets distilled side by side must have the same widths. Got (observation, "
            f"action) widths {sorted(widths)}. Distill them in separate runs."
        )
    bounds = [action_bounds(part) for part in datasets.values()]
    low = np.min([low for low, _ in bounds], axis=0)
    return low, np.max([high for _, high in bounds], axis=0)


def _table(
    trajectories: Trajectories, scale: Standardizer, low: Float32Array, high: Float32Array
) -> Float32Array:
    """Rows (standardised s, a in [−1, 1]), (N, S + A)."""
    states = scale.normalize(trajectories.observations[trajectories.step_state])
    half = np.where(high > low, (high - low) / 2, 1.0)
    actions = np.clip((trajectories.actions - (low + high) / 2) / half, -1.0, 1.0)
    return np.concatenate([states, actions.astype(np.float32)], axis=1)
