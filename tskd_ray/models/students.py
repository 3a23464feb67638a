"""Students of all kinds, as they are kept: an MLP, a transformer, or an extension's arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from tskd_ray.data.extensions import (
    Fitted,
    StudentMethod,
    calling,
    load_student_method,
    require_shape,
)
from tskd_ray.models.checkpoint import kind_of, open_model, save_model
from tskd_ray.models.policy import Policy
from tskd_ray.models.sequence_policy import KIND as REMEMBERS
from tskd_ray.models.sequence_policy import SequencePolicy
from tskd_ray.types import Float32Array, FloatArray

KIND = "student-extension"


@dataclass(frozen=True, eq=False)
class ExtensionPolicy:
    """What an extension trained; its actions are clipped to the bounds."""

    name: str  # `distill.method`
    settings: dict[str, Any]
    fitted: Fitted
    low: Float32Array  # (A,)
    high: Float32Array  # (A,)
    details: dict[str, Any] = field(default_factory=dict[str, Any])
    """As a `Policy`'s."""

    def act(self, observations: FloatArray) -> Float32Array:
        """Actions (N, A) for observations (N, S).

        Raises:
            ConfigError: If the extension is not installed here.
            StageError: If it fails, or its actions have another shape.
        """
        extension = self._extension
        with calling(self.name):
            actions = np.asarray(extension.act(self.fitted, observations))
        require_shape(self.name, actions, (len(observations), len(self.low)))
        return np.clip(actions, self.low, self.high).astype(np.float32)

    @cached_property
    def _extension(self) -> StudentMethod:
        # Looking it up among what is installed takes longer than most policies' actions.
        return load_student_method(self.name, self.settings)

    @property
    def n_parameters(self) -> int:
        """Numbers that were learned."""
        return sum(np.size(part) for part in self.fitted.values())

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `config.json`."""
        fitted = {f"fitted.{name}": np.asarray(part) for name, part in self.fitted.items()}
        config = {
            "kind": KIND, "name": self.name, "settings": self.settings, "details": self.details
        }  # fmt: skip
        save_model(folder, {**fitted, "low": self.low, "high": self.high}, config)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a checkpoint folder.

        Raises:
            DataError: If it holds no such policy.
        """
        with open_model(folder, KIND) as (tensors, config):
            fitted = {
                name.removeprefix("fitted."): part.numpy()
                for name, part in tensors.items()
                if name.startswith("fitted.")
            }
            low, high = (tensors[name].numpy() for name in ("low", "high"))
            return cls(
                str(config["name"]),
                dict(config["settings"]),
                fitted,
                low,
                high,
                config["details"],
            )


Student = Policy | SequencePolicy | ExtensionPolicy


def load_policy(folder: str | Path) -> Student:
    """The policy of a run, to act with; no Ray.

    `policy.act(observations)` gives actions (N, A) within the bounds for observations (N, S)
    in raw units. A Decision Transformer remembers its episodes: `memory = policy.begin(n)`
    starts n of them, and `memory.act(observations, rewards, numbers)` decides in those that
    `numbers` names, given the rewards of the step before, at first 0. `evaluate` takes both.

    Args:
        folder: A run's, or the folder `policy` in it.

    Raises:
        DataError: If it holds no policy.
        ConfigError: If what runs it is not installed here.
    """
    folder = Path(folder).expanduser()
    inside = folder / "policy"
    return load_student(inside if inside.is_dir() else folder)


def load_student(folder: Path) -> Student:
    """Read a checkpoint folder of any student.

    Raises:
        DataError: If it holds none.
        ConfigError: If what runs it is not installed here.
    """
    kind = kind_of(folder)
    if kind == KIND:
        return ExtensionPolicy.load(folder)
    return SequencePolicy.load(folder) if kind == REMEMBERS else Policy.load(folder)
