"""TSKD on Ray: an offline-RL dataset augmented by diffusion and stitching, then distilled.

Importing this package is cheap: neither ray, torch nor faiss is loaded before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tskd_ray.errors import (
    ConfigError,
    DataError,
    InputError,
    ResourceError,
    StageError,
    StorageError,
    TskdError,
)

if TYPE_CHECKING:
    from tskd_ray.config.load import load_config
    from tskd_ray.config.schema import Config
    from tskd_ray.data.load import load_trajectories
    from tskd_ray.data.trajectories import Trajectories
    from tskd_ray.diffusion.rollout import generate
    from tskd_ray.evaluation.simulate import evaluate
    from tskd_ray.pipeline.run import run
    from tskd_ray.stitching.epoch import stitch_epoch
    from tskd_ray.training.distill import distill

__version__ = "0.1.0"

_HOMES = {
    "Config": "tskd_ray.config.schema",
    "Trajectories": "tskd_ray.data.trajectories",
    "distill": "tskd_ray.training.distill",
    "evaluate": "tskd_ray.evaluation.simulate",
    "generate": "tskd_ray.diffusion.rollout",
    "load_config": "tskd_ray.config.load",
    "load_trajectories": "tskd_ray.data.load",
    "run": "tskd_ray.pipeline.run",
    "stitch_epoch": "tskd_ray.stitching.epoch",
}

__all__ = [
    "Config",
    "ConfigError",
    "DataError",
    "InputError",
    "ResourceError",
    "StageError",
    "StorageError",
    "Trajectories",
    "TskdError",
    "distill",
    "evaluate",
    "generate",
    "load_config",
    "load_trajectories",
    "run",
    "stitch_epoch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
