"""Random stitching problems that are full of trouble: ties, duplicates, NaN, cycles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tskd_ray.data.trajectories import Trajectories


class GaussianTable:
    """A Gaussian ensemble as arrays, and the same as a callable on exactly those states."""

    def __init__(
        self, rng: np.random.Generator, trajectories: Trajectories, members: int
    ) -> None:
        d = trajectories.observation_dim
        self.shift = rng.integers(-1, 2, (members, 1, d)) * rng.choice([0.0, 0.5, 1.0])
        self.spread = rng.choice([-1.0, 0.0, 0.5], (members, 1, d))

    def gaussian(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = states[None].astype(np.float64) + self.shift
        return mean, np.broadcast_to(self.spread, mean.shape).copy()

    def __call__(self, states: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        """log N by the text book, one dimension after the other."""
        mean, log_std = self.gaussian(states)
        total, norm = np.zeros(mean.shape[:2]), np.zeros(mean.shape[:2])
        for k in range(mean.shape[2]):
            total += ((next_states[:, k] - mean[:, :, k]) * np.exp(-log_std[:, :, k])) ** 2
            norm -= log_std[:, :, k]
        return norm - 0.5 * total


class HashedDensity:
    """Log densities from a small set of values, so that equality, ±inf and NaN are common."""

    def __init__(self, rng: np.random.Generator, members: int) -> None:
        levels = np.array([-2.0, -1.0, 0.0, 800.0, -np.inf, np.inf, np.nan])
        chances = np.array([0.3, 0.3, 0.3, 0.02, 0.04, 0.01, 0.03])
        self.table = rng.choice(levels, (members, 257), p=chances)
        self.salt = rng.integers(1, 1000, 2)

    def __call__(self, states: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        return self.table[:, _hashed(states, next_states, self.salt)]


def _hashed(a: np.ndarray, b: np.ndarray, salt: np.ndarray) -> np.ndarray:
    def code(x: np.ndarray, salt: int) -> np.ndarray:
        weights = salt * 7 ** np.arange(x.shape[1])
        whole = np.nan_to_num(x.astype(np.float64) * 4, nan=99, posinf=77, neginf=55)
        return (np.round(whole).astype(np.int64) * weights).sum(axis=1)

    return (code(a, int(salt[0])) + 31 * code(b, int(salt[1]))) % 257


class Lookup:
    """A function of states, or of pairs, by a random table."""

    def __init__(self, rng: np.random.Generator, table: np.ndarray) -> None:
        self.table, self.salt = table, rng.integers(1, 1000, 2)

    def __call__(self, states: np.ndarray, next_states: np.ndarray | None = None) -> np.ndarray:
        other = np.zeros_like(states) if next_states is None else next_states
        return self.table[_hashed(states, other, self.salt)]


@dataclass
class Case:
    """A data set D' and the arguments of `stitch_epoch`."""

    trajectories: Trajectories
    options: dict[str, Any]


def random_case(seed: int) -> Case:
    """A small problem; every option and every kind of trouble turns up often over the seeds."""
    rng = np.random.default_rng([7, seed])
    d, e = int(rng.integers(1, 4)), int(rng.integers(1, 9))
    dtype = (np.float32, np.float64)[int(rng.integers(2))]
    spacing = rng.choice([1.0, 0.5, 0.1])
    trouble = rng.random() < 0.4
    smooth = rng.random() < 0.3
    episodes = []
    for _ in range(e):
        length = int(rng.choice([1, 1, 2, 3, 5, 8, 13]))
        steps = rng.integers(-1, 2, (length + 1, d))
        rows = (np.cumsum(steps, axis=0) + rng.integers(-1, 2, d)) * spacing
        if smooth:
            rows = rows + rng.normal(0, 0.05, rows.shape)
        rewards = rng.integers(-2, 4, length).astype(np.float64)
        if trouble and rng.random() < 0.2:
            rows[rng.integers(length + 1), rng.integers(d)] = rng.choice(
                [np.nan, np.inf, -np.inf]
            )
        if trouble and rng.random() < 0.15:
            rewards[rng.integers(length)] = np.nan
        episodes.append({
            "observations": rows.astype(dtype),
            "actions": rng.normal(size=(length, 2)).astype(dtype),
            "rewards": (rewards - (3 if rng.random() < 0.3 else 0)).astype(dtype),
            "terminated": bool(rng.integers(2)),
        })  # fmt: skip
    trajectories = Trajectories.from_episodes(episodes, first_id=int(rng.integers(0, 50)))
    values = rng.integers(-3, 4, 257).astype(np.float64)
    if rng.random() < 0.3:
        values = values + rng.normal(size=257)
    if trouble:
        values[rng.random(257) < 0.1] = np.nan
        values[rng.random(257) < 0.02] = rng.choice([np.inf, -np.inf])
    values[rng.random(257) < 0.05] = -0.0
    rewards = rng.integers(-2, 5, 257).astype(np.float64)
    if trouble:
        rewards[rng.random(257) < 0.03] = np.nan
    members = int(rng.integers(1, 5))
    density = (
        HashedDensity(rng, members)
        if rng.random() < 0.5
        else GaussianTable(rng, trajectories, members)
    )
    options = {
        "value": Lookup(rng, values),
        "log_density": density,
        "action": Lookup(rng, rng.normal(size=(257, 2)).astype(np.float32)),
        "reward": Lookup(rng, rewards),
        "radius": float(rng.choice([0.0, 1.0, np.sqrt(2), 2.0, np.sqrt(5), 9.0]) * spacing),
        "acceptance": float(rng.choice([0.0, 0.1, 0.5])),
        "candidate": str(rng.choice(["dynamics_first", "best_value_first"])),
        "improvement": str(rng.choice(["absolute", "paper"])),
        "on_cycle": str(rng.choice(["stop", "cap"])),
        "max_length": int(rng.choice([1, 3, 10, 40])),
        "keep": int(rng.integers(1, e + 1)),
        "metric": str(rng.choice(["raw", "raw", "standardized"])),
        "whole": bool(rng.random() < 0.3),
    }
    return Case(trajectories, options)
