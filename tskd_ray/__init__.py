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
    from tskd_ray.config.schema import (
        Config,
        DistillConfig,
        FitConfig,
        GenerateConfig,
        SamplerConfig,
        SelectConfig,
    )
    from tskd_ray.data.environments import environment_spec
    from tskd_ray.data.load import load_trajectories
    from tskd_ray.data.trajectories import EnvironmentSpec, Trajectories
    from tskd_ray.diffusion.rollout import generate
    from tskd_ray.evaluation.simulate import evaluate
    from tskd_ray.models.students import load_policy
    from tskd_ray.pipeline.run import load_teacher, run
    from tskd_ray.stitching.epoch import stitch_epoch
    from tskd_ray.training.distill import distill
    from tskd_ray.training.select import select

__version__ = "0.1.0"

_HOMES = {
    "Config": "tskd_ray.config.schema",
    "DistillConfig": "tskd_ray.config.schema",
    "EnvironmentSpec": "tskd_ray.data.trajectories",
    "FitConfig": "tskd_ray.config.schema",
    "GenerateConfig": "tskd_ray.config.schema",
    "SamplerConfig": "tskd_ray.config.schema",
    "SelectConfig": "tskd_ray.config.schema",
    "Trajectories": "tskd_ray.data.trajectories",
    "distill": "tskd_ray.training.distill",
    "environment_spec": "tskd_ray.data.environments",
    "evaluate": "tskd_ray.evaluation.simulate",
    "generate": "tskd_ray.diffusion.rollout",
    "load_config": "tskd_ray.config.load",
    "load_policy": "tskd_ray.models.students",
    "load_teacher": "tskd_ray.pipeline.run",
    "load_trajectories": "tskd_ray.data.load",
    "run": "tskd_ray.pipeline.run",
    "select": "tskd_ray.training.select",
    "stitch_epoch": "tskd_ray.stitching.epoch",
}

__all__ = [
    "Config",
    "ConfigError",
    "DataError",
    "DistillConfig",
    "EnvironmentSpec",
    "FitConfig",
    "GenerateConfig",
    "InputError",
    "ResourceError",
    "SamplerConfig",
    "SelectConfig",
    "StageError",
    "StorageError",
    "Trajectories",
    "TskdError",
    "distill",
    "environment_spec",
    "evaluate",
    "generate",
    "load_config",
    "load_policy",
    "load_teacher",
    "load_trajectories",
    "run",
    "select",
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
