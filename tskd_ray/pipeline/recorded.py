"""The recorded data of a run: loaded, checked against its settings, made an artifact."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from tskd_ray.config.schema import Config
from tskd_ray.data.arrays import save_arrays
from tskd_ray.data.environments import check_available, with_time_limit
from tskd_ray.data.load import load_trajectories
from tskd_ray.data.returns import return_labels, return_scale
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.errors import ConfigError
from tskd_ray.pipeline.artifacts import ArtifactKey, ArtifactStore, artifact_key
from tskd_ray.pipeline.cost import Meter
from tskd_ray.pipeline.nodes import VERSIONS


def load_recorded(config: Config) -> Trajectories:
    """The recorded data with its environment, checked against what the run asks of it.

    An environment without a time limit gets that of the longest episode.

    Raises:
        InputError: If the data are not fit, by themselves or for these settings.
    """
    data = config.data
    recorded = load_trajectories(
        data.source,
        environment=data.environment,
        environment_kwargs=data.environment_kwargs or None,
    )
    if recorded.environment is not None:
        limited = with_time_limit(recorded.environment, int(recorded.lengths.max()))
        recorded = replace(recorded, environment=limited)
    check_recorded(config, recorded)
    acts = config.evaluate.episodes or config.generate.mode == "environment"
    if acts and recorded.environment is not None:
        check_available(recorded.environment)
    return recorded


def check_recorded(config: Config, recorded: Trajectories) -> None:
    """Refuse settings that these data cannot serve.

    Raises:
        ConfigError: If an environment is needed and not named, or no return is positive.
    """
    data = config.data
    if recorded.environment is None and config.evaluate.episodes:
        raise ConfigError(
            f"Evaluation needs an environment. {data.source} names none. Set data.environment, "
            "or evaluate.episodes=0 to leave evaluation out."
        )
    generate = config.generate
    if generate.mode in ("none", "extension"):
        return
    if generate.rollout == "environment" and recorded.environment is None:
        raise ConfigError(
            f"generate.rollout: environment needs an environment. {data.source} names none. "
            "Set data.environment, or use rollout: dynamics."
        )
    if config.teacher.label == "advantage":
        _check_rank(generate.target_return)
        return
    labels = return_labels(
        recorded, config.teacher.discount, config.teacher.termination_penalty
    )
    best, scale = float(labels.max()), config.teacher.return_scale or return_scale(labels)
    if best <= 0 < generate.target_return:
        raise ConfigError(
            "generate.target_return is in units of the return scale, and no return of "
            f"{data.source} is positive. Got {generate.target_return:g}; the best is "
            f"{best / scale:.3g}. Set generate.target_return to about that."
        )


def _check_rank(target: float) -> None:
    if not 0 <= target <= 1:
        raise ConfigError(
            "generate.target_return is a rank between 0 and 1 where teacher.label is "
            f"advantage. Got {target:g}. Set it to 1 for the best."
        )


def data_key(recorded: Trajectories) -> ArtifactKey:
    """Content decides: a copy of a file is the same data, an edited one is not."""
    digest = hashlib.sha256()
    for column in (
        recorded.observations,
        recorded.actions,
        recorded.rewards,
        recorded.offsets,
        recorded.terminated,
        recorded.truncated,
        recorded.episode_id,
        recorded.episode_origin,
        recorded.origin,
        recorded.source_episode,
        recorded.source_step,
    ):
        digest.update(str((column.shape, column.dtype)).encode())
        digest.update(np.ascontiguousarray(column).tobytes())
    environment = recorded.environment
    return artifact_key(
        "data",
        code_version=VERSIONS["data"],
        config={"environment": None if environment is None else repr(environment)},
        inputs={"content": digest.hexdigest()},
        seed=0,
    )


def record_data(store: ArtifactStore, key: ArtifactKey, recorded: Trajectories) -> None:
    """Make the recorded data an artifact that workers can map, unless they are one."""
    if store.find(key) is None:
        meter = Meter()
        with store.attempt(key) as attempt:
            save_arrays(recorded, attempt.folder)
            attempt.info.update(meter.figures())
