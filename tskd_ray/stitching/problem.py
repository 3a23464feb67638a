"""`HopProblem`: all that the decisions of one stitching epoch look at, frozen as arrays.

S states · N transitions · F candidate states · d dims

Transition t leaves state `source[t]` = s and arrives at the next one, s'. A problem can be
saved as a folder of .npy files, which the workers of a node map into memory and share.

Candidates are states near s'. MBTS has a second kind: what follows a state near s. Each state
then has the place of the one before it, so that s', too, stands where s is, and the same
searches find them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from tskd_ray.data.trajectories import Trajectories
from tskd_ray.errors import ConfigError, DataError, StorageError
from tskd_ray.stitching.backends import open_shard, save_shard
from tskd_ray.stitching.choose import Choice, build_shards
from tskd_ray.stitching.densities import (
    GaussianArrays,
    GaussianModel,
    Gaussians,
    LogDensity,
    gaussians_of,
    open_gaussians,
)
from tskd_ray.stitching.points import Points, deviations
from tskd_ray.stitching.shards import Shard, mapped
from tskd_ray.types import BoolArray, Float64Array, FloatArray, IntArray

Candidate = Literal["dynamics_first", "best_value_first"]
Metric = Literal["raw", "standardized"]
Search = Literal["auto", "cells", "blocks", "faiss-flat", "faiss-ivf"]
Near = Literal["arrival", "departure"]

BLOCK = 16_384
"""Rows per call of a model. Part of the result: batch size moves a network's last bits."""

_FORMAT = 5
_ARRAYS = ("states", "scale", "rank", "of_rank", "threshold", "source")
_PLACES = "places.npy"


@dataclass(frozen=True, kw_only=True, eq=False)
class HopProblem:
    """The frozen snapshot D' of one epoch (D15), as arrays."""

    states: FloatArray  # (S, d) raw
    scale: Float64Array  # (d,) of the metric: raw states are points times this (D19)
    rank: IntArray  # (S,) place by value, best first, ties by number (D17); S if no candidate
    of_rank: IntArray  # (F,) the state of each rank
    threshold: IntArray  # (N,) ranks below it are of strictly better states than s'
    source: IntArray  # (N,) state number s that the transition leaves; s' is the next
    gaussians: Gaussians | None = None  # of the ensemble at s
    log_density: LogDensity | None = None  # instead of Gaussians; cannot be saved
    shards: tuple[Shard, ...]  # of the candidates, best ranks first
    radius: float
    candidate: Candidate = "dynamics_first"
    metric: Metric = "raw"
    choice: Choice | None = None  # how search "auto" chose, if it did; not saved
    own_places: FloatArray | None = None  # (S, d) raw; None: where the states are

    @property
    def n_transitions(self) -> int:
        return len(self.source)

    @property
    def nothing(self) -> int:
        """Stands for a rank where there is none: above all of them."""
        return len(self.rank)

    @property
    def places(self) -> FloatArray:
        """Where distances take each state to be, (S, d) raw."""
        return self.states if self.own_places is None else self.own_places

    @cached_property
    def points(self) -> Points:
        """Places of all states in the metric of the radius, (S, d)."""
        return Points(self.places, None if self.metric == "raw" else self.scale)

    @cached_property
    def limit(self) -> float:
        """Largest float64 squared distance d² with √d² <= radius, so that squares decide."""
        limit = self.radius * self.radius
        while np.sqrt(np.nextafter(limit, np.inf)) <= self.radius:
            limit = float(np.nextafter(limit, np.inf))
        return limit

    def save(self, folder: Path) -> None:
        """Write the problem as .npy files and JSON into `folder`, shards in folders of theirs.

        Raises:
            ConfigError: If the densities come from a callable, which no other process can call.
        """
        self.save_arrays(folder)
        for number, shard in enumerate(self.shards):
            save_shard(shard, folder / f"shard-{number}")

    def save_arrays(self, folder: Path) -> None:
        """`save` without the shards."""
        if self.gaussians is None:
            raise ConfigError(
                "Only a problem with a Gaussian ensemble can be saved for workers. Got a "
                "log_density callable. Pass an object with gaussian(S) or mean/log_std."
            )
        folder.mkdir(parents=True, exist_ok=True)
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))
        if self.own_places is not None:
            np.save(folder / _PLACES, self.own_places)
        self.gaussians.save(folder)
        settings = {
            "format": _FORMAT,
            "radius": self.radius,
            "candidate": self.candidate,
            "metric": self.metric,
        }
        (folder / "problem.json").write_text(json.dumps(settings, indent=1))

    @classmethod
    def open(cls, folder: Path, *, device: str = "cpu") -> HopProblem:
        """Map a saved problem into memory, read-only and shared between processes.

        Args:
            folder: Written by `save`.
            device: As of `hop_problem`.

        Raises:
            StorageError: If the folder holds no complete problem of this format.
        """
        try:
            settings = json.loads((folder / "problem.json").read_text())
            if settings["format"] != _FORMAT:
                raise ValueError(f"format {settings['format']}, want {_FORMAT}")
            arrays = {name: mapped(folder / f"{name}.npy") for name in _ARRAYS}
            places = folder / _PLACES
            own_places = mapped(places) if places.is_file() else None
            gaussians = open_gaussians(folder, arrays["states"], arrays["source"])
            n_shards = len(list(folder.glob("shard-*")))
            shards = tuple(
                open_shard(folder / f"shard-{i}", device=device) for i in range(n_shards)
            )
        except (OSError, ValueError, KeyError, DataError) as error:
            raise StorageError(
                f"A saved hop problem is a folder of .npy files and problem.json. {folder} is "
                f"not readable as one ({error}). Make it again."
            ) from error
        return cls(
            **arrays,
            own_places=own_places,
            gaussians=gaussians,
            shards=shards,
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
    near: Near = "arrival",
    shard_states: int | None = None,
    device: str = "cpu",
    folder: Path | None = None,
) -> HopProblem:
    """Evaluate V on D' once and build the search structure.

    Args:
        trajectories: D', recorded episodes first, then generated ones.
        value: V of states (n, S) -> (n,); called once per state.
        log_density: A Gaussian ensemble (fast, can be saved) or any callable (S, S2) -> (M, n).
        radius: ρ, inclusive, in the units of `metric`; see `suggest_radius`.
        candidate: Order of the tests (D18).
        metric: "raw" (eq. 11), or "standardized": each dimension divided by its deviation
            over the states of D' (D19).
        search: Backend. All are exact and agree, but for "faiss-ivf", which misses some.
            "auto" is "cells" or "blocks", whichever is faster on a sample.
        near: Candidates are the states near s' ("arrival"), or the states that follow one near
            s ("departure").
        shard_states: Candidates per shard at most; default: one shard.
        device: Of torch, where "blocks" computes distances.
        folder: Save the problem there while it is built, one shard in memory at a time, and
            return it mapped.

    Raises:
        ConfigError: If an option has no such value, or the radius is negative or not finite.
        DataError: If a model returns another shape than it must.

    Reference: docs/algorithm.md, D13 to D19.
    """
    _check_option("candidate", candidate, Candidate)
    _check_option("metric", metric, Metric)
    _check_option("search", search, Search)
    _check_option("near", near, Near)
    if not 0 <= radius < np.inf:
        raise ConfigError(
            f"radius must be a finite number, at least 0. Got {radius}. "
            "Choose one with suggest_radius."
        )
    gaussians = gaussians_of(trajectories, log_density)
    states = np.ascontiguousarray(trajectories.observations)
    eligible = np.asarray(np.isfinite(states).all(axis=1))
    source = trajectories.step_state
    own_places = None
    if near == "departure":
        eligible, own_places = _places_before(states, eligible, source)
    raw = metric == "raw"
    values = state_values(trajectories, value)
    rank, of_rank, better = _ranks(values, eligible)
    problem = HopProblem(
        states=states,
        scale=np.ones(states.shape[1]) if raw else deviations(states),
        rank=rank,
        of_rank=of_rank,
        threshold=better[source + 1],
        source=source,
        gaussians=gaussians,
        log_density=None if gaussians is not None else cast(LogDensity, log_density),
        shards=(),
        radius=float(radius),
        candidate=candidate,
        metric=metric,
        own_places=own_places,
    )
    size = shard_states or max(1, len(of_rank))
    built, choice = build_shards(problem, search, size, device=device)
    if folder is None:
        return replace(problem, shards=tuple(built), choice=choice)
    problem.save_arrays(folder)
    for number, shard in enumerate(built):
        save_shard(shard, folder / f"shard-{number}")
    return replace(HopProblem.open(folder, device=device), choice=choice)


def _places_before(
    states: FloatArray, finite: BoolArray, source: IntArray
) -> tuple[BoolArray, FloatArray]:
    """Which states follow a known one, (S,), and where that is, (S, d)."""
    follows = np.zeros(len(states), dtype=np.bool_)
    follows[source + 1] = finite[source] & finite[source + 1]
    places = np.full_like(states, np.nan)  # nothing is near an unknown place
    places[follows] = states[np.flatnonzero(follows) - 1]
    return follows, places


def in_blocks(function: Callable[..., FloatArray], *columns: FloatArray) -> FloatArray:
    """`function` of rows, called on blocks of `BLOCK` rows; results joined along the rows."""
    n = len(columns[0])
    parts = [
        np.asarray(function(*(column[i : i + BLOCK] for column in columns)))
        for i in range(0, n, BLOCK)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def state_values(
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


def _ranks(values: Float64Array, eligible: BoolArray) -> tuple[IntArray, IntArray, IntArray]:
    """Rank of each state, state of each rank, and how many candidates are strictly better."""
    candidates = np.flatnonzero(eligible & ~np.isnan(values))
    of_rank = candidates[np.argsort(-values[candidates], kind="stable")]
    rank = np.full(len(values), len(values), dtype=np.int64)
    rank[of_rank] = np.arange(len(of_rank))
    better = np.searchsorted(-values[of_rank], -values, side="left").astype(np.int64)
    better[rank == len(values)] = 0  # nothing is better than NaN, or near an unknown place
    return rank, of_rank.astype(np.int64), better


def _check_option(name: str, got: str, options: Any) -> None:
    if got not in get_args(options):
        raise ConfigError(f"{name} must be one of {', '.join(get_args(options))}. Got {got!r}.")
