"""What students learn from and how they are trained: the interface, and behaviour cloning.

M students (dataset x seed) · B batch · N steps · S observation dim · A action dim
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tskd_ray.config.schema import DistillConfig
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.models.batches import BatchSampler, gather
from tskd_ray.models.mlp import BatchedMLP, MemberKey
from tskd_ray.models.policy import Policy, students_forward
from tskd_ray.models.standardizer import Standardizer
from tskd_ray.types import Float32Array, IntArray

if TYPE_CHECKING:
    from tskd_ray.models.sequence_policy import SequencePolicy


@dataclass(frozen=True, eq=False)
class Lessons:
    """One dataset in the units of its students."""

    trajectories: Trajectories
    observation: Standardizer
    low: Float32Array  # (A,)
    high: Float32Array  # (A,)

    def states(self) -> Float32Array:
        """Standardised observations, those at episode ends included; (N + E, S)."""
        return self.observation.normalize(self.trajectories.observations)

    def actions(self) -> Float32Array:
        """Within [−1, 1]; (N, A)."""
        half = np.where(self.high > self.low, (self.high - self.low) / 2, 1.0)
        middle = (self.low + self.high) / 2
        return np.clip((self.trajectories.actions - middle) / half, -1.0, 1.0).astype(
            np.float32
        )


class Learner(nn.Module, ABC):
    """All students of a method in training. Its parameters are trained, its buffers kept."""

    @abstractmethod
    def loss(self, step: int) -> Tensor:
        """Of all students, summed: each sees the gradient that it would see alone."""

    @abstractmethod
    def weights(self) -> list[Tensor]:
        """What policies are made of, (M, …) each, as it is now."""

    @abstractmethod
    def policy(
        self, weights: Sequence[Tensor], member: int, details: dict[str, Any]
    ) -> Policy | SequencePolicy:
        """Student `member`, of weights as `weights` gave them at some step."""


class Batches:
    """Rows of each student's own dataset, standardised states first."""

    def __init__(
        self,
        tables: Sequence[Float32Array],
        settings: DistillConfig,
        seed: int,
        keys: Sequence[MemberKey],
    ) -> None:
        sizes = [len(table) for table in tables]
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        self._rows = BatchSampler(
            np.repeat(starts, settings.seeds).tolist(),
            np.repeat(sizes, settings.seeds).tolist(),
            settings.fit.batch_size,
            seed=seed,
            keys=keys,
        )
        self._table = torch.from_numpy(np.concatenate(tables))

    def __call__(self, step: int) -> Tensor:
        """(M, B, columns)."""
        return gather(self._table, self.rows(step))

    def rows(self, step: int) -> Tensor:
        """Their numbers, counted through all datasets, (M, B)."""
        return self._rows(step)


class Cloning(Learner):
    """Behaviour cloning, as one batched network."""

    def __init__(
        self,
        lessons: Sequence[Lessons],
        settings: DistillConfig,
        seed: int,
        keys: Sequence[MemberKey],
        taught: Sequence[IntArray] | None = None,
    ) -> None:
        """Clone the steps `taught` of each dataset; default: all."""
        super().__init__()
        self._lessons = lessons
        self._seeds = settings.seeds
        self._states, actions = len(lessons[0].observation.mean_), len(lessons[0].low)
        self.network = BatchedMLP(self._states, actions, settings.hidden, seed=seed, keys=keys)
        tables = [
            np.concatenate(
                [lesson.states()[lesson.trajectories.step_state], lesson.actions()], axis=1
            )
            for lesson in lessons
        ]
        if taught is not None:
            tables = [table[steps] for table, steps in zip(tables, taught, strict=True)]
        self.batches = Batches(tables, settings, seed, keys)

    def loss(self, step: int) -> Tensor:
        """Mean squared error of actions in [−1, 1]."""
        return self.squared_errors(step).mean((1, 2)).sum()

    def squared_errors(self, step: int) -> Tensor:
        """Of actions in [−1, 1], (M, B, A)."""
        rows = self.batches(step)
        actions = students_forward(self.network, rows[..., : self._states])
        return (actions - rows[..., self._states :]).square()

    def weights(self) -> list[Tensor]:
        return list(self.network.parameters())

    def policy(self, weights: Sequence[Tensor], member: int, details: dict[str, Any]) -> Policy:
        return mlp_policy(weights, member, self._lessons[member // self._seeds], details)


def mlp_policy(
    weights: Sequence[Tensor], member: int, lesson: Lessons, details: dict[str, Any]
) -> Policy:
    """Of a member's layers, (M, I, O) and (M, 1, O): all weights come before all biases."""
    layers = [layer[member : member + 1] for layer in weights]
    depth = len(layers) // 2
    network = BatchedMLP.from_layers(layers[:depth], layers[depth:])
    return Policy(network, lesson.observation, lesson.low, lesson.high, details)
