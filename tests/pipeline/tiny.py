"""The smallest run that goes through every stage."""

from __future__ import annotations

import atexit
import hashlib
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tskd_ray.config.schema import Config
from tskd_ray.data.columnar import write_parquet
from tskd_ray.data.load import load_trajectories

_UNET = {"base_width": 16, "multipliers": [1, 2], "embedding_width": 16}


def tiny_config(storage: Path, **sections: Any) -> Config:
    """Two epochs on a sixth of the built-in data; `sections` replace whole sections."""
    sampler = {"name": "ddim", "steps": 3}
    settings: dict[str, Any] = {
        "name": "tiny",
        "storage": str(storage),
        "data": {"source": _some_episodes()},
        "teacher": {
            "trajectory": {
                "horizon": 16,
                "unet": _UNET,
                "fit": {"steps": 40, "batch_size": 16},
            },
            "reward": {"horizon": 2, "unet": _UNET, "fit": {"steps": 30, "batch_size": 32}},
            "reward_sampler": sampler,
            "inverse_dynamics": {"steps": 60, "batch_size": 64},
            "transition": {"steps": 60, "batch_size": 64},
        },
        "generate": {
            "trajectories": 4,
            "sampler": sampler,
            "replan_every": 8,
            "shard_size": 1,
            "max_steps": 24,
        },
        "stitch": {
            "epochs": 2,
            "radius": {"neighbours": 20},
            "dynamics": {"steps": 30},
            "value": {"steps": 40},
            "action_fit": {"steps": 40},
            "reward_fit": {"steps": 40},
        },
        "select": {"slack": "75%"},
        "distill": {"seeds": 2, "fit": {"steps": 40, "batch_size": 64}},
        "evaluate": {"episodes": 2, "checkpoints": 2, "film": False},
        "compute": {"mode": "local"},
    }
    return Config.model_validate_json(json.dumps(settings | sections))


@cache
def _some_episodes() -> str:
    """Every sixth built-in episode, as a Parquet folder that lasts as long as this process."""
    folder = tempfile.mkdtemp(prefix="tiny-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    everything = load_trajectories("builtin:hopper-medium-replay")
    episodes = np.arange(0, everything.n_episodes, 6)
    write_parquet(everything.take(episodes), Path(folder) / "data")
    return str(Path(folder) / "data")


def result_bytes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of the dataset and the policy in a run's folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for part in ("dataset", "policy")
        for path in sorted((folder / part).rglob("*"))
        if path.is_file()
    }
