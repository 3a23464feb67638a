"""Students by offline reinforcement learning, with TorchRL's losses: TD3+BC, IQL and CQL.

The policy is the network that behaviour cloning trains: an MLP through tanh. TorchRL computes
the losses and moves the target networks; `models/fit.py` optimises all networks of all students
in one loop, each student with losses, batches and noise of its own.

M students · B batch · N steps · E episodes · S observation dim · A action dim
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tskd_ray.config.schema import DistillConfig
from tskd_ray.config.schema.student import CriticConfig
from tskd_ray.data.extensions import require_packages
from tskd_ray.models.mlp import BatchedMLP, MemberKey, batched_forward
from tskd_ray.models.policy import Policy
from tskd_ray.models.randomness import own_generator
from tskd_ray.seeding import seed_number
from tskd_ray.training.cloning import Batches, Learner, Lessons, mlp_policy
from tskd_ray.types import Float32Array

RETURN_RANGE = 1000.0
"""Of scaled rewards in IQL, as its authors scale those of locomotion."""
LOG_STD = (-5.0, 2.0)
"""Bounds of IQL's log standard deviations, its authors'."""

SAC_LOG_STD = (-20.0, 2.0)
"""Of CQL's, which are those of soft actor-critic."""


class ActorCritic(nn.Module):
    """A student in training: its policy, its critics, and TorchRL's losses of them."""

    losses: Any
    """TorchRL's: it holds all parameters, and the target networks as buffers."""

    def __init__(
        self, lesson: Lessons, settings: DistillConfig, seed: int, key: MemberKey
    ) -> None:
        super().__init__()
        self.settings, self._seed, self._key = settings, seed, key
        self.widths = len(lesson.observation.mean_), len(lesson.low)

    @abstractmethod
    def loss(self, batch: Any, step: int) -> Tensor:
        """Of the networks that the step trains, on a TensorDict of transitions (B,)."""

    def network(self, name: str, width_in: int, width_out: int) -> BatchedMLP:
        """One of one member; a policy begins as the one that clones."""
        key = self._key if name == "policy" else (*self._key, name)
        hidden = self.settings.hidden
        return BatchedMLP(width_in, width_out, hidden, seed=self._seed, keys=[key])

    def critic(self) -> Any:
        """A network Q(s, a), of which TorchRL makes two."""
        net = _Joined(self.network("q0", sum(self.widths), 1))
        return _module(net, ["observation", "action"], ["state_action_value"])

    def take(self, losses: Any, policy: BatchedMLP, critic: CriticConfig) -> None:
        """Keep TorchRL's losses, with the target networks equal to the others."""
        with torch.no_grad():  # TorchRL draws them from torch's global generator
            critics = [self.network(name, sum(self.widths), 1) for name in ("q0", "q1")]
            both = [dict(critic.named_parameters()) for critic in critics]
            for name, pair in losses.qvalue_network_params["module", "network"].items(
                True, True
            ):
                pair.copy_(torch.stack([one[".".join(name)] for one in both]))
        losses.make_value_estimator(gamma=critic.discount)
        self.losses = losses
        objectives = import_module("torchrl.objectives")
        self.targets = objectives.SoftUpdate(losses, tau=critic.target_rate)
        self.layers = list(policy.parameters())  # which `losses` trains in place

    def policy_layers(self) -> list[Tensor]:
        """Of the network whose tanh is the policy's action: all weights, then all biases."""
        depth, actions = len(self.layers) // 2, self.widths[1]
        return [
            layer[..., :actions] if number % depth == depth - 1 else layer
            for number, layer in enumerate(self.layers)
        ]

    def own_noise(self, step: int) -> AbstractContextManager[None]:
        """TorchRL draws from torch's global generator: here, this student's and step's own."""
        return own_generator(seed_number(self._seed, *self._key, "noise", step))


class TD3BC(ActorCritic):
    """TD3+BC: policy and targets move every `policy_delay` steps."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        settings, policy = self.settings.td3bc, self.network("policy", *self.widths)
        losses = import_module("torchrl.objectives").TD3BCLoss(
            _module(_Squashed(policy), ["observation"], ["action"]),
            self.critic(),
            bounds=(-1.0, 1.0),
            policy_noise=settings.policy_noise,
            noise_clip=settings.noise_clip,
            alpha=settings.alpha,
            loss_function="l2",
            deactivate_vmap=True,
        )
        self.take(losses, policy, settings)

    def loss(self, batch: Any, step: int) -> Tensor:
        delay = self.settings.td3bc.policy_delay
        if step and step % delay == 0:
            self.targets.step()
        with self.own_noise(step):
            loss, _ = self.losses.qvalue_loss(batch)
        if (step + 1) % delay == 0:
            loss = loss + self.losses.actor_loss(batch)[0]
        return loss


class IQL(ActorCritic):
    """Implicit Q-learning: a Gaussian policy around tanh(network), one spread everywhere."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        settings, policy = self.settings.iql, self.network("policy", *self.widths)
        value = _Joined(self.network("value", self.widths[0], 1))
        modules = import_module("torchrl.modules")
        losses = import_module("torchrl.objectives").IQLLoss(
            modules.ProbabilisticActor(
                _module(_Gaussian(policy), ["observation"], ["loc", "scale"]),
                in_keys=["loc", "scale"],
                distribution_class=modules.IndependentNormal,
            ),
            self.critic(),
            _module(value, ["observation"], ["state_value"]),
            loss_function="l2",
            expectile=settings.expectile,
            temperature=settings.temperature,
            deactivate_vmap=True,
        )
        self.take(losses, policy, settings)

    def loss(self, batch: Any, step: int) -> Tensor:
        if step:
            self.targets.step()
        parts = (self.losses.value_loss, self.losses.qvalue_loss, self.losses.actor_loss)
        return torch.stack([part(batch)[0] for part in parts]).sum()


class CQL(ActorCritic):
    """Conservative Q-learning: soft actor-critic, whose critics are kept low off the data.

    The conservative term is ours. TorchRL's takes a logarithm of three exponentials, one action
    of each kind, where the published one has all of them under one logarithm, and rates the
    next state's actions there instead of at s.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        modules = import_module("torchrl.modules")
        states, actions = self.widths
        settings, policy = self.settings.cql, self.network("policy", states, 2 * actions)
        self.actor = modules.ProbabilisticActor(
            _module(_Spread(policy), ["observation"], ["loc", "scale"]),
            in_keys=["loc", "scale"],
            distribution_class=modules.TanhNormal,
        )
        losses = import_module("torchrl.objectives").CQLLoss(
            self.actor,
            self.critic(),
            loss_function="l2",
            target_entropy=-float(actions),
            deactivate_vmap=True,
        )
        self.take(losses, policy, settings)

    def loss(self, batch: Any, step: int) -> Tensor:
        if step:
            self.targets.step()
        with self.own_noise(step):
            q_loss, _ = self.losses.q_loss(batch)
            actor_loss, told = self.losses.actor_loss(batch)
            conservative = self.settings.cql.conservatism * self.conservative_loss(batch)
        return q_loss + actor_loss + self.losses.alpha_loss(told)[0] + conservative

    def conservative_loss(self, batch: Any) -> Tensor:
        """Σ over critics of mean(log Σⱼ exp(Q(s, aⱼ) − log μⱼ(aⱼ)) − Q(s, a)), appendix F.

        The actions aⱼ are drawn from μⱼ: uniform, the policy at s, the policy at s'.
        """
        s, a, n = batch["observation"], batch["action"], self.settings.cql.actions
        with torch.no_grad():
            drawn = [2.0 * torch.rand(n, *a.shape) - 1.0]
            density = [torch.full((n, len(a)), -math.log(2.0) * a.shape[1])]
            for state in (s, batch["next", "observation"]):
                policy = self.actor.get_dist(_observed(state))
                drawn.append(policy.sample((n,)))
                density.append(policy.log_prob(drawn[-1]))
        actions = torch.cat([a[None], *drawn])  # (1 + 3n, B, A)
        inputs = torch.cat([s.expand(len(actions), *s.shape), actions], dim=-1)
        layers = self.losses.qvalue_network_params["module", "network"]
        depth = len(self.settings.hidden) + 1
        weights, biases = (
            [layers[kind, str(layer)][:, 0] for layer in range(depth)]
            for kind in ("weights", "biases")
        )
        q = batched_forward(weights, biases, inputs.flatten(0, 1))  # of both critics
        recorded, other = q.view(2, *actions.shape[:2]).split([1, 3 * n], dim=1)
        low = torch.logsumexp(other - torch.cat(density), dim=1) - recorded[:, 0]
        return low.mean(1).sum()


METHODS: dict[str, type[ActorCritic]] = {"td3bc": TD3BC, "iql": IQL, "cql": CQL}


class OfflineLearner(Learner):
    """All students of one of these methods."""

    def __init__(
        self,
        lessons: Sequence[Lessons],
        settings: DistillConfig,
        seed: int,
        keys: Sequence[MemberKey],
    ) -> None:
        """Make networks and losses.

        Raises:
            ConfigError: Without TorchRL.
        """
        require_packages(settings.method)
        super().__init__()
        self._lessons = [lesson for lesson in lessons for _ in range(settings.seeds)]
        self.students = [
            METHODS[settings.method](lesson, settings, seed, key)
            for lesson, key in zip(self._lessons, keys, strict=True)
        ]
        self.networks = nn.ModuleList(self.students)
        scaled = settings.method == "iql"
        tables = [
            transitions(lesson, reward_scale(lesson) if scaled else 1.0) for lesson in lessons
        ]
        self._batches = Batches(tables, settings, seed, keys)

    def loss(self, step: int) -> Tensor:
        rows = self._batches(step)
        each = [
            student.loss(tensordict(batch, *student.widths), step)
            for student, batch in zip(self.students, rows, strict=True)
        ]
        return torch.stack(each).sum()

    def weights(self) -> list[Tensor]:
        layers = [student.policy_layers() for student in self.students]
        return [torch.cat(layer).detach() for layer in zip(*layers, strict=True)]

    def policy(self, weights: Sequence[Tensor], member: int, details: dict[str, Any]) -> Policy:
        return mlp_policy(weights, member, self._lessons[member], details)


def transitions(lesson: Lessons, scale: float = 1.0) -> Float32Array:
    """Rows (s, a, r · scale, whether the task ended, s'), (N, 2S + A + 2).

    An episode that was only cut short did not end: its last s' is worth something.
    """
    some = lesson.trajectories
    states, ended = lesson.states(), np.zeros(some.n_steps, dtype=np.float32)
    ended[some.offsets[1:] - 1] = some.terminated
    rewards = some.rewards.astype(np.float32) * np.float32(scale)
    columns = (
        states[some.step_state],
        lesson.actions(),
        rewards[:, None],
        ended[:, None],
        states[some.step_state + 1],
    )
    return np.concatenate(columns, axis=1)


def tensordict(rows: Tensor, states: int, actions: int) -> Any:
    """Rows of `transitions`, (B, …), as TorchRL takes them."""
    s, a, r, ended, s2 = rows.split([states, actions, 1, 1, states], dim=-1)
    after = {"observation": s2, "reward": r, "terminated": ended > 0, "done": ended > 0}
    size = [len(rows)]
    made = import_module("tensordict").TensorDict
    return made({"observation": s, "action": a, "next": made(after, size)}, size)


def _observed(states: Tensor) -> Any:
    return import_module("tensordict").TensorDict({"observation": states}, [len(states)])


def reward_scale(lesson: Lessons) -> float:
    """What makes returns range over 1000: IQL's temperature is in those units.

    The range includes a return of zero: the published one, from the worst episode to the best,
    would tell nothing of data selected for its returns.
    """
    returns = lesson.trajectories.returns
    extent = max(returns.max(), 0.0) - min(returns.min(), 0.0)
    return RETURN_RANGE / extent if extent > 0 else 1.0


def _module(network: nn.Module, inputs: list[str], outputs: list[str]) -> Any:
    return import_module("tensordict.nn").TensorDictModule(network, inputs, outputs)


class _Joined(nn.Module):
    """Inputs (B, …) side by side through a network of one member."""

    def __init__(self, network: BatchedMLP) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network(torch.cat(inputs, dim=-1))[0]


class _Squashed(_Joined):
    """Actions (B, A) in [−1, 1]."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.tanh(super().forward(*inputs))


class _Gaussian(nn.Module):
    """Means in [−1, 1] and standard deviations (B, A)."""

    def __init__(self, network: BatchedMLP) -> None:
        super().__init__()
        self.mean = _Squashed(network)
        self.log_std = nn.Parameter(torch.zeros(network.widths[-1]))

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.mean(states)
        return mean, self.log_std.clamp(*LOG_STD).exp().expand_as(mean)


class _Spread(nn.Module):
    """Means before tanh, and standard deviations that depend on the state, (B, A)."""

    def __init__(self, network: BatchedMLP) -> None:
        super().__init__()
        self.network = network

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.network(states)[0].chunk(2, dim=-1)
        return mean, log_std.clamp(*SAC_LOG_STD).exp()
