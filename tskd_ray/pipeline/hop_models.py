"""The models that act in hops and price them, loaded from the folders of their stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from tskd_ray.config.schema import Config
from tskd_ray.data.extensions import calling, require_shape, reward_extension
from tskd_ray.data.trajectories import EnvironmentSpec
from tskd_ray.errors import DataError
from tskd_ray.pipeline.cost import Meter
from tskd_ray.pipeline.extension_stages import REWARD_EXTENSION, load_fitted
from tskd_ray.pipeline.graph import ACTION_MODELS, REWARD_MODELS
from tskd_ray.progress import Progress, silent
from tskd_ray.types import Float32Array, FloatArray

PairModel = Callable[[FloatArray, FloatArray], FloatArray]
"""Of n states and next states."""


def action_model(name: str, folders: Mapping[str, Path]) -> PairModel:
    """Actions (n, A) of hops.

    Args:
        name: As `stitch.action`.
        folders: Of stages by name, the model's among them.
    """
    folder = folders[ACTION_MODELS[name]]
    if name == "vae":
        from tskd_ray.models.action_vae import ActionVAE

        return ActionVAE.load(folder).predict
    from tskd_ray.models.inverse_dynamics import InverseDynamics

    return InverseDynamics.load(folder).predict


def reward_model(
    name: str, folders: Mapping[str, Path], config: Config, action: PairModel
) -> PairModel:
    """Rewards (n,) of hops.

    Args:
        name: As `stitch.reward`.
        folders: Of stages by name, the model's among them.
        config: Its device, DDR-II's sampler and the seed are used.
        action: What acts in the hop, where the model wants to know.
    """
    if name == "ddr2":
        folder = folders[REWARD_MODELS[name]]
        return lambda states, next_states: price_hops(
            ddr2=folder, config=config, states=states, next_states=next_states
        )[0]
    if name in REWARD_MODELS:
        rewards = load_rewards(name, folders)
    else:
        rewards = _extension_rewards(name, folders["reward-extension"], config)
    return lambda states, next_states: rewards(states, action(states, next_states), next_states)


def true_rewards(environment: EnvironmentSpec | None, action: PairModel) -> PairModel:
    """The simulator's rewards (n,) of hops, for an ablation.

    Raises:
        DataError: If there is no environment, or its state cannot be set from an observation.
    """
    from tskd_ray.evaluation.fidelity import true_steps

    if environment is None:
        raise DataError(
            "stitch.reward=simulator asks the environment. The data name none. Set "
            "data.environment, or use another reward."
        )
    return lambda states, next_states: (
        true_steps(states, action(states, next_states), environment).rewards
    )


def load_rewards(
    name: str, folders: Mapping[str, Path]
) -> Callable[[FloatArray, FloatArray, FloatArray], FloatArray]:
    """Rewards (n,) of steps (s, a, s'), by "mlp" or "wgan"."""
    from tskd_ray.models.reward_mlp import RewardMLP
    from tskd_ray.models.reward_wgan import RewardWGAN

    kind = RewardMLP if name == "mlp" else RewardWGAN
    return kind.load(folders[REWARD_MODELS[name]]).predict


def _extension_rewards(
    name: str, folder: Path, config: Config
) -> Callable[[FloatArray, FloatArray, FloatArray], FloatArray]:
    extension = reward_extension(config.stitch)
    assert extension is not None, "none of ours has this name"
    fitted = load_fitted(folder, REWARD_EXTENSION)

    def rewards(s: FloatArray, a: FloatArray, s2: FloatArray) -> FloatArray:
        with calling(name):
            found = np.asarray(extension.predict(fitted, s, a, s2))
        require_shape(name, found, (len(s),))
        return found

    return rewards


def price_hops(
    *,
    ddr2: Path,
    config: Config,
    states: FloatArray,
    next_states: FloatArray,
    progress: Progress = silent,
) -> tuple[Float32Array, float]:
    """DDR-II's reward of each hop, and its CPU seconds; may be a task of `run_tasks`."""
    from tskd_ray.diffusion.ddr import RewardDiffuser
    from tskd_ray.models.arithmetic import Arithmetic

    meter = Meter()
    compute = config.compute
    diffuser = RewardDiffuser.load(ddr2, compute.device, Arithmetic.of(compute))
    sampler = config.teacher.reward_sampler
    rewards = diffuser.reward(states, next_states, sampler=sampler, seed=config.seed)
    return rewards, meter.own_seconds
