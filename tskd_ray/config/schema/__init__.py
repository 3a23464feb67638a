"""The configuration tree. Every field is an option a user may set; unknown ones are errors.

Frozen, and checked at birth: relations between fields raise here, not after an hour of work.
`tskd_ray/presets/*.yaml` hold complete settings; `config/load.py` reads them.
"""

from tskd_ray.config.schema.augment import GenerateConfig, RadiusConfig, StitchConfig
from tskd_ray.config.schema.run import ComputeConfig, Config, DataConfig
from tskd_ray.config.schema.section import Count, Fraction, Name, Positive, Section
from tskd_ray.config.schema.student import (
    AWRConfig,
    CQLConfig,
    DistillConfig,
    EvaluateConfig,
    IQLConfig,
    SelectConfig,
    TD3BCConfig,
    TransformerConfig,
)
from tskd_ray.config.schema.teacher import (
    DIFFUSER_SETTINGS,
    DiffusionConfig,
    FitConfig,
    SamplerConfig,
    TeacherConfig,
    UNetConfig,
)

__all__ = [
    "DIFFUSER_SETTINGS",
    "AWRConfig",
    "CQLConfig",
    "ComputeConfig",
    "Config",
    "Count",
    "DataConfig",
    "DiffusionConfig",
    "DistillConfig",
    "EvaluateConfig",
    "FitConfig",
    "Fraction",
    "GenerateConfig",
    "IQLConfig",
    "Name",
    "Positive",
    "RadiusConfig",
    "SamplerConfig",
    "Section",
    "SelectConfig",
    "StitchConfig",
    "TD3BCConfig",
    "TeacherConfig",
    "TransformerConfig",
    "UNetConfig",
]
