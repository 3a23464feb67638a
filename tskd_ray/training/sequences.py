"""Students that remember: a Decision Transformer each, with TorchRL's network and loss.

M students · B batch · K steps of context · N steps · S observation dim · A action dim
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tskd_ray.config.schema import DistillConfig
from tskd_ray.data.returns import returns_to_go
from tskd_ray.models.batches import BatchSampler
from tskd_ray.models.mlp import MemberKey
from tskd_ray.models.randomness import own_generator
from tskd_ray.models.sequence_policy import SequencePolicy, Transformer
from tskd_ray.seeding import seed_number
from tskd_ray.training.cloning import Learner, Lessons
from tskd_ray.types import IntArray


class Windows:
    """The K steps up to each step of one dataset; zeros before an episode's first."""

    def __init__(self, lesson: Lessons, context: int) -> None:
        some = lesson.trajectories
        to_go = returns_to_go(some.rewards, some.offsets, 1.0)
        self.scale = float(np.abs(to_go).max()) or 1.0
        """Of returns: the network sees at most 1, as long as it is asked for no more."""
        self.best = float(some.returns.max())
        self._back = np.arange(1 - context, 1)
        self._first = some.offsets[some.step_episode]
        self._columns = {
            "observation": lesson.states()[some.step_state],
            "action": lesson.actions(),
            "return_to_go": (to_go / self.scale).astype(np.float32)[:, None],
        }

    def __call__(self, steps: IntArray) -> tuple[dict[str, Tensor], Tensor]:
        """Columns (B, K, …) of the windows that end with these steps; which rows are real."""
        rows = steps[:, None] + self._back
        real = rows >= self._first[steps][:, None]
        rows = np.maximum(rows, 0)
        return {
            name: torch.from_numpy(column[rows] * real[..., None])
            for name, column in self._columns.items()
        }, torch.from_numpy(real)


class SequenceLearner(Learner):
    """All students of this method."""

    def __init__(
        self,
        lessons: Sequence[Lessons],
        settings: DistillConfig,
        seed: int,
        keys: Sequence[MemberKey],
    ) -> None:
        """Make networks and losses.

        Raises:
            ConfigError: Without TorchRL or Transformers.
        """
        super().__init__()
        self._settings, self._seed, self._keys = settings.dt, seed, keys
        self._lessons = [lesson for lesson in lessons for _ in range(settings.seeds)]
        windows = [Windows(lesson, settings.dt.context) for lesson in lessons]
        self._windows = [one for one in windows for _ in range(settings.seeds)]
        sizes = [lesson.trajectories.n_steps for lesson in self._lessons]
        batch = settings.fit.batch_size
        self._rows = BatchSampler([0] * len(sizes), sizes, batch, seed=seed, keys=keys)
        transformers = [self._transformer(key) for key in keys]
        self.networks = nn.ModuleList(transformers)
        self._transformers = transformers
        tensordict_nn: Any = import_module("tensordict.nn")
        objectives: Any = import_module("torchrl.objectives")
        inputs = ["observation", "action", "return_to_go"]
        # A plain list: the losses share their parameters with `networks`.
        self._losses: list[Any] = []
        for one in transformers:
            actor = tensordict_nn.TensorDictModule(one, inputs, ["planned"])
            loss = objectives.DTLoss(actor, loss_function="l2", reduction="none")
            loss.set_keys(action_pred="planned")
            self._losses.append(loss)

    def loss(self, step: int) -> Tensor:
        """Mean squared error of the actions of real steps."""
        made: Any = import_module("tensordict").TensorDict
        each: list[Tensor] = []
        rows = self._rows(step).numpy()
        for loss, windows, steps, key in zip(
            self._losses, self._windows, rows, self._keys, strict=True
        ):
            columns, real = windows(steps)
            with own_generator(seed_number(self._seed, *key, "noise", step)):  # dropout
                errors = loss(made(columns, [len(steps)]))["loss"]
            each.append(errors[real].mean())
        return torch.stack(each).sum()

    def weights(self) -> list[Tensor]:
        parts = [list(one.parameters()) for one in self._transformers]
        return [torch.stack(part).detach() for part in zip(*parts, strict=True)]

    def policy(
        self, weights: Sequence[Tensor], member: int, details: dict[str, Any]
    ) -> SequencePolicy:
        lesson, windows, chosen = self._lessons[member], self._windows[member], self._settings
        network = self._transformer(self._keys[member]).eval()
        with torch.no_grad():
            for part, value in zip(network.parameters(), weights, strict=True):
                part.copy_(value[member])
        return SequencePolicy(
            network,
            chosen.context,
            chosen.heads,
            lesson.observation,
            lesson.low,
            lesson.high,
            windows.best if chosen.target_return is None else chosen.target_return,
            windows.scale,
            details,
        )

    def _transformer(self, key: MemberKey) -> Transformer:
        lesson, chosen = self._lessons[0], self._settings
        with own_generator(seed_number(self._seed, *key, "weights")):
            return Transformer(
                len(lesson.observation.mean_),
                len(lesson.low),
                context=chosen.context,
                width=chosen.width,
                layers=chosen.layers,
                heads=chosen.heads,
                dropout=chosen.dropout,
            )
