"""Everything that generation needs: the trained models, and what the data itself tells.

E recorded episodes · S observation dim
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tskd_ray.data.trajectories import EnvironmentSpec, Trajectories
from tskd_ray.diffusion.ddr import TrajectoryDiffuser
from tskd_ray.models.arithmetic import Arithmetic
from tskd_ray.models.inverse_dynamics import InverseDynamics
from tskd_ray.models.termination import Termination
from tskd_ray.models.transition import Transition
from tskd_ray.types import Float32Array


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """Everything that generation needs; learned from recorded data alone."""

    diffuser: TrajectoryDiffuser
    inverse_dynamics: InverseDynamics
    transition: Transition
    termination: Termination
    starts: Float32Array  # (E, S) first states of the recorded episodes (D9)
    low: Float32Array  # (S,) box of the recorded states (D10)
    high: Float32Array  # (S,)
    max_steps: int
    environment: EnvironmentSpec | None = None

    @classmethod
    def load(
        cls,
        folders: dict[str, Path],
        recorded: Trajectories,
        device: str = "cpu",
        arithmetic: Arithmetic | None = None,
    ) -> Teacher:
        """Read the four checkpoints from `folders`, by the names of their stages."""
        return cls(
            diffuser=TrajectoryDiffuser.load(folders["ddr1"], device, arithmetic),
            inverse_dynamics=InverseDynamics.load(folders["inverse-dynamics"]),
            transition=Transition.load(folders["transition"]),
            termination=Termination.load(folders["termination"]),
            **facts(recorded),
        )


def facts(recorded: Trajectories) -> dict[str, Any]:
    """What generation takes from the recorded data itself: starts, box, time limit."""
    spec = recorded.environment
    limit = spec.max_episode_steps if spec is not None else None
    return {
        "starts": recorded.observations[recorded.state_offsets[:-1]].astype(np.float32),
        "low": recorded.observations.min(axis=0).astype(np.float32),
        "high": recorded.observations.max(axis=0).astype(np.float32),
        "max_steps": int(limit or recorded.lengths.max()),
        "environment": spec,
    }
