"""`HopProblem`: all that the decisions of one stitching epoch look at, frozen as arrays.

S states · N transitions · F candidate states · M ensemble members · d dims

Transition t leaves state `source[t]` = s and arrives at the next one, s'. A problem can be
saved as a folder of .npy files, which the workers of a node map into memory and share.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, get_args, runtime_checkable

import numpy as np

from tskd_ray.data.trajectories import Trajectories
from tskd_ray.errors import ConfigError, DataError, StorageError
from tskd_ray.stitching.cells import Cells, build_cells, default_cells
from tskd_ray.types import Float64Array, FloatArray, IntArray

if TYPE_CHECKING:
    from tskd_ray.stitching.index import FlatIndex

Candidate = Literal["dynamics_first", "best_value_first"]
Metric = Literal["raw", "standardized"]
Search = Literal["auto", "cells", "faiss-flat"]

BLOCK = 16_384
"""Rows per call of a model. Part of the result: batch size moves a network's last bits."""

_FORMAT = 1
_ARRAYS = ("states", "points", "rank", "of_rank", "threshold", "source", "mean", "log_std")


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


@dataclass(frozen=True, kw_only=True, eq=False)
class HopProblem:
    """The frozen snapshot D' of one epoch (D15), as arrays."""

    states: FloatArray  # (S, d) raw
    points: FloatArray  # (S, d) coordinates in the metric of the radius (D19)
    rank: IntArray  # (S,) place by value, best first, ties by number (D17); S if no candidate
    of_rank: IntArray  # (F,) the state of each rank
    threshold: IntArray  # (N,) ranks below it are of strictly better states than s'
    source: IntArray  # (N,) state number s that the transition leaves; s' is the next
    mean: FloatArray | None = None  # (M, N, d) of a Gaussian ensemble at s
    log_std: FloatArray | None = None  # (M, N, d)
    log_density: LogDensity | None = None  # instead of mean and log_std; cannot be saved
    cells: Cells | None = None  # None: search by FAISS
    radius: float
    candidate: Candidate = "dynamics_first"
    metric: Metric = "raw"

    @property
    def n_transitions(self) -> int:
        return len(self.source)

    @property
    def search(self) -> Search:
        return "faiss-flat" if self.cells is None else "cells"

    @cached_property
    def limit(self) -> float:
        """Largest float64 squared distance d² with √d² <= radius, so that squares decide."""
        limit = self.radius * self.radius
        while np.sqrt(np.nextafter(limit, np.inf)) <= self.radius:
            limit = float(np.nextafter(limit, np.inf))
        return limit

    @cached_property
    def flat_index(self) -> FlatIndex:
        """FAISS index of the candidates, whose numbers there are their ranks."""
        from tskd_ray.stitching.index import FlatIndex

        return FlatIndex(self.points[self.of_rank])

    def save(self, folder: Path) -> None:
        """Write the problem as .npy files and one JSON file into `folder`.

        Raises:
            ConfigError: If the densities come from a callable, which no other process can call.
        """
        if self.log_density is not None:
            raise ConfigError(
                "Only a problem with a Gaussian ensemble can be saved for workers. Got a "
                "log_density callable. Pass an object with gaussian(S) or mean/log_std."
            )
        folder.mkdir(parents=True, exist_ok=True)
        for name in _ARRAYS:
            array = getattr(self, name)
            if array is not None:
                np.save(folder / f"{name}.npy", array)
        if self.cells is not None:
            for name, array in self.cells._asdict().items():
                np.save(folder / f"cells_{name}.npy", array)
        settings = {
            "format": _FORMAT,
            "radius": self.radius,
            "candidate": self.candidate,
            "metric": self.metric,
            "gaussian": self.mean is not None,
            "cells": self.cells is not None,
        }
        (folder / "problem.json").write_text(json.dumps(settings, indent=1))

    @classmethod
    def open(cls, folder: Path) -> HopProblem:
        """Map a saved problem into memory, read-only and shared between processes.

        Raises:
            StorageError: If the folder holds no complete problem of this format.
        """
        try:
            settings = json.loads((folder / "problem.json").read_text())
            if settings["format"] != _FORMAT:
                raise ValueError(f"format {settings['format']}, want {_FORMAT}")
            names = [
                name for name in _ARRAYS if settings["gaussian"] or name not in _ARRAYS[-2:]
            ]
            arrays = {name: _mapped(folder / f"{name}.npy") for name in names}
            cells = None
            if settings["cells"]:
                parts = {name: _mapped(folder / f"cells_{name}.npy") for name in Cells._fields}
                cells = Cells(**parts)
        except (OSError, ValueError, KeyError) as error:
            raise StorageError(
                f"A saved hop problem is a folder of .npy files and problem.json. {folder} is "
                f"not readable as one ({error}). Make it again."
            ) from error
        return cls(
            **arrays,
            cells=cells,
            radius=settings["radius"],
            candidate=settings["candidate"],
            metric=settings["metric"],
        )


def hop_problem(
    trajectories: Trajectories,
    *,
    value: Callable[[FloatArray], FloatArray],
    log_density: LogDensity | GaussianModel | GaussianArrays,
    radius: float,
    candidate: Candidate = "dynamics_first",
    metric: Metric = "raw",
    search: Search = "auto",
    n_cells: int | None = None,
) -> HopProblem:
    """Evaluate the models on D' once and build the search structure.

    Args:
        trajectories: D', recorded episodes first, then generated ones.
        value: V of states (n, S) -> (n,); called once per state.
        log_density: A Gaussian ensemble (fast, can be saved) or any callable (S, S2) -> (M, n).
        radius: ρ, inclusive, in the units of `metric`; see `suggest_radius`.
        candidate: Order of the tests (D18).
        metric: "raw" (eq. 11), or "standardized": each dimension divided by its deviation
            over the states of D' (D19).
        search: Backend; all are exact and agree. "auto" is "cells".
        n_cells: Of the cell search; default about 4·√F.

    Raises:
        ConfigError: If an option has no such value, or the radius is negative or not finite.
        DataError: If a model returns another shape than it must.

    Reference: docs/algorithm.md, D13 to D19.
    """
    _check_option("candidate", candidate, Candidate)
    _check_option("metric", metric, Metric)
    _check_option("search", search, Search)
    if not 0 <= radius < np.inf:
        raise ConfigError(
            f"radius must be a finite number, at least 0. Got {radius}. "
            "Choose one with suggest_radius."
        )
    states = trajectories.observations
    finite = np.isfinite(states).all(axis=1)
    points = np.ascontiguousarray(states)
    if metric == "standardized":
        points = points / deviations(states[finite])
    values = _values(trajectories, value)
    rank, of_rank, better = _ranks(values, finite)
    source = trajectories.step_state
    threshold = better[source + 1]
    mean, log_std, call = _densities(trajectories, log_density)
    cells = None
    if search != "faiss-flat" and len(of_rank):
        cells = _cells(points[of_rank], n_cells)
    return HopProblem(
        states=np.ascontiguousarray(states),
        points=points,
        rank=rank,
        of_rank=of_rank,
        threshold=threshold,
        source=source,
        mean=mean,
        log_std=log_std,
        log_density=call,
        cells=cells,
        radius=float(radius),
        candidate=candidate,
        metric=metric,
    )


def in_blocks(function: Callable[..., FloatArray], *columns: FloatArray) -> FloatArray:
    """`function` of rows, called on blocks of `BLOCK` rows; results joined along the rows."""
    n = len(columns[0])
    parts = [
        np.asarray(function(*(column[i : i + BLOCK] for column in columns)))
        for i in range(0, n, BLOCK)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def _values(
    trajectories: Trajectories, value: Callable[[FloatArray], FloatArray]
) -> Float64Array:
    """V of all states; 0 at terminal ones, which TD never trains (D16)."""
    values = in_blocks(value, trajectories.observations)
    if values.shape != (trajectories.n_states,):
        raise DataError(
            "value must return one number per state, shaped (n,). Got "
            f"{values.shape} in all for {trajectories.n_states} states."
        )
    values = values.astype(np.float64)
    values[trajectories.final_states[trajectories.terminated]] = 0.0
    return values


def _ranks(values: Float64Array, finite: Any) -> tuple[IntArray, IntArray, IntArray]:
    """Rank of each state, state of each rank, and how many candidates are strictly better."""
    candidates = np.flatnonzero(finite & ~np.isnan(values))
    of_rank = candidates[np.argsort(-values[candidates], kind="stable")]
    rank = np.full(len(values), len(values), dtype=np.int64)
    rank[of_rank] = np.arange(len(of_rank))
    better = np.searchsorted(-values[of_rank], -values, side="left").astype(np.int64)
    better[rank == len(values)] = 0  # nothing is better than NaN, or near an unknown place
    return rank, of_rank.astype(np.int64), better


def deviations(states: FloatArray) -> Float64Array:
    """Standard deviation of each dimension; 1 where it is constant."""
    if not len(states):
        return np.ones(states.shape[1])
    deviations = states.astype(np.float64).std(axis=0)
    return np.where(deviations > 0, deviations, 1.0)


def _cells(points: FloatArray, n_cells: int | None) -> Cells:
    n = min(n_cells or default_cells(len(points)), len(points))
    if n == 1:
        return build_cells(points, np.zeros(len(points), dtype=np.int64))
    from tskd_ray.stitching.index import assign_cells

    return build_cells(points, assign_cells(points, n))


def _densities(
    trajectories: Trajectories, log_density: LogDensity | GaussianModel | GaussianArrays
) -> tuple[FloatArray | None, FloatArray | None, LogDensity | None]:
    """Mean, log deviation and callable: either the first two or the last is given."""
    if isinstance(log_density, GaussianArrays):
        mean, log_std = np.asarray(log_density.mean), np.asarray(log_density.log_std)
    elif isinstance(log_density, GaussianModel):
        sources = trajectories.observations[trajectories.step_state]
        blocks = [
            log_density.gaussian(sources[i : i + BLOCK]) for i in range(0, len(sources), BLOCK)
        ]
        mean = np.concatenate([np.asarray(block[0]) for block in blocks], axis=1)
        log_std = np.concatenate([np.asarray(block[1]) for block in blocks], axis=1)
    elif callable(log_density):
        return None, None, log_density
    else:
        raise ConfigError(
            "log_density must be a callable (S, S2) -> (M, n), an object with gaussian(S), or "
            f"one with mean and log_std. Got {type(log_density).__name__}."
        )
    shape = (trajectories.n_steps, trajectories.observation_dim)
    if (
        mean.ndim != 3
        or mean.shape[0] < 1
        or mean.shape[1:] != shape
        or log_std.shape != mean.shape
    ):
        raise DataError(
            "mean and log_std of the dynamics must be shaped (members, steps, state dims), "
            f"here (M, {shape[0]}, {shape[1]}). Got {mean.shape} and {log_std.shape}."
        )
    return mean, log_std, None


def _check_option(name: str, got: str, options: Any) -> None:
    if got not in get_args(options):
        raise ConfigError(f"{name} must be one of {', '.join(get_args(options))}. Got {got!r}.")


def _mapped(path: Path) -> Any:
    return cast(Any, np.asarray(np.load(path, mmap_mode="r")))
