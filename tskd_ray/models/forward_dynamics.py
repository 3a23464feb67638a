"""State-only forward dynamics p_m(s' | s): a Gaussian ensemble for criterion 9 (eq. 8).

M members · N rows · S observation dim
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from tskd_ray.config.schema import FitConfig
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.models.batches import BatchSampler, gather, hold_out_episodes, steps_of
from tskd_ray.models.fit import fit
from tskd_ray.models.mlp import BatchedMLP, predict
from tskd_ray.models.saved import SavedModel
from tskd_ray.models.standardizer import Standardizer
from tskd_ray.progress import Progress, silent
from tskd_ray.types import Float64Array, FloatArray

KIND = "forward_dynamics"
HIDDEN = (300, 300, 300)
HELD_OUT = 0.05
LOG_STD_RANGE = (-5.0, 1.5)
"""Of a standardised difference. Without a floor, near-deterministic dimensions overflow."""


class Gaussian(NamedTuple):
    """Diagonal Gaussians over the next state, raw units."""

    mean: Float64Array  # (M, N, S)
    log_std: Float64Array  # (M, N, S)


@dataclass(frozen=True, eq=False)
class ForwardDynamics(SavedModel):
    """The members of highest held-out likelihood, each predicting the standardised s' − s."""

    kind = KIND

    network: BatchedMLP
    state: Standardizer
    step: Standardizer
    metrics_: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def fit(
        cls,
        trajectories: Trajectories,
        settings: FitConfig,
        seed: int,
        *,
        members: int = 7,
        best: int = 3,
        resume: Path | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Maximise the likelihood of all members at once, then keep the `best` of them.

        What no step changes counts in neither, as in `gaussian`.

        `metrics_` has the learning curve, `held_out_nll` of every member (nats per step, of the
        standardised difference) and which were kept.
        """
        keys = [(KIND, member) for member in range(members)]
        from_NS = trajectories.observations[trajectories.step_state]
        difference_NS = trajectories.observations[trajectories.step_state + 1] - from_NS
        train, held = hold_out_episodes(trajectories, HELD_OUT, seed=seed, key=KIND)
        rows, held_rows = steps_of(trajectories, train), steps_of(trajectories, held)
        state = Standardizer.fit(from_NS[rows])
        step = Standardizer.fit(difference_NS[rows], constant=0.0)
        x = torch.from_numpy(state.normalize(from_NS[rows]))
        y = torch.from_numpy(step.normalize(difference_NS[rows]))
        moves = _moving(step)
        network = BatchedMLP(x.shape[1], 2 * y.shape[1], HIDDEN, seed=seed, keys=keys)
        batches = BatchSampler.shared(len(rows), settings.batch_size, seed=seed, keys=keys)

        def loss(number: int) -> Tensor:
            batch = batches(number)
            mean, log_std = _split(network(gather(x, batch)))
            # Summed over members: each sees the gradient that it would see alone.
            return _nll(mean, log_std, gather(y, batch), moves).mean(dim=1).sum()

        curve = fit(network, loss, settings, resume=resume, progress=progress)
        with torch.no_grad():
            held_y = torch.from_numpy(step.normalize(difference_NS[held_rows]))
            outputs = torch.from_numpy(predict(network, state.normalize(from_NS[held_rows])))
            nll = _nll(*_split(outputs), held_y, moves).double().mean(dim=1).numpy()
        kept = np.sort(np.argsort(nll, kind="stable")[:best]).tolist()
        metrics = {"curve": curve, "held_out_nll": nll.tolist(), "members_kept": kept}
        return cls(network.members(kept), state, step, metrics)

    def gaussian(self, s: FloatArray) -> Gaussian:
        """Mean and log sd of the next state for states (N, S), raw units.

        What no recorded step changes, such as a goal, stays, and all members are equally sure
        of it: eq. 9 compares the worst member with their mean, and would otherwise be decided
        by how near each has come to predicting nothing.
        """
        outputs = torch.from_numpy(predict(self.network, self.state.normalize(s)))
        mean, log_std = (part.numpy() for part in _split(outputs))
        moves = self.step.std_ > 0
        scaled = log_std.astype(np.float64) + np.log(np.where(moves, self.step.std_, 1.0))
        return Gaussian(
            s.astype(np.float64) + self.step.unnormalize(mean),
            np.where(moves, scaled, LOG_STD_RANGE[0]),
        )

    def log_density(self, s: FloatArray, s2: FloatArray) -> Float64Array:
        """Log-densities log p_m(s2 | s), (M, N), for rows (N, S) in raw units (D13)."""
        return gaussian_log_density(self.gaussian(s), s2)


def gaussian_log_density(gaussian: Gaussian, x: FloatArray) -> Float64Array:
    """Log-density (M, N) of rows x (N, S) under diagonal Gaussians."""
    scaled = (x - gaussian.mean) * np.exp(-gaussian.log_std)
    per_dimension = 0.5 * np.square(scaled) + gaussian.log_std + 0.5 * math.log(2 * math.pi)
    return -per_dimension.sum(axis=-1)


def _split(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and softly bounded log sd, (…, S) each, of network outputs (…, 2S)."""
    mean, log_std = outputs.chunk(2, dim=-1)
    low, high = LOG_STD_RANGE
    log_std = high - softplus(high - log_std)
    return mean, low + softplus(log_std - low)


def _moving(step: Standardizer) -> Tensor | slice:
    """The dimensions that some step changes; a slice where all are, which copies nothing."""
    moves = np.flatnonzero(step.std_ > 0)
    return slice(None) if len(moves) == len(step.std_) else torch.from_numpy(moves)


def _nll(mean: Tensor, log_std: Tensor, y: Tensor, dimensions: Tensor | slice) -> Tensor:
    """Negative log-likelihood (M, B) in nats, summed over these dimensions."""
    mean, log_std, y = (part[..., dimensions] for part in (mean, log_std, y))
    scaled = (y - mean) * torch.exp(-log_std)
    return (0.5 * scaled.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(dim=-1)
