"""What extensions do in a run: they learn, generate, and tell where walks go.

Whatever they return is checked before anything is kept of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tskd_ray.config.schema import Config
from tskd_ray.data.arrays import load_arrays
from tskd_ray.data.extensions import (
    calling,
    generator_extension,
    read_only,
    require_arrays,
    reward_extension,
    stitcher_extension,
)
from tskd_ray.data.trajectories import Origin, Trajectories
from tskd_ray.data.validate import check_actions, check_finite
from tskd_ray.errors import DataError
from tskd_ray.models.checkpoint import open_model, save_model
from tskd_ray.seeding import numpy_rng
from tskd_ray.types import FloatArray, IntArray

if TYPE_CHECKING:
    from tskd_ray.pipeline.stages import Work

GENERATOR_EXTENSION = "generator_extension"
REWARD_EXTENSION = "reward_extension"
"""Kinds of checkpoints."""


def fit_generator(work: Work) -> None:
    """What an extension generates by."""
    generate = work.config.generate
    _fit(work, generate.method, generator_extension(generate), GENERATOR_EXTENSION)


def fit_reward(work: Work) -> None:
    """Rewards of (s, a, s') by an extension."""
    stitch = work.config.stitch
    _fit(work, stitch.reward_model, reward_extension(stitch), REWARD_EXTENSION)


def _fit(work: Work, name: str, extension: Any, kind: str) -> None:
    with calling(name):
        fitted = extension.fit(work.joined(), work.config.seed)
    save_model(work.out, require_arrays(name, fitted), {"kind": kind})


def load_fitted(folder: Path, kind: str) -> dict[str, Any]:
    """The arrays that an extension's `fit` returned, by name."""
    with open_model(folder, kind) as (tensors, _):
        return {name: value.numpy() for name, value in tensors.items()}


def by_extension(
    folders: Mapping[str, Path], config: Config, epoch: int, first_id: int
) -> Callable[[range], Trajectories]:
    """What generates the trajectories of an epoch that have these numbers.

    Args:
        folders: Of the recorded data, and of what the extension learned.
        config: Of the run.
        epoch: Stitching epoch.
        first_id: Added to a number to give its episode id.

    Raises:
        StageError: When called, if the extension fails or returns no such episodes.
    """
    extension, name = generator_extension(config.generate), config.generate.method
    assert extension is not None, "or DDR-I generated"
    recorded = load_arrays(folders["data"])
    fitted = load_fitted(folders["generator"], GENERATOR_EXTENSION)

    def generated(numbers: range) -> Trajectories:
        rngs = [numpy_rng(config.seed, "generate", epoch, number) for number in numbers]
        with calling(name):
            made = list(extension.generate(fitted, recorded, rngs))
            if len(made) != len(rngs):
                raise DataError(
                    f"generate must return an episode for each of {len(rngs)} random "
                    f"generators. Got {len(made)}."
                )
            trajectories = Trajectories.from_episodes(
                made,
                environment=recorded.environment,
                origin=Origin.GENERATED,
                first_id=first_id + numbers.start,
            )
            return _checked(trajectories, recorded, f"those from {numbers.start} on of {name}")

    return generated


def _checked(made: Trajectories, recorded: Trajectories, path: str) -> Trajectories:
    """Generated episodes in the precision of the recorded ones.

    Raises:
        DataError: If they have other widths, or values that no dataset may have.
    """
    widths = (made.observation_dim, made.action_dim)
    if widths != (recorded.observation_dim, recorded.action_dim):
        raise DataError(
            "Generated episodes must have the widths of the recorded ones, observations "
            f"{recorded.observation_dim}, actions {recorded.action_dim}. Got {widths[0]} and "
            f"{widths[1]}."
        )
    with np.errstate(over="ignore"):  # to infinity, which is refused
        made = replace(
            made,
            observations=made.observations.astype(recorded.observations.dtype),
            actions=made.actions.astype(recorded.actions.dtype),
            rewards=made.rewards.astype(recorded.rewards.dtype),
        )
    check_finite(made, path=path, remedy="")
    check_actions(made, path=path, remedy="")
    return made


def walks_by_extension(
    trajectories: Trajectories,
    config: Config,
    value: Callable[[FloatArray], FloatArray],
    epoch: int,
) -> list[IntArray]:
    """An extension's walks through D', as `read_walks` gives them.

    Args:
        trajectories: D'.
        config: Of the run.
        value: V(S) -> (n,).
        epoch: Names the random stream.

    Raises:
        StageError: If the extension fails, or a walk is none.
    """
    from tskd_ray.stitching.given import read_walks
    from tskd_ray.stitching.problem import state_values

    extension, name = stitcher_extension(config.stitch), config.stitch.method
    assert extension is not None, "or one of ours stitched"
    values = state_values(trajectories, value)
    rng = numpy_rng(config.seed, "stitch", epoch)
    with calling(name):
        walks = extension.stitch(read_only(trajectories), values, rng)
        return read_walks(trajectories, walks)
