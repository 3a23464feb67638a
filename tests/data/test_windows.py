"""Windows against a loop that cuts one row at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from tskd_ray.data.trajectories import Trajectories
from tskd_ray.data.windows import Windows


def test_windows_are_cut_and_masked_row_by_row() -> None:
    rng = np.random.default_rng(0)
    episodes: list[dict[str, Any]] = [
        {
            "observations": rng.normal(size=(n + 1, 2)),
            "actions": rng.normal(size=(n, 1)),
            "rewards": rng.normal(size=n),
            "terminated": True,
        }
        for n in (1, 5, 3)
    ]
    windows = Windows(Trajectories.from_episodes(episodes), horizon=4)
    assert len(windows) == 9
    batch = windows.gather(np.arange(9))
    row = 0
    for episode in episodes:
        n = len(episode["rewards"])
        for start in range(n):
            for j in range(4):
                at = start + j
                assert batch.state_mask[row, j] == (at <= n)
                assert batch.reward_mask[row, j] == (at < n)
                if at <= n:
                    np.testing.assert_array_equal(
                        batch.states[row, j], episode["observations"][at]
                    )
                if at < n:
                    assert batch.rewards[row, j] == episode["rewards"][at]
            row += 1
