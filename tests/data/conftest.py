"""Random trajectories that use every column, and an exact comparison of two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from tskd_ray.data.trajectories import EnvironmentSpec, Trajectories

HOPPER = EnvironmentSpec(
    id="Hopper-v5",
    action_low=(-1.0, -1.0, -1.0),
    action_high=(1.0, 1.0, 1.0),
    max_episode_steps=1000,
    observation_dim=11,
)

Make = Callable[..., Trajectories]
Same = Callable[[Trajectories, Trajectories], None]


@pytest.fixture
def make_trajectories() -> Make:
    """Episodes of the given lengths with Hopper's widths, provenance unlike the default."""

    def make(
        lengths: tuple[int, ...] = (5, 2, 9),
        *,
        seed: int = 0,
        dtype: Any = np.float32,
        environment: EnvironmentSpec | None = HOPPER,
    ) -> Trajectories:
        rng = np.random.default_rng(seed)
        episodes = [
            {
                "observations": rng.normal(size=(length + 1, 11)).astype(dtype),
                "actions": rng.uniform(-1, 1, size=(length, 3)).astype(dtype),
                "rewards": rng.normal(size=length).astype(dtype),
                "terminated": bool(number % 2 == 0),
            }
            for number, length in enumerate(lengths)
        ]
        plain = Trajectories.from_episodes(episodes, environment=environment)
        n, e = plain.n_steps, plain.n_episodes
        return replace(
            plain,
            origin=rng.integers(0, 3, n).astype(np.int8),
            source_episode=rng.integers(0, 10**10, n),
            source_step=rng.integers(0, 1000, n),
            episode_id=rng.permutation(10 * e)[:e],
            episode_origin=rng.integers(0, 3, e).astype(np.int8),
        )

    return make


@pytest.fixture
def assert_same() -> Same:
    """Same columns to the last bit, same dtypes, same environment."""

    def check(left: Trajectories, right: Trajectories) -> None:
        for column in fields(Trajectories):
            a, b = getattr(left, column.name), getattr(right, column.name)
            if isinstance(a, np.ndarray):
                assert a.dtype == b.dtype, column.name
                assert a.tobytes() == b.tobytes(), column.name
            else:
                assert a == b

    return check
