"""The stages that train a small network: all but the diffusion models and the students."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tskd_ray.config.schema import FitConfig
    from tskd_ray.models.mlp import BatchedMLP
    from tskd_ray.pipeline.stages import Work


def _train(work: Work, model: Any, **options: Any) -> None:
    fitted = model.fit(
        work.joined(),
        seed=work.config.seed,
        resume=work.scratch,
        progress=work.progress,
        **options,
    )
    curve = fitted.metrics_.pop("curve", [])
    fitted.save(work.out)
    work.write_json("curve", curve)
    work.write_json("metrics", fitted.metrics_)
    if fitted.network is not None:
        members = options.get("members", fitted.network.n_members)
        count_flops(work, fitted.network, options["settings"], members)


def count_flops(work: Work, network: BatchedMLP, fit: FitConfig, members: int) -> None:
    """Tell the operations of a training step; evaluations beside it are not counted."""
    from tskd_ray.models.flops import training_flops

    one = training_flops(network.members([0]), (1, fit.batch_size, network.widths[0]))
    work.told["flops_per_item"] = members * one


def train_inverse_dynamics(work: Work) -> None:
    """Inverse dynamics (eq. 7)."""
    from tskd_ray.models.inverse_dynamics import InverseDynamics

    _train(work, InverseDynamics, settings=work.config.teacher.inverse_dynamics)


def fit_cross_value(work: Work) -> None:
    """V of the recorded behaviour, whose advantages DDR-I is conditioned on (D25)."""
    from tskd_ray.models.cross_fit_value import CrossFitValue

    settings = work.config.teacher.advantage
    _train(work, CrossFitValue, settings=settings.fit, discount=settings.discount)


def train_transition(work: Work) -> None:
    """Action-conditioned dynamics of offline rollouts (D8)."""
    from tskd_ray.models.transition import Transition

    _train(work, Transition, settings=work.config.teacher.transition)


def train_termination(work: Work) -> None:
    """Termination classifier (D10)."""
    from tskd_ray.models.termination import Termination

    _train(work, Termination, settings=work.config.teacher.transition)


def train_dynamics(work: Work) -> None:
    """State-only Gaussian ensemble of the stitching criterion (eq. 8)."""
    from tskd_ray.models.forward_dynamics import ForwardDynamics

    stitch = work.config.stitch
    _train(
        work,
        ForwardDynamics,
        settings=stitch.dynamics,
        members=stitch.members,
        best=stitch.best_members,
    )


def train_action_vae(work: Work) -> None:
    """Actions of MBTS's hops."""
    from tskd_ray.models.action_vae import ActionVAE

    _train(work, ActionVAE, settings=work.config.stitch.action_fit)


def train_reward_mlp(work: Work) -> None:
    """Rewards of (s, a, s') by regression."""
    from tskd_ray.models.reward_mlp import RewardMLP

    _train(work, RewardMLP, settings=work.config.stitch.reward_fit)


def train_reward_wgan(work: Work) -> None:
    """Rewards of (s, a, s') drawn from a Wasserstein GAN: MBTS's."""
    from tskd_ray.models.reward_wgan import RewardWGAN

    _train(work, RewardWGAN, settings=work.config.stitch.reward_fit)


def fit_value(work: Work) -> None:
    """V on D' (eq. 10), anew in each epoch."""
    from tskd_ray.models.value import TwinValue

    _train(
        work,
        TwinValue,
        settings=work.config.stitch.value,
        discount=work.config.teacher.discount,
    )
