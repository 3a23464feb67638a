"""What an extension must be: a small protocol for each kind (docs/extending.md).

An extension is a class of an installed package, found by its name (`entry_points.py`) and made
of its settings as keyword arguments. `version` is part of the keys of its results.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tskd_ray.config.schema import (
    Config,
    DistillConfig,
    GenerateConfig,
    SelectConfig,
    StitchConfig,
)
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.entry_points import BUILT_IN, load
from tskd_ray.errors import ConfigError, DataError, StageError, TskdError, reason
from tskd_ray.types import Float64Array, FloatArray, IntArray

Fitted = Mapping[str, FloatArray]
"""What was learned, as named arrays: kept as safetensors, never as pickle."""

_TORCHRL = ("students", "torchrl", "tensordict")
PACKAGES = {
    "td3bc": _TORCHRL,
    "iql": _TORCHRL,
    "cql": _TORCHRL,
    "dt": ("dt", *_TORCHRL[1:], "transformers"),
}
"""By `distill.method`: an extra of ours, and what must be importable of it."""


Part = tuple[int, int, int]
"""Of a walk: number of the episode, numbers of its first and last state there.

Episodes are numbered from 0 by their place among the trajectories. An episode of L steps has
the states 0 … L.
"""


@runtime_checkable
class Generator(Protocol):
    """New trajectories: group `tskd_ray.generators`, chosen by `generate.method`."""

    version: str
    """Another one, other results: raise it when the code's results change."""

    def fit(self, recorded: Trajectories, seed: int) -> Fitted:
        """Learn from the recorded data, once in a run; the same seed, the same arrays."""
        raise NotImplementedError

    def generate(
        self, fitted: Fitted, recorded: Trajectories, rngs: Sequence[np.random.Generator]
    ) -> Iterable[Mapping[str, Any]]:
        """One episode for each of `rngs`, in their order.

        An episode is what `Trajectories.from_episodes` takes. It must depend on its own
        generator and on the other arguments alone: a worker is asked for some episodes of an
        epoch, and how many at once is no part of the result.
        """
        raise NotImplementedError


@runtime_checkable
class Stitcher(Protocol):
    """Walks through trajectories: group `tskd_ray.stitchers`, chosen by `stitch.method`."""

    version: str
    """As of a `Generator`."""

    def stitch(
        self, trajectories: Trajectories, values: Float64Array, rng: np.random.Generator
    ) -> Iterable[Sequence[Part]]:
        """Walks, each by its parts, at most one from the start of each episode.

        Within a part the steps are as recorded; from its last state the walk hops to the first
        state of the next part. A walk takes the place of the episode that it begins with if it
        is worth more, as in Algorithm 4.

        Args:
            trajectories: D', as in Algorithm 4.
            values: (N + E,) V of each state of it.
            rng: Of this epoch.
        """
        raise NotImplementedError


@runtime_checkable
class RewardModel(Protocol):
    """Rewards of hops: group `tskd_ray.reward_models`, chosen by `stitch.reward`."""

    version: str
    """As of a `Generator`."""

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
    """As of a `Generator`."""

    def select(self, trajectories: Trajectories) -> IntArray:
        """Numbers of the episodes to keep, of `trajectories`: no random ones."""
        raise NotImplementedError


@runtime_checkable
class StudentMethod(Protocol):
    """Trains students: group `tskd_ray.students`, chosen by `distill.method`."""

    version: str
    """As of a `RewardModel`."""

    def train(self, trajectories: Trajectories, seed: int) -> Fitted:
        """Learn from a dataset, once for each student; the same seed, the same arrays."""
        raise NotImplementedError

    def act(self, fitted: Fitted, observations: FloatArray) -> FloatArray:
        """Actions (N, A) for observations (N, S), raw units, each of its row alone."""
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


def generator_extension(generate: GenerateConfig) -> Generator | None:
    """What generates, if it is an extension.

    Raises:
        ConfigError: As `entry_points.load`.
    """
    if not generate.extended:
        return None
    return load("generators", generate.method, Generator, generate.settings)


def stitcher_extension(stitch: StitchConfig) -> Stitcher | None:
    """What stitches, if it is an extension.

    Raises:
        ConfigError: As `entry_points.load`.
    """
    if not stitch.extended:
        return None
    return load("stitchers", stitch.method, Stitcher, stitch.settings)


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


def student_extension(distill: DistillConfig) -> StudentMethod | None:
    """What trains students, if it is an extension.

    Raises:
        ConfigError: As `entry_points.load`.
    """
    if distill.method in BUILT_IN["students"]:
        return None
    return load_student_method(distill.method, distill.settings)


def load_student_method(name: str, settings: Mapping[str, Any]) -> StudentMethod:
    """The extension of that name.

    Raises:
        ConfigError: As `entry_points.load`.
    """
    return load("students", name, StudentMethod, settings)


def require_packages(method: str) -> None:
    """Refuse a method of students whose packages are not installed.

    Raises:
        ConfigError: Then.
    """
    extra, *modules = PACKAGES.get(method, ("",))
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"distill.method={method} needs TorchRL, on each machine. This one lacks "
            f"{' and '.join(missing)}. Run: pip install 'tskd-ray[{extra}]'"
        )


def identity(
    name: str,
    extension: Generator | Stitcher | RewardModel | Selector | StudentMethod,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """What of an extension its results depend on."""
    return {"name": name, "version": str(extension.version), "settings": dict(settings)}


@contextmanager
def calling(name: str) -> abc.Generator[None]:
    """Tell what an extension raises, in the block that calls it, as its own failure.

    Raises:
        StageError: Then, or for a DataError of ours; our other errors pass.
    """
    try:
        yield
    except DataError as error:
        told = str(error).rstrip()
        raise StageError(f"{told} Mend the package of extension {name}.") from error
    except TskdError:
        raise
    except Exception as error:  # whatever its code raises
        raise StageError(
            f"An extension must not fail. {name} raised {type(error).__name__}: "
            f"{reason(error)} Mend its package, or its settings."
        ) from error


def read_only(trajectories: Trajectories) -> Trajectories:
    """The same arrays, which whoever gets them cannot change."""
    views: dict[str, Any] = {}
    for column in fields(trajectories):
        value = getattr(trajectories, column.name)
        if isinstance(value, np.ndarray):
            value = value.view()
            value.flags.writeable = False
            views[column.name] = value
    return replace(trajectories, **views)


def require_arrays(name: str, fitted: Any) -> dict[str, FloatArray]:
    """What an extension's `fit` returned, if it is named arrays of numbers.

    Raises:
        StageError: If it is anything else.
    """
    if isinstance(fitted, Mapping):
        arrays = {str(key): np.asarray(value) for key, value in fitted.items()}
        if all(array.dtype.kind in "biuf" for array in arrays.values()):
            return arrays
        kinds = ", ".join(f"{key} of {array.dtype}" for key, array in arrays.items())
    else:
        kinds = type(fitted).__name__
    raise StageError(
        f"fit of extension {name} must return arrays of numbers by their names. Got {kinds}. "
        "Mend its package."
    )


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
    generate, stitch = config.generate, config.stitch
    select, distill = config.select, config.distill
    require_packages(distill.method)
    for where, chosen, extension, settings in (
        (
            "generate.settings",
            f"generate.method {generate.method}",
            generator_extension(generate),
            generate.settings,
        ),
        (
            "stitch.settings",
            f"stitch.method {stitch.method}",
            stitcher_extension(stitch),
            stitch.settings,
        ),
        (
            "stitch.reward_settings",
            f"stitch.reward {stitch.reward_model}",
            reward_extension(stitch),
            stitch.reward_settings,
        ),
        (
            "select.settings",
            f"select.by {select.by}",
            selector_extension(select),
            select.settings,
        ),
        (
            "distill.settings",
            f"distill.method {distill.method}",
            student_extension(distill),
            distill.settings,
        ),
    ):
        if settings and extension is None:
            raise ConfigError(
                f"{where} are those of an extension. Got {settings} with {chosen}. Remove "
                "them, or name the extension."
            )
