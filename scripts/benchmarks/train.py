"""DDR-I's training: FLOP per second and time outside the network, against a plain loop.

The plain loop has the same network, data, batch size and loss, and is what one would write: a
Dataset that cuts, pads and normalises one window at a time, a DataLoader, torch.optim.Adam, an
average kept tensor by tensor. Rounds alternate. The matrix rate is that of one large product on
the same device, in bfloat16 on CUDA, else float32; the network alone is its passes on one batch
that stays. Shares are of CPU time on a CPU, which neighbours stretch less.
--precision and --compile are `compute.precision` and `compute.compile`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.networks import load

if TYPE_CHECKING:
    from tskd_ray.config.schema import TeacherConfig
    from tskd_ray.data.trajectories import Trajectories


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this subject."""
    parser.add_argument("--dataset", default="builtin:hopper-medium-replay")
    parser.add_argument("--preset", default="small", help="paper: 60 M weights")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--batch-size", type=int, help="default: the preset's")
    parser.add_argument("--steps", type=int, default=40, help="per round")
    parser.add_argument("--rounds", type=int, default=4)


class Took(NamedTuple):
    """Seconds per step."""

    wall: float
    cpu: float


def run(arguments: argparse.Namespace) -> None:
    """Time all contestants in turn and print the rates."""
    import torch

    from tskd_ray.config.load import load_config

    torch.set_num_threads(arguments.threads)
    recorded = load(arguments.dataset)
    teacher = load_config(arguments.preset, []).teacher
    bench = _Bench(recorded, teacher, arguments)
    contestants: dict[str, Callable[[], Took]] = {
        "plain loop": bench.plain,
        "ours": bench.ours,
        "network alone": bench.alone,
    }
    taken: dict[str, list[Took]] = {name: [] for name in contestants}
    for _ in range(arguments.rounds):
        for name, contestant in contestants.items():
            taken[name].append(contestant())
    print(
        f"DDR-I of {arguments.preset}: {bench.weights / 1e6:.2f} M weights, "
        f"batch {bench.batch}, horizon {bench.horizon}, {arguments.device}, "
        f"{arguments.precision}{', compiled' if arguments.compile else ''}, "
        f"{arguments.threads} thread(s), "
        f"{arguments.rounds} rounds of {arguments.steps} steps"
    )
    print(f"{'':<16}{'min ms':>9}{'median':>9}{'CPU, min':>10}{'steps/s':>9}{'GFLOP/s':>9}")
    for name, rounds in taken.items():
        wall = sorted(one.wall for one in rounds)
        cpu = min(one.cpu for one in rounds)
        print(
            f"{name:<16}{wall[0] * 1e3:>9.2f}{statistics.median(wall) * 1e3:>9.2f}"
            f"{cpu * 1e3:>10.2f}{1 / wall[0]:>9.2f}{bench.flops / wall[0] / 1e9:>9.1f}"
        )
    best = {name: min(one.wall for one in rounds) for name, rounds in taken.items()}
    busy = best
    if arguments.device == "cpu":
        busy = {name: min(one.cpu for one in rounds) for name, rounds in taken.items()}
    ratios = [a.wall / b.wall for a, b in zip(taken["plain loop"], taken["ours"], strict=True)]
    rate = _matrix_rate(arguments.device)
    print(
        f"{bench.flops / 1e9:.2f} GFLOP per step; matrix rate {rate / 1e9:,.0f} GFLOP/s, "
        f"of which ours reaches {bench.flops / best['ours'] / rate:.0%}\n"
        f"outside the network: ours {1 - busy['network alone'] / busy['ours']:.1%} of a step, "
        f"plain loop {1 - busy['network alone'] / busy['plain loop']:.1%}\n"
        f"ours is {statistics.median(ratios):.2f}x the plain loop by the clock; the preset's "
        f"{bench.steps:,} steps take {bench.steps * best['ours'] / 3600:.2f} h"
    )


class _Bench:
    """One network's training, three ways."""

    def __init__(
        self, recorded: Trajectories, teacher: TeacherConfig, arguments: argparse.Namespace
    ) -> None:
        from tskd_ray.diffusion.ddr import TrajectoryDiffuser
        from tskd_ray.models.flops import training_flops

        self.recorded, self.arguments = recorded, arguments
        fit = teacher.trajectory.fit
        self.steps = fit.steps
        self.batch = arguments.batch_size or fit.batch_size
        self.rate, self.decay = fit.learning_rate, fit.ema_decay
        self.horizon = teacher.trajectory.horizon
        fit = fit.model_copy(update={"batch_size": self.batch, "steps": arguments.steps + 25})
        trajectory = teacher.trajectory.model_copy(update={"fit": fit})
        self.teacher = teacher.model_copy(update={"trajectory": trajectory})
        self.diffuser = TrajectoryDiffuser(self.teacher, recorded.observation_dim)
        network = self.diffuser.model.network
        self.weights = sum(p.numel() for p in network.parameters())
        channels = self.diffuser.model.channels + self.diffuser.codec.context_channels
        shapes = [(self.batch, self.horizon, channels), *[(self.batch,)] * 3]
        self.flops = training_flops(network, *shapes)

    def ours(self) -> Took:
        """`fit`, from its first progress on, so that making ready is left out."""
        from tskd_ray.models.arithmetic import Arithmetic

        marks: list[tuple[float, float]] = []

        def progress(done: int, total: int, **metrics: float) -> None:
            marks.append(self._now())

        self.diffuser.fit(
            self.recorded,
            0,
            device=self.arguments.device,
            arithmetic=Arithmetic(
                precision=self.arguments.precision, compile=self.arguments.compile
            ),
            progress=progress,
        )
        return self._per_step(marks[0], marks[-1])

    def alone(self) -> Took:
        """Forward and backward passes of the trained network on one batch."""
        import torch

        from tskd_ray.models.arithmetic import Arithmetic

        arithmetic = Arithmetic(
            precision=self.arguments.precision, compile=self.arguments.compile
        )
        network = arithmetic.forward(self.diffuser.model.network)
        channels = self.diffuser.model.channels + self.diffuser.codec.context_channels
        device = self.arguments.device
        x = torch.randn(self.batch, self.horizon, channels, device=device)
        step = torch.randint(self.teacher.trajectory.diffusion_steps, (self.batch,))
        y, keep = torch.rand(self.batch, device=device), torch.ones(self.batch, device=device)
        parameters = list(self.diffuser.model.network.parameters())
        began = self._now()
        for number in range(self.arguments.steps + 5):
            if number == 5:
                began = self._now()
            loss = network(x, step.to(device), y, keep).square().mean()
            torch.autograd.grad(loss, parameters)
        return self._per_step(began, self._now())

    def plain(self) -> Took:
        """A loop as one would write it."""
        import torch

        diffuser, device = self.diffuser, self.arguments.device
        if not hasattr(diffuser.codec, "mean_") and not hasattr(diffuser.codec, "states_"):
            self.ours()  # fits the normalisation, and warms up
        model = diffuser._model().to(device)  # pyright: ignore[reportPrivateUsage]
        average = [p.detach().clone() for p in model.parameters()]
        optimizer = torch.optim.Adam(model.parameters(), lr=self.rate)
        loader: Any = torch.utils.data.DataLoader(
            _windows(self), self.batch, shuffle=True, drop_last=True
        )
        number, began = -5, self._now()
        while number < self.arguments.steps:
            for batch in loader:
                if number == 0:
                    began = self._now()
                x0, clamped, weight, context, y = (part.to(device) for part in batch)
                loss = _plain_loss(model, x0, clamped, weight, context, y)
                optimizer.zero_grad()
                loss.backward()  # pyright: ignore[reportUnknownMemberType]
                optimizer.step()
                with torch.no_grad():
                    for mean, p in zip(average, model.parameters(), strict=True):
                        mean.mul_(self.decay).add_(p, alpha=1 - self.decay)
                number += 1
                if number == self.arguments.steps:
                    break
        return self._per_step(began, self._now())

    def _now(self) -> tuple[float, float]:
        if self.arguments.device == "cuda":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    def _per_step(self, first: tuple[float, float], last: tuple[float, float]) -> Took:
        steps = self.arguments.steps
        return Took((last[0] - first[0]) / steps, (last[1] - first[1]) / steps)


def _windows(bench: _Bench) -> Any:
    """One window per sample: cut, padded, normalised, masked."""
    import numpy as np
    import torch

    data, codec, horizon = bench.recorded, bench.diffuser.codec, bench.horizon
    first = data.step_state
    left = data.final_states[data.step_episode] - first

    class Windows(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return data.n_steps

        def __getitem__(self, index: int) -> Any:
            real = int(min(left[index] + 1, horizon))
            start = first[index]
            states = data.observations[start : start + real]
            states = np.pad(states, ((0, horizon - real), (0, 0)), "edge")
            paid = min(real, int(left[index]))
            rewards = np.pad(data.rewards[index : index + paid], (0, horizon - paid), "edge")
            anchor = np.zeros(1, dtype=np.int64)
            row = np.concatenate(
                [codec.encode_states(states[None], anchor)[0],
                 codec.encode_rewards(rewards)[:, None]], axis=1,
            )  # fmt: skip
            clamped = np.zeros(row.shape, dtype=bool)
            clamped[0, :-1] = True
            weight = np.repeat(codec.row_weights(horizon, anchor)[0][:, None], row.shape[1], 1)
            weight[real:, :-1] = 0.0
            weight[paid:, -1] = 0.0
            weight[clamped] = 0.0
            parts = row, clamped, weight, codec.context(states[:1])[0], np.float32(0.5)
            return tuple(torch.as_tensor(part) for part in parts)

    return Windows()


def _plain_loss(model: Any, x0: Any, clamped: Any, weight: Any, context: Any, y: Any) -> Any:
    import torch

    alpha_bar = torch.as_tensor(model.alpha_bar, dtype=torch.float32, device=x0.device)
    step = torch.randint(len(alpha_bar), (len(x0),), device=x0.device)
    a = alpha_bar[step][:, None, None]
    epsilon = torch.randn_like(x0)
    x = torch.where(clamped, x0, a.sqrt() * x0 + (1 - a).sqrt() * epsilon)
    target = a.sqrt() * epsilon - (1 - a).sqrt() * x0
    if model.prediction == "noise":
        target = epsilon
    if context.shape[1]:
        x = torch.cat([x, context[:, None].expand(-1, x.shape[1], -1)], dim=-1)
    keep = (torch.rand(len(x0), device=x0.device) > 0.25).float()
    return (weight * (model.network(x, step, y, keep) - target) ** 2).sum() / weight.sum()


def _matrix_rate(device: str) -> float:
    """FLOP/s of one large product, the best of many."""
    import torch

    size = 8192 if device == "cuda" else 1024
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    left, right = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    best = float("inf")
    for _ in range(20):
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        torch.mm(left, right)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
