"""Windows of H consecutive rows, cut from flat arrays without a loop over samples.

B batch · H horizon · S observation dim
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tskd_ray.data.trajectories import Trajectories
from tskd_ray.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, kw_only=True)
class WindowBatch:
    """Rows past the end of an episode repeat its last one and are masked (D7)."""

    states: FloatArray  # (B, H, S)
    rewards: FloatArray  # (B, H)
    state_mask: BoolArray  # (B, H) row lies at or before the episode's final state
    reward_mask: BoolArray  # (B, H) row lies before it


class Windows:
    """Every window of `horizon` rows that starts at a step; N of them, one per step."""

    def __init__(self, trajectories: Trajectories, horizon: int) -> None:
        self.states = trajectories.observations
        self.rewards = trajectories.rewards
        self.first_state = trajectories.step_state
        # Rows from a window's first one to its episode's final state.
        final = trajectories.final_states[trajectories.step_episode]
        self.remaining = final - self.first_state
        self.rows = np.arange(horizon)

    def __len__(self) -> int:
        return len(self.first_state)

    def gather(self, steps: IntArray) -> WindowBatch:
        """The windows that start at `steps`, (B,)."""
        remaining = self.remaining[steps][:, None]
        rows = np.minimum(self.rows, remaining)
        step = steps[:, None] + np.minimum(rows, remaining - 1)
        return WindowBatch(
            states=self.states[self.first_state[steps][:, None] + rows],
            rewards=self.rewards[step],
            state_mask=self.rows <= remaining,
            reward_mask=self.rows < remaining,
        )
