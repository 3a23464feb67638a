"""What the small networks train on: rows of a dataset, drawn as a pure function of the step.

M members · B batch · N rows
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tskd_ray.data.trajectories import Trajectories, ranges
from tskd_ray.models.mlp import MemberKey
from tskd_ray.seeding import numpy_rng
from tskd_ray.types import Float32Array, IntArray

STEPS_PER_BLOCK = 256
"""Indices are drawn for this many steps at once: a generator per step would cost more."""


class BatchSampler:
    """Uniform rows for each member at each step: a function of (seed, key, step) alone.

    So a resumed training sees the batches that the undisturbed one would have seen, and a
    member sees the same batches whoever trains beside it.
    """

    def __init__(
        self,
        first_rows: Sequence[int],
        n_rows: Sequence[int],
        batch_size: int,
        *,
        seed: int,
        keys: Sequence[MemberKey],
    ) -> None:
        """Member m draws from rows `first_rows[m] : first_rows[m] + n_rows[m]`."""
        self._ranges = list(zip(first_rows, n_rows, strict=True))
        self._batch_size = batch_size
        self._seed = seed
        self._keys = list(keys)
        self._block = -1
        self._rows = torch.empty(0)

    @classmethod
    def shared(
        cls, n: int, batch_size: int, *, seed: int, keys: Sequence[MemberKey]
    ) -> BatchSampler:
        """Every member draws from the same n rows."""
        return cls([0] * len(keys), [n] * len(keys), batch_size, seed=seed, keys=keys)

    def __call__(self, step: int) -> Tensor:
        """Row numbers, (M, B) int64."""
        block, within = divmod(step, STEPS_PER_BLOCK)
        if block != self._block:
            shape = (STEPS_PER_BLOCK, self._batch_size)
            draws = [
                numpy_rng(self._seed, *key, "batches", block).integers(first, first + n, shape)
                for key, (first, n) in zip(self._keys, self._ranges, strict=True)
            ]
            self._rows = torch.from_numpy(np.stack(draws, axis=1))
            self._block = block
        return self._rows[within]


def gather(table: Tensor, rows: Tensor) -> Tensor:
    """Rows of a table (N, D) at (M, B): (M, B, D)."""
    return table.index_select(0, rows.reshape(-1)).view(*rows.shape, -1)


def hold_out_episodes(
    trajectories: Trajectories, share: float, *, seed: int, key: str
) -> tuple[IntArray, IntArray]:
    """Episode indices to train on and to hold out: whole episodes, since steps are correlated.

    Returns:
        (train, held out), each sorted. One episode is held out at least, unless there is only
        one, which then serves as both.
    """
    n = trajectories.n_episodes
    if n == 1:
        return np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    order = numpy_rng(seed, key, "held-out").permutation(n)
    held = min(n - 1, max(1, round(share * n)))
    return np.sort(order[held:]), np.sort(order[:held])


def steps_of(trajectories: Trajectories, episodes: IntArray) -> IntArray:
    """Step numbers of these episodes, in order."""
    return ranges(trajectories.offsets[episodes], trajectories.lengths[episodes])


def action_bounds(trajectories: Trajectories) -> tuple[Float32Array, Float32Array]:
    """Lowest and highest action (A,): the environment's, or the data's where that has none.

    Some spaces say "unbounded" by the largest floats, whose range is none.
    """
    low = trajectories.actions.min(axis=0).astype(np.float32)
    high = trajectories.actions.max(axis=0).astype(np.float32)
    environment = trajectories.environment
    if environment is not None and environment.action_low:
        space_low = np.asarray(environment.action_low, dtype=np.float32)
        space_high = np.asarray(environment.action_high, dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            ranged = np.isfinite(space_high - space_low)
        bounded_low, bounded_high = np.isfinite(space_low), np.isfinite(space_high)
        none = bounded_low & bounded_high & ~ranged
        low = np.where(bounded_low & ~none, space_low, low)
        high = np.where(bounded_high & ~none, space_high, high)
    return low, high
