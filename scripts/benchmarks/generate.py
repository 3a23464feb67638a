"""Environment steps of generation per CPU second, against the published loop.

The published loop is Algorithm 1 as one writes it: for each environment step, 200 DDPM steps
of two forwards each, with the condition and without, in torch; then inverse dynamics and one
step of the learned dynamics. All trajectories advance in one batch. The network is the small
one (base width 32) with a horizon of 100. Weights are hardly trained, and nothing ends: time
does not depend on either. That the loop computes what ours computes by the same settings is
checked first, on the same noise.

--actors times whole shards on Ray instead: in process, with one worker, with two.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.networks import load

if TYPE_CHECKING:
    from tskd_ray.config.schema import GenerateConfig
    from tskd_ray.diffusion.teacher import Teacher

PUBLISHED = {"sampler": {"name": "ddpm", "steps": 200, "guidance": 1.2}, "replan_every": 1}
"""As the paper samples; temperature 0.5 is the default."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this subject."""
    parser.add_argument("--dataset", default="builtin:hopper-medium-replay")
    parser.add_argument("--trajectories", type=int, default=64)
    parser.add_argument("--horizon", type=int, default=100, help="planned rows, H - C")
    parser.add_argument("--steps", type=int, default=100, help="environment steps of ours")
    parser.add_argument("--sampler", default="ddim", help="of ours")
    parser.add_argument("--sampler-steps", type=int, default=2, help="of ours")
    parser.add_argument("--replan-every", type=int, default=1, help="of ours")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--actors", action="store_true", help="scaling on Ray instead")


def run(arguments: argparse.Namespace) -> None:
    """Time all contestants in turn and print the rates."""
    import torch

    torch.set_num_threads(arguments.threads)
    teacher = _teacher(arguments)
    if arguments.actors:
        _scaling(teacher, arguments)
        return
    _check(teacher)
    n = arguments.trajectories
    slow, fast = _settings(**PUBLISHED, max_steps=1), _fast(arguments)
    contestants: dict[str, Callable[[], tuple[float, int]]] = {
        "published loop": lambda: _timed(partial(_published, teacher, range(n), 1), n),
        "its settings, our engine": lambda: _ours(teacher, slow, n),
        "few steps, torch's network": lambda: _ours(_plain(teacher), fast, n),
        "few steps, our engine": lambda: _ours(teacher, fast, n),
    }
    best = dict.fromkeys(contestants, 0.0)
    for _ in range(arguments.rounds):
        for name, contestant in contestants.items():
            seconds, steps = contestant()
            best[name] = max(best[name], steps / seconds)
    print(
        f"{n} trajectories, {arguments.horizon} planned rows, {arguments.threads} thread(s), "
        f"best of {arguments.rounds} rounds; few steps: {fast.sampler.name} "
        f"{fast.sampler.steps}, replanning every {fast.replan_every}"
    )
    print(f"{'':<28}{'steps per CPU second':>22}{'x published':>13}")
    for name, rate in best.items():
        print(f"{name:<28}{rate:>22.2f}{rate / best['published loop']:>13.1f}")


def _settings(**changes: Any) -> GenerateConfig:
    """Of the small preset, with a box that nothing leaves."""
    from tskd_ray.config.load import load_config
    from tskd_ray.config.schema import GenerateConfig

    plain = load_config("small", []).generate.model_dump()
    return GenerateConfig.model_validate({**plain, "box_margin": 1e30, **changes})


def _fast(arguments: argparse.Namespace) -> GenerateConfig:
    sampler = {"name": arguments.sampler, "steps": arguments.sampler_steps, "guidance": 1.2}
    return _settings(
        sampler=sampler, replan_every=arguments.replan_every, max_steps=arguments.steps
    )


def _teacher(arguments: argparse.Namespace) -> Teacher:
    from tskd_ray.config.load import load_config
    from tskd_ray.diffusion.ddr import TrajectoryDiffuser
    from tskd_ray.diffusion.teacher import Teacher, facts
    from tskd_ray.models.inverse_dynamics import InverseDynamics
    from tskd_ray.models.termination import Termination
    from tskd_ray.models.transition import Transition

    recorded = load(arguments.dataset)
    changes = [
        f"teacher.trajectory.horizon={arguments.horizon + 1}",
        "teacher.trajectory.fit.steps=20",
        "teacher.inverse_dynamics.steps=20",
        "teacher.transition.steps=20",
    ]
    config = load_config("small", changes).teacher
    diffuser = TrajectoryDiffuser(config, recorded.observation_dim)
    diffuser.fit(recorded, 0)
    termination = Termination.fit(recorded, config.transition, 0)
    return Teacher(
        diffuser=diffuser,
        inverse_dynamics=InverseDynamics.fit(recorded, config.inverse_dynamics, 0),
        transition=Transition.fit(recorded, config.transition, 0),
        termination=replace(termination, network=None),
        **facts(recorded),
    )


def _timed(function: Callable[[], object], steps: int) -> tuple[float, int]:
    began = time.process_time()
    function()
    return time.process_time() - began, steps


def _ours(teacher: Teacher, settings: GenerateConfig, n: int) -> tuple[float, int]:
    from tskd_ray.diffusion.rollout import generate

    steps = n * int(settings.max_steps or 0)
    return _timed(partial(generate, teacher, settings, ids=range(n), seed=0, slots=n), steps)


def _plain(teacher: Teacher) -> Teacher:
    """The same teacher, whose network is a stranger to our compiler: torch runs it."""
    import copy

    from torch import Tensor, nn

    class Stranger(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *inputs: Tensor) -> Tensor:
            return self.inner(*inputs)

    other = copy.copy(teacher.diffuser)
    other.model = copy.deepcopy(other.model)
    other.model.network = Stranger(other.model.network)
    return replace(teacher, diffuser=other)


def _published(teacher: Teacher, ids: range, steps: int) -> np.ndarray:
    """States (B, steps + 1, S) of the loop as it is published."""
    import torch

    from tskd_ray.seeding import numpy_rng

    rngs = [numpy_rng(0, "generate", 0, number) for number in ids]
    states = np.stack([teacher.starts[rng.integers(len(teacher.starts))] for rng in rngs])
    visited = [states]
    for _ in range(steps):
        with torch.no_grad():
            plan = _ancestral(teacher, states, rngs)
            after = teacher.diffuser.codec.decode_states(
                plan[..., :-1], np.zeros(len(ids), dtype=np.int64), states
            )[:, 1]
            states = _move(teacher, states, after)
        visited.append(states)
    return np.stack(visited, axis=1)


def _ancestral(
    teacher: Teacher, states: np.ndarray, rngs: list[np.random.Generator]
) -> np.ndarray:
    """A plan (B, H, S + 1) by all DDPM steps, two forwards each."""
    import torch

    diffuser = teacher.diffuser
    model, batch, horizon = diffuser.model, len(states), diffuser.settings.horizon
    context = torch.from_numpy(diffuser.codec.context(states))[:, None].expand(-1, horizon, -1)
    shape = (batch, horizon, model.channels)

    def noise() -> torch.Tensor:
        drawn = [rng.standard_normal(shape[1:], dtype=np.float32) for rng in rngs]
        return torch.from_numpy(np.stack(drawn)) * 0.5**0.5

    ones = torch.ones(batch)
    x = noise()
    for i in reversed(range(len(model.alpha_bar))):
        x[:, 0, :-1] = 0  # the current state: no difference to itself, after whitening
        rows, step = torch.cat([x, context], dim=-1), torch.full((batch,), i)
        with_condition = model.network(rows, step, ones, ones)
        without = model.network(rows, step, ones, 0 * ones)
        v = without + 1.2 * (with_condition - without)
        a = float(model.alpha_bar[i])
        x0 = (a**0.5 * x - (1 - a) ** 0.5 * v).clamp(-model.clip, model.clip)
        if i == 0:
            return x0.numpy()
        before = float(model.alpha_bar[i - 1])
        beta = 1 - a / before
        mean = before**0.5 * beta / (1 - a) * x0
        mean = mean + (a / before) ** 0.5 * (1 - before) / (1 - a) * x
        x = mean + (beta * (1 - before) / (1 - a)) ** 0.5 * noise()
    raise AssertionError("there is a last step")


def _move(teacher: Teacher, states: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Where the learned dynamics go under the inverse dynamics' action, in torch."""
    import torch

    inverse, forward = teacher.inverse_dynamics, teacher.transition
    inputs = [inverse.state.normalize(states), inverse.step.normalize(after - states)]
    scaled = inverse.network(torch.from_numpy(np.concatenate(inputs, axis=1)))[0].numpy()
    half = (inverse.high - inverse.low) / 2
    actions = np.clip(
        scaled.clip(-1, 1) * half + (inverse.low + inverse.high) / 2, inverse.low, inverse.high
    )
    pairs = forward.inputs.normalize(np.concatenate([states, actions], axis=1))
    moved = forward.network(torch.from_numpy(pairs.astype(np.float32))).mean(0).numpy()
    return (states + forward.outputs.unnormalize(moved)[:, :-1]).astype(np.float32)


def _check(teacher: Teacher) -> None:
    """The published loop and our engine agree by the same settings, on the same noise."""
    from tskd_ray.diffusion.rollout import generate

    theirs = _published(teacher, range(2), 2)
    settings = _settings(**PUBLISHED, max_steps=2)
    made = generate(teacher, settings, ids=range(2), seed=0).trajectories
    ours = made.observations.reshape(theirs.shape)
    scale = np.abs(np.diff(theirs, axis=1)).max()
    worst = float(np.abs(ours - theirs).max() / scale)
    assert worst < 1e-2, f"the published loop and ours differ by {worst:.2g} of a step"
    print(
        f"same plans: two steps of two trajectories differ by {worst:.1e} of the largest step"
    )


def _scaling(teacher: Teacher, arguments: argparse.Namespace) -> None:
    import ray

    from tskd_ray.config.schema import ComputeConfig
    from tskd_ray.distributed.generate import generate_shards, plan_shards
    from tskd_ray.distributed.session import session

    settings = _fast(arguments)
    shards = plan_shards(arguments.trajectories, max(1, arguments.trajectories // 8))
    kept: dict[int, Any] = {}
    seconds: dict[str, float] = {}
    ways = {"in process": ("local", 1), "one worker": ("ray", 1), "two workers": ("ray", 2)}
    for name, (mode, workers) in ways.items():
        compute = ComputeConfig(mode=mode, workers=workers)  # type: ignore[arg-type]
        with session(compute):
            for count in (1, len(shards)):  # first a shard, which starts and loads everything
                began = time.perf_counter()
                results: dict[int, Any] = {}
                generate_shards(
                    partial(_Worker, teacher, settings),
                    shards[:count],
                    compute,
                    on_result=results.__setitem__,
                )
                seconds[f"{name}, start" if count == 1 else name] = time.perf_counter() - began
            same = all(np.array_equal(results[k], kept.get(k, results[k])) for k in results)
            assert same, "workers must not change results"
            kept = results
        ray.shutdown()
    one = seconds["one worker"]
    print(f"{len(shards)} shards, {arguments.trajectories} x {arguments.steps} steps; seconds")
    for name in ways:
        print(
            f"{name:<14}{seconds[name]:>8.1f}   one shard, with start "
            f"{seconds[f'{name}, start']:>6.1f}   of one worker {seconds[name] / one:>6.2f}"
        )
    print(f"two workers are {one / seconds['two workers']:.2f}x one, starts included")


class _Worker:
    """What an actor holds."""

    def __init__(self, teacher: Teacher, settings: GenerateConfig) -> None:
        self.teacher, self.settings = teacher, settings

    def process(self, shard: Any) -> Any:
        """One shard's states."""
        from tskd_ray.diffusion.rollout import generate

        ids = range(shard.payload["start"], shard.payload["stop"])
        return generate(self.teacher, self.settings, ids=ids, seed=0).trajectories.observations
