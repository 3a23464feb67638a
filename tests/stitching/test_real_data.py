"""A slice of the built-in Hopper data with real, small networks against the literal loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stitching.cases import Case
from stitching.literal import literal_epoch
from stitching.test_epoch import assert_same, stitch
from tskd_ray.config.schema import FitConfig
from tskd_ray.data.load import load_trajectories
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.models.forward_dynamics import ForwardDynamics
from tskd_ray.models.inverse_dynamics import InverseDynamics
from tskd_ray.models.value import TwinValue
from tskd_ray.stitching.epoch import StitchResult
from tskd_ray.stitching.radius import suggest_radius

STEPS = 300


class Stored:
    """A network's outputs per state, since a batch of another size moves the last bits."""

    def __init__(self, states: np.ndarray, *outputs: np.ndarray) -> None:
        self.row = {state.tobytes(): number for number, state in enumerate(states)}
        self.outputs = outputs

    def rows(self, states: np.ndarray) -> list[int]:
        return [self.row[state.tobytes()] for state in states]


class StoredValue(Stored):
    def __call__(self, states: np.ndarray) -> np.ndarray:
        return self.outputs[0][self.rows(states)]


class StoredGaussian(Stored):
    def gaussian(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = self.rows(states)
        return self.outputs[0][:, rows], self.outputs[1][:, rows]

    def __call__(self, states: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        """log N by the text book, one dimension after the other."""
        mean, log_std = self.gaussian(states)
        total, norm = np.zeros(mean.shape[:2]), np.zeros(mean.shape[:2])
        for k in range(mean.shape[2]):
            total += ((next_states[:, k] - mean[:, :, k]) * np.exp(-log_std[:, :, k])) ** 2
            norm -= log_std[:, :, k]
        return norm - 0.5 * total


@pytest.fixture(scope="module")
def hopper() -> Case:
    """Short episodes of the built-in data, some cut, with networks fitted on them."""
    data = load_trajectories("builtin:hopper-medium-replay")
    short = data.take(np.flatnonzero(data.lengths <= 40)[:30])
    episodes = short.episodes()
    for episode in episodes[::3]:
        episode["observations"] = episode["observations"][:-3]
        episode["actions"], episode["rewards"] = (
            episode["actions"][:-3],
            episode["rewards"][:-3],
        )
        episode["terminated"], episode["truncated"] = False, True
    trajectories = Trajectories.from_episodes(episodes)
    settings = FitConfig(steps=STEPS, batch_size=64, learning_rate=1e-3)
    states = trajectories.observations
    dynamics = ForwardDynamics.fit(trajectories, settings, 0, members=3, best=2)
    inverse = InverseDynamics.fit(trajectories, settings, 0)
    value = TwinValue.fit(trajectories, settings, 0)
    options: dict[str, Any] = {
        "value": StoredValue(states, value.predict(states)),
        "log_density": StoredGaussian(states, *dynamics.gaussian(states)),
        "action": lambda S, S2: np.concatenate(
            [inverse.predict(a[None], b[None]) for a, b in zip(S, S2, strict=True)]
        ),
        "reward": lambda S, S2: 1 + 20 * (S2[:, 5] - S[:, 5]) ** 2,
        "radius": suggest_radius(states, 80),
        "acceptance": 0.1,
        "improvement": "absolute",
        "max_length": 50,
        "whole": False,
        "keep": 25,
        "metric": "raw",
    }
    return Case(trajectories, options)


@pytest.mark.parametrize("candidate", ["dynamics_first", "best_value_first"])
@pytest.mark.parametrize("on_cycle", ["stop", "cap"])
def test_real_networks_on_real_data(hopper: Case, candidate: str, on_cycle: str) -> None:
    options: dict[str, Any] = hopper.options | {"candidate": candidate, "on_cycle": on_cycle}
    case = Case(hopper.trajectories, options)
    expected = literal_epoch(case.trajectories.episodes(), **options)
    results: list[StitchResult] = []
    for search in ("cells", "faiss-flat"):
        result = stitch(case, search)
        # Sums of float32 rewards differ in the last bit between orders of summation.
        np.testing.assert_allclose(result.returns, expected.returns, rtol=1e-12)
        expected.returns = result.returns.tolist()
        assert_same(result, expected)
        results.append(result)
    if candidate == "dynamics_first":
        assert len(results[0].hops) > 10
        assert results[0].replaced.any()
