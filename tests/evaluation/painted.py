"""An environment that paints its step number, and others that die on their way to a picture."""

from __future__ import annotations

import os
import time
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

SHADES = 25
"""Of grey, from one step to the next: palettes keep them apart."""


class Painted(gym.Env[Any, Any]):
    """Ten steps; picture t has the shade 25 t; the reward is the action."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 28}  # noqa: RUF012 - Gymnasium's
    observation_space = Box(-1, 1, (1,))
    action_space = Box(-1, 1, (1,))

    def __init__(self, render_mode: str | None = None, trouble: str = "") -> None:
        self.render_mode, self.trouble, self.count = render_mode, trouble, 0

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=options.get("seed"))
        self.count = 0
        return self._state(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return self._state(), float(action[0]), self.count == 10, False, {}

    def render(self) -> Any:
        if self.trouble == "crash":
            os.abort()
        if self.trouble == "hang":
            time.sleep(600)
        if self.trouble == "refuse":
            raise RuntimeError("no display here")
        return np.full((8, 16, 3), SHADES * self.count, dtype=np.uint8)

    def _state(self) -> Any:
        return np.array([self.count / 10], dtype=np.float32)


_make: Any = Painted
gym.register("Painted-v0", entry_point=_make)
