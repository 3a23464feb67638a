"""The smallest run that goes through every stage."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tskd_ray.config.schema import Config

_UNET = {"base_width": 16, "multipliers": [1, 2], "embedding_width": 16}


def tiny_config(storage: Path, **sections: Any) -> Config:
    """Two epochs on the built-in data; `sections` replace whole sections."""
    sampler = {"name": "ddim", "steps": 3}
    settings: dict[str, Any] = {
        "name": "tiny",
        "storage": str(storage),
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
        },
        "select": {"slack": "60%"},
        "distill": {"seeds": 2, "fit": {"steps": 40, "batch_size": 64}},
        "evaluate": {"episodes": 2, "checkpoints": 2},
        "compute": {"mode": "local"},
    }
    import json

    return Config.model_validate_json(json.dumps(settings | sections))


def result_bytes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of the dataset and the policy in a run's folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for part in ("dataset", "policy")
        for path in sorted((folder / part).rglob("*"))
        if path.is_file()
    }
