"""Small fitted models as checkpoint folders: what is written follows from a model's fields."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_type_hints

import numpy as np

from tskd_ray.models.checkpoint import open_model, save_model
from tskd_ray.models.mlp import BatchedMLP
from tskd_ray.models.standardizer import Standardizer

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
else:
    DataclassInstance = object


class SavedModel(DataclassInstance):
    """Base of dataclasses made of networks, standardizers, arrays and JSON values.

    The first three are tensors of the field's name, the rest is configuration.
    """

    kind: ClassVar[str]
    """What a checkpoint of it says it is."""

    def save(self, folder: Path) -> None:
        """Write a checkpoint folder."""
        tensors: dict[str, Any] = {}
        about: dict[str, Any] = {"kind": self.kind}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, BatchedMLP):
                tensors |= value.tensors(f"{field.name}.")
            elif isinstance(value, Standardizer):
                tensors |= value.tensors(field.name)
            elif isinstance(value, np.ndarray):
                tensors[field.name] = value
            else:
                about[_setting(field.name)] = value
        save_model(folder, tensors, about)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a checkpoint folder.

        Raises:
            DataError: If it holds no such model.
        """
        types = get_type_hints(cls)
        with open_model(folder, cls.kind) as (tensors, config):
            return cls(
                **{
                    field.name: _read(field.name, types[field.name], tensors, config)
                    for field in fields(cls)
                }
            )


def _read(name: str, kind: Any, tensors: dict[str, Any], config: dict[str, Any]) -> Any:
    if kind is BatchedMLP:
        return BatchedMLP.from_tensors(tensors, f"{name}.")
    if kind is Standardizer:
        return Standardizer.from_tensors(tensors, name)
    if getattr(kind, "__origin__", None) is np.ndarray:
        return tensors[name].numpy()
    value = config[_setting(name)]
    expected = getattr(kind, "__origin__", kind)
    if not isinstance(value, expected):
        raise TypeError(f"{name} must be {expected.__name__}, got {type(value).__name__}")
    return value


def _setting(name: str) -> str:
    """`metrics_` is `metrics` in a file."""
    return name.rstrip("_")
