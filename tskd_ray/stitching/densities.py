"""What eq. 9 asks of the ensemble: its Gaussians at the source states of transitions.

N transitions · M ensemble members · d dims

At ten million transitions the Gaussians are larger than all else together, so a model is asked
where it is needed: by the worker that decides a transition, in blocks of fixed rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from tskd_ray.data.trajectories import Trajectories
from tskd_ray.errors import ConfigError, DataError
from tskd_ray.types import Float64Array, FloatArray, IntArray

if TYPE_CHECKING:
    from tskd_ray.models.forward_dynamics import ForwardDynamics

ROWS = 128
"""Consecutive transitions per call of a model, always whole blocks: a row's last bits must not
depend on which transitions are asked for together."""

_MODEL, _MEAN, _LOG_STD = "dynamics", "mean.npy", "log_std.npy"


class LogDensity(Protocol):
    """How likely each ensemble member finds a next state."""

    def __call__(self, states: FloatArray, next_states: FloatArray, /) -> FloatArray:
        """Log p_m(s' | s), (M, n), for n pairs of rows (n, d)."""
        raise NotImplementedError


@runtime_checkable
class GaussianModel(Protocol):
    """A Gaussian ensemble that predicts the next state."""

    def gaussian(self, states: FloatArray, /) -> tuple[FloatArray, FloatArray]:
        """Mean and log standard deviation, (M, n, d) each, in raw state units."""
        raise NotImplementedError


@runtime_checkable
class GaussianArrays(Protocol):
    """The same, already evaluated at the source state of every step, in step order."""

    @property
    def mean(self) -> FloatArray:
        """(M, N, d), raw state units."""
        raise NotImplementedError

    @property
    def log_std(self) -> FloatArray:
        """(M, N, d)."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class TableOfGaussians:
    """Gaussians that somebody has evaluated."""

    mean: FloatArray  # (M, N, d)
    log_std: FloatArray  # (M, N, d)

    def at(self, transitions: IntArray) -> tuple[Float64Array, Float64Array]:
        """Mean and log deviation, (M, n, d) each, of the transitions' numbers."""
        return (
            np.ascontiguousarray(self.mean[:, transitions], dtype=np.float64),
            np.ascontiguousarray(self.log_std[:, transitions], dtype=np.float64),
        )

    def save(self, folder: Path) -> None:
        """Write both arrays."""
        np.save(folder / _MEAN, self.mean)
        np.save(folder / _LOG_STD, self.log_std)


@dataclass(frozen=True, eq=False)
class GaussiansOnDemand:
    """A model, asked block by block."""

    model: GaussianModel
    states: FloatArray  # (S, d) raw
    source: IntArray  # (N,) state number that each transition leaves

    def at(self, transitions: IntArray) -> tuple[Float64Array, Float64Array]:
        """Mean and log deviation, (M, n, d) each; equal whatever else is asked for."""
        if not len(transitions):
            empty = np.zeros((1, 0, self.states.shape[1]))
            return empty, empty
        order = np.argsort(transitions, kind="stable")
        block = transitions[order] // ROWS
        bounds = np.flatnonzero(np.diff(block)) + 1
        mean: Any = None
        log_std: Any = None
        for rows in np.split(order, bounds):
            first = int(transitions[rows[0]]) // ROWS * ROWS
            within = transitions[rows] - first
            block_mean, block_log_std = self._block(first)
            if mean is None:
                mean = np.empty((len(block_mean), len(transitions), self.states.shape[1]))
                log_std = np.empty_like(mean)
            mean[:, rows] = block_mean[:, within]
            log_std[:, rows] = block_log_std[:, within]
        return mean, log_std

    def _block(self, first: int) -> tuple[FloatArray, FloatArray]:
        sources = np.asarray(self.states[self.source[first : first + ROWS]])
        mean, log_std = (np.asarray(part) for part in self.model.gaussian(sources))
        check_gaussians(mean, log_std, len(sources), self.states.shape[1])
        return mean, log_std

    def save(self, folder: Path) -> None:
        """Write the model if it is ours, else its Gaussians at every transition."""
        from tskd_ray.models.forward_dynamics import ForwardDynamics

        if isinstance(self.model, ForwardDynamics):
            self.model.save(folder / _MODEL)
        elif len(self.source):
            TableOfGaussians(*self.at(np.arange(len(self.source)))).save(folder)


Gaussians = TableOfGaussians | GaussiansOnDemand


def gaussians_of(
    trajectories: Trajectories, density: LogDensity | GaussianModel | GaussianArrays
) -> Gaussians | None:
    """The Gaussians of a density, or None if it is a callable.

    Raises:
        ConfigError: If it is none of the three.
        DataError: If arrays have another shape than (M, N, d).
    """
    if isinstance(density, GaussianArrays):
        mean, log_std = np.asarray(density.mean), np.asarray(density.log_std)
        check_gaussians(mean, log_std, trajectories.n_steps, trajectories.observation_dim)
        return TableOfGaussians(mean, log_std)
    if isinstance(density, GaussianModel):
        return GaussiansOnDemand(density, trajectories.observations, trajectories.step_state)
    if callable(density):
        return None
    raise ConfigError(
        "log_density must be a callable (S, S2) -> (M, n), an object with gaussian(S), or "
        f"one with mean and log_std. Got {type(density).__name__}."
    )


def open_gaussians(folder: Path, states: FloatArray, source: IntArray) -> Gaussians | None:
    """What `save` wrote, mapped; None if there is nothing."""
    if (folder / _MODEL).is_dir():
        return GaussiansOnDemand(_load(folder / _MODEL), states, source)
    if not (folder / _MEAN).is_file():
        return None
    mean, log_std = (np.load(folder / name, mmap_mode="r") for name in (_MEAN, _LOG_STD))
    return TableOfGaussians(np.asarray(mean), np.asarray(log_std))


def _load(folder: Path) -> ForwardDynamics:
    from tskd_ray.models.forward_dynamics import ForwardDynamics

    return ForwardDynamics.load(folder)


def check_gaussians(mean: FloatArray, log_std: FloatArray, n: int, d: int) -> None:
    """Refuse other shapes than (M, n, d), both the same.

    Raises:
        DataError: That.
    """
    if (
        mean.ndim != 3
        or mean.shape[0] < 1
        or mean.shape[1:] != (n, d)
        or log_std.shape != mean.shape
    ):
        raise DataError(
            "mean and log_std of the dynamics must be shaped (members, steps, state dims), "
            f"here (M, {n}, {d}). Got {mean.shape} and {log_std.shape}."
        )
