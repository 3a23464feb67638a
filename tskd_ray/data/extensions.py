"""What an extension must be: a small protocol for each kind (docs/extending.md).

An extension is a class of an installed package, found by its name (`entry_points.py`) and made
of its settings as keyword arguments. `version` is part of the keys of its results.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

from tskd_ray.config.schema import Config, SelectConfig, StitchConfig
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.entry_points import BUILT_IN, load
from tskd_ray.errors import ConfigError, StageError
from tskd_ray.types import FloatArray, IntArray

Fitted = Mapping[str, FloatArray]
"""What was learned, as named arrays: kept as safetensors, never as pickle."""

_TORCHRL = ("tensordict", "torchrl")
PACKAGES = {"td3bc": _TORCHRL, "iql": _TORCHRL, "cql": _TORCHRL}
"""Beyond our own dependencies, by `distill.method`: the extra `students`."""


@runtime_checkable
class RewardModel(Protocol):
    """Rewards of hops: group `tskd_ray.reward_models`, chosen by `stitch.reward`."""

    version: str
    """Another one, other results: raise it when the code's results change."""

    def fit(self, recorded: Trajectories, seed: int) -> Fitted:
        """Learn from the recorded data, once in a run; the same seed, the same arrays."""
        raise NotImplementedError

    def predict(
        self, fitted: Fitted, s: FloatArray, a: FloatArray, s2: FloatArray
    ) -> FloatArray:
        """Rewards (N,) of steps from s (N, S) by a (N, A) to s2 (N, S), raw units."""
        raise NotImplementedError


@runtime_checkable
class Selector(Protocol):
    """What students learn from: group `tskd_ray.selectors`, chosen by `select.by`."""

    version: str
    """As of a `RewardModel`."""

    def select(self, trajectories: Trajectories) -> IntArray:
        """Numbers of the episodes to keep, of `trajectories`: no random ones."""
        raise NotImplementedError


@runtime_checkable
class DatasetFormat(Protocol):
    """Reads datasets `NAME:SOURCE`: group `tskd_ray.formats`, by the name before the colon.

    It has neither settings nor a version: the content of what it reads is the key.
    """

    def read(self, source: str) -> Trajectories:
        """The dataset that `source`, what is after the colon, stands for.

        Whatever it raises is told as a `DataError`. What it returns is checked as any dataset.
        """
        raise NotImplementedError


def reward_extension(stitch: StitchConfig) -> RewardModel | None:
    """What prices hops, if it is an extension.

    Raises:
        ConfigError: As `entry_points.load`.
    """
    name = stitch.reward_model
    if name in BUILT_IN["reward_models"]:
        return None
    return load("reward_models", name, RewardModel, stitch.reward_settings)


def selector_extension(select: SelectConfig) -> Selector | None:
    """What selects, if it is an extension.

    Raises:
        ConfigError: As `entry_points.load`.
    """
    if select.by in BUILT_IN["selectors"]:
        return None
    return load("selectors", select.by, Selector, select.settings)


def require_packages(method: str) -> None:
    """Refuse a method of students whose packages are not installed.

    Raises:
        ConfigError: Then.
    """
    missing = [name for name in PACKAGES.get(method, ()) if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"distill.method={method} needs TorchRL, on each machine. This one lacks "
            f"{' and '.join(missing)}. Run: pip install 'tskd-ray[students]'"
        )


def identity(
    name: str, extension: RewardModel | Selector, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What of an extension its results depend on."""
    return {"name": name, "version": str(extension.version), "settings": dict(settings)}


def require_shape(name: str, found: FloatArray, shape: tuple[int, ...]) -> None:
    """Refuse an extension's answer of another shape than asked for.

    Raises:
        StageError: Then.
    """
    if found.shape != shape:
        raise StageError(
            f"Extension {name} must return an array of shape {shape}. Got {found.shape}. Mend "
            "its package."
        )


def check_settings(config: Config) -> None:
    """Refuse settings that would go to an extension where there is none.

    Raises:
        ConfigError: Then, if a package is not installed, and as `entry_points.load`.
    """
    require_packages(config.distill.method)
    stitch, select = config.stitch, config.select
    price = f"stitch.reward {stitch.reward_model}"
    for chosen, extension, where, settings in (
        (price, reward_extension(stitch), "stitch.reward_settings", stitch.reward_settings),
        (
            f"select.by {select.by}",
            selector_extension(select),
            "select.settings",
            select.settings,
        ),
    ):
        if settings and extension is None:
            raise ConfigError(
                f"{where} are those of an extension. Got {settings} with {chosen}. Remove "
                "them, or name the extension."
            )
