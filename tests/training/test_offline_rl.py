"""Students by TorchRL's losses, against the published ones written out; with TorchRL only.

pip install --no-deps -r tests/requirements-students.lock
"""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from toy_world import SPACE, toy_trajectories
from tskd_ray.config.schema import DistillConfig, FitConfig
from tskd_ray.data import extensions
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.errors import ConfigError
from tskd_ray.models import fit as fit_module
from tskd_ray.models.batches import action_bounds
from tskd_ray.models.standardizer import Standardizer
from tskd_ray.seeding import seed_sequence
from tskd_ray.training.cloning import Lessons
from tskd_ray.training.distill import distill
from tskd_ray.training.offline_rl import OfflineLearner, reward_scale, tensordict, transitions

pytestmark = [
    pytest.mark.skipif(find_spec("torchrl") is None, reason="without torchrl"),
    # TorchRL names the start method of processes, too late where a cluster has been started.
    pytest.mark.filterwarnings("ignore:failed to set start method to spawn:UserWarning"),
]
STATES = np.random.default_rng(0).normal(scale=0.3, size=(50, 2))
KEY = ("student", "a", 0)


def settings(method: str, **options: Any) -> DistillConfig:
    fit = FitConfig(steps=30, batch_size=16, learning_rate=3e-3, ema_decay=0.0)
    small: dict[str, Any] = {"method": method, "seeds": 2, "hidden": (16, 16), "fit": fit}
    return DistillConfig(**small | options)


def lessons(trajectories: Trajectories) -> Lessons:
    observation = Standardizer.fit(trajectories.observations)
    return Lessons(trajectories, observation, *action_bounds(trajectories))


class Literal:
    """A student's networks, layer by layer, and a batch, with the published names."""

    def __init__(self, method: str) -> None:
        self.chosen = settings(method)
        lesson = lessons(toy_trajectories(30))
        self.learner = OfflineLearner([lesson], self.chosen, 0, [KEY, ("student", "a", 1)])
        self.student, _ = self.learner.students
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():  # targets that differ from what they follow
            for name, part in self.student.losses.named_buffers():
                if name.startswith("target_") and "network" in name:
                    part += 0.1 * torch.randn(part.shape, generator=generator)
        rows = torch.from_numpy(transitions(lesson))
        ended = torch.nonzero(rows[:, 4] > 0)[:, 0]
        assert len(ended) > 5
        self.rows = rows[torch.cat([torch.arange(40), ended[:5]])]
        self.s, self.a, self.r, self.d, self.s2 = self.rows.split([2, 1, 1, 1, 2], dim=1)
        self.batch = tensordict(self.rows, 2, 1)
        named = self.student.losses.named_parameters(), self.student.losses.named_buffers()
        self.parts = {name: part for parts in named for name, part in parts}

    def mlp(self, name: str, x: Tensor, which: int | None = None) -> Tensor:
        """Network `name` of TorchRL's, one of two if `which` says so."""
        for layer in range(3):
            weight, bias = (
                self.parts[f"{name}_params.module.{inner}{kind}.{layer}"]
                for kind in ("weights", "biases")
                for inner in [self.inner(name)]
            )
            if which is not None:
                weight, bias = weight[which], bias[which]
            x = x @ weight[0] + bias[0]
            x = x.relu() if layer < 2 else x
        return x

    def inner(self, name: str) -> str:
        (found,) = {
            key.removeprefix(f"{name}_params.module.").removesuffix("weights.0")
            for key in self.parts
            if key.startswith(f"{name}_params.") and key.endswith("weights.0")
        }
        return found

    def q(self, s: Tensor, a: Tensor, which: int, target: bool = False) -> Tensor:
        name = "target_qvalue_network" if target else "qvalue_network"
        return self.mlp(name, torch.cat([s, a], dim=1), which)

    def agrees(self, loss: Tensor, of: dict[str, Any], tolerance: float = 1e-5) -> None:
        """`loss` is the sum, and each network's gradients are those of its own loss."""
        close = partial(torch.testing.assert_close, rtol=tolerance, atol=tolerance)
        close(loss, torch.stack(list(of.values())).sum())
        names = [name for name, _ in self.student.losses.named_parameters()]
        found = torch.autograd.grad(
            loss, [self.parts[name] for name in names], allow_unused=True
        )
        for name, gradient in zip(names, found, strict=True):
            network = name.split("_")[0]
            if network not in of:
                assert gradient is None
                continue
            assert gradient is not None
            assert gradient.abs().max() > 0
            (expected,) = torch.autograd.grad(of[network], self.parts[name], retain_graph=True)
            close(gradient, expected)


def test_td3_bc_trains_the_published_losses() -> None:
    x = Literal("td3bc")
    for step in (0, 1):
        state = seed_sequence(0, *KEY, "noise", step).generate_state(1)
        noise = 0.2 * torch.randn(
            x.a.shape, generator=torch.Generator().manual_seed(int(state[0]))
        )
        with torch.no_grad():
            a2 = torch.tanh(x.mlp("target_actor_network", x.s2)) + noise.clamp(-0.5, 0.5)
            a2 = a2.clamp(-1, 1)
            worse = torch.minimum(*(x.q(x.s2, a2, i, target=True) for i in (0, 1)))
            y = x.r + 0.99 * (1 - x.d) * worse
        losses = {"qvalue": sum((x.q(x.s, x.a, i) - y).square().mean() for i in (0, 1))}
        if step:  # the policy's, at every second step
            pi = torch.tanh(x.mlp("actor_network", x.s))
            q = x.q(x.s, pi, 0)
            weight = 2.5 / q.abs().mean().detach()
            losses["actor"] = -weight * q.mean() + (pi - x.a).square().mean()
        x.agrees(x.student.loss(x.batch, step), losses)


def test_iql_trains_the_published_losses() -> None:
    x = Literal("iql")
    v, v2 = x.mlp("value_network", x.s), x.mlp("value_network", x.s2).detach()
    with torch.no_grad():
        q = torch.minimum(*(x.q(x.s, x.a, i, target=True) for i in (0, 1)))
        y = x.r + 0.99 * (1 - x.d) * v2
        weight = torch.exp(3.0 * (q - v)).clamp(max=100.0)
    u = q - v
    deviation = x.parts["actor_network_params.module.0.module.log_std"].exp()
    mean = torch.tanh(x.mlp("actor_network", x.s))
    log_density = torch.distributions.Normal(mean, deviation).log_prob(x.a)
    losses = {
        "value": ((0.7 - (u < 0).float()).abs() * u.square()).mean(),
        "qvalue": sum((x.q(x.s, x.a, i) - y).square().mean() for i in (0, 1)),
        "actor": -(weight * log_density).mean(),
    }
    x.agrees(x.student.loss(x.batch, 0), losses)


def test_cql_trains_the_published_losses() -> None:
    x = Literal("cql")
    state = seed_sequence(0, *KEY, "noise", 0).generate_state(1)
    g = torch.Generator().manual_seed(int(state[0]))
    batch, n = len(x.s), 10

    def policy(s: Tensor, *first: int) -> tuple[Tensor, Tensor]:
        """Actions and their log densities."""
        mean, log_std = x.mlp("actor_network", s).chunk(2, dim=1)
        normal = torch.distributions.Normal(mean, log_std.clamp(-20, 2).exp())
        shape = (*first, *mean.shape)
        u = mean + normal.scale * torch.normal(
            torch.zeros(shape), torch.ones(shape), generator=g
        )
        density = normal.log_prob(u) - torch.log(1 - torch.tanh(u).square())
        return torch.tanh(u), density.sum(-1)

    with torch.no_grad():
        a2, _ = policy(x.s2)
        y = x.r + 0.99 * (1 - x.d) * torch.minimum(*(x.q(x.s2, a2, i, True) for i in (0, 1)))
    pi, density = policy(x.s)
    with torch.no_grad():
        uniform = 2 * torch.rand(n, batch, 1, generator=g) - 1
        drawn = [
            (uniform, torch.full((n, batch), np.log(0.5))),
            policy(x.s, n),
            policy(x.s2, n),
        ]
    q_loss = torch.zeros(())
    for i in (0, 1):
        q = x.q(x.s, x.a, i)
        terms = [
            x.q(x.s, actions[j], i)[:, 0] - mu[j] for actions, mu in drawn for j in range(n)
        ]
        conservative = torch.stack(terms).exp().sum(0).log().mean() - q.mean()
        q_loss = q_loss + (q - y).square().mean() + 5.0 * conservative
    log_alpha = x.parts["log_alpha"]
    with torch.no_grad():
        fixed = {name: part.clone() for name, part in x.parts.items()}
    trained, x.parts = x.parts, x.parts | {k: v for k, v in fixed.items() if k[0] == "q"}
    best = torch.minimum(*(x.q(x.s, pi, i) for i in (0, 1)))[:, 0]
    x.parts = trained
    losses = {
        "qvalue": q_loss,
        "actor": (density * log_alpha.exp().detach() - best).mean(),
        "log": -(log_alpha * (density.detach() - 1.0)).mean(),
    }
    x.agrees(x.student.loss(x.batch, 0), losses, tolerance=1e-4)


def test_targets_follow_after_each_step_or_where_the_policy_is_delayed_every_other() -> None:
    for method, moved_at in (("td3bc", {2, 4}), ("iql", {1, 2, 3, 4}), ("cql", {1, 2})):
        x = Literal(method)
        name = "qvalue_network_params.module.network.weights.1"
        for step in range(max(moved_at) + 1):
            before, follows = x.parts[f"target_{name}"].clone(), x.parts[name]
            x.student.loss(x.batch, step)
            moved = 0.995 * before + 0.005 * follows
            expected = moved if step in moved_at else before
            torch.testing.assert_close(x.parts[f"target_{name}"], expected)


def test_only_an_episode_that_ended_is_worth_nothing_more() -> None:
    short = toy_trajectories(8, limit=5)
    lesson = lessons(short)
    rows = transitions(lesson, 2.0)
    ended = np.zeros(short.n_steps)
    for number in range(short.n_episodes):
        ended[short.offsets[number + 1] - 1] = short.terminated[number]
    assert 0 < short.terminated.sum() < short.n_episodes
    np.testing.assert_array_equal(rows[:, 4], ended)
    np.testing.assert_array_equal(rows[:, 3], 2 * short.rewards)
    last = short.offsets[3] - 1
    after = lesson.observation.normalize(short.episode(2)["observations"][-1:])
    np.testing.assert_array_equal(rows[last, 5:], after[0])


def test_returns_in_iql_range_over_1000_zero_included() -> None:
    toy = toy_trajectories(10)
    scaled = toy.returns * reward_scale(lessons(toy))
    assert max(scaled.max(), 0) - min(scaled.min(), 0) == pytest.approx(1000)
    best = toy.take(np.argsort(toy.returns)[-2:])
    assert (best.returns * reward_scale(lessons(best))).max() == pytest.approx(1000)


@pytest.mark.parametrize("method", ["td3bc", "iql", "cql"])
def test_a_student_is_the_same_killed_or_not_and_in_any_company(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = toy_trajectories(10)
    whole = distill({"a": data}, settings(method), 0, checkpoints=3)["a"]
    monkeypatch.setattr(fit_module, "SAVE_EVERY_SECONDS", 0.0)

    def killed(done: int, total: int, **metrics: float) -> None:
        if done >= 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(
            {"a": data}, settings(method), 0, checkpoints=3, resume=tmp_path, progress=killed
        )
    torch.manual_seed(77)  # no global generator matters
    resumed = distill({"a": data}, settings(method), 0, checkpoints=3, resume=tmp_path)["a"]
    for ours, theirs in zip(whole.policies, resumed.policies, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.act(STATES).tobytes() == other.act(STATES).tobytes()
    alone = distill({"a": data}, settings(method, seeds=1, first_seed=1), 0)["a"]
    np.testing.assert_allclose(
        alone.final[0].act(STATES), whole.final[1].act(STATES), atol=1e-3
    )


def test_a_student_of_values_does_better_than_its_data() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(800, 2, 2))
    pushes = rng.uniform(-2, 2, size=(800, 1, 1))
    best = np.where(states[:, :1, :1] > 0, 1.0, -1.0)
    data = Trajectories.from_episodes(
        (
            {"observations": s, "actions": a, "rewards": -np.abs(a - b)[:, 0], "terminated": 1}
            for s, a, b in zip(states, pushes, best, strict=True)
        ),
        environment=SPACE,
    )
    fit = FitConfig(steps=150, batch_size=64, learning_rate=5e-3, ema_decay=0.0)
    lost = {
        method: np.abs(policy.act(states[:, 0]) - best[:, 0]).mean()
        for method in ("bc", "td3bc", "iql")
        for policy in distill({"a": data}, settings(method, seeds=1, fit=fit), 0)["a"].final
    }
    assert lost["bc"] > 0.8  # the data's mean action, zero, is no good
    assert lost["td3bc"] < 0.5
    assert lost["iql"] < 0.5


def test_without_the_package_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extensions, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"Run: pip install 'tskd-ray\[students\]'"):
        distill({"a": toy_trajectories(5)}, settings("iql"), 0)
