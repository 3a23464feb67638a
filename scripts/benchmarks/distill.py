"""Students: many at once against one alone, and one against a plain DataLoader loop.

The plain loop is what one would write: a Dataset that gives one sample at a time, a DataLoader,
nn.Sequential and torch.optim.Adam, on the same standardised rows. All take the same number of
steps in each round, and rounds alternate, so that a busy machine slows all alike. The floor is
what the matrix products of one student's step take by themselves: nothing in float32 is faster.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.networks import load

if TYPE_CHECKING:
    import numpy as np

    from tskd_ray.data.trajectories import Trajectories

RATE = 1e-3
HIDDEN = (256, 256)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this subject."""
    parser.add_argument("--dataset", default="builtin:hopper-medium-replay")
    parser.add_argument("--students", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=400, help="of one student, per round")
    parser.add_argument("--rounds", type=int, default=5)


class Run(NamedTuple):
    """One training."""

    wall: float  # seconds per step
    cpu: float
    loss: float  # of the last student on all rows


def run(arguments: argparse.Namespace) -> None:
    """Time all contestants in turn and print the ratios."""
    import torch

    torch.set_num_threads(arguments.threads)
    recorded = load(arguments.dataset)
    count = arguments.students
    contestants: dict[str, Callable[[], Run]] = {
        "plain DataLoader loop, one": lambda: _plain(recorded, arguments),
        "ours, one": lambda: _ours(recorded, arguments, 1),
        f"ours, {count} at once": lambda: _ours(recorded, arguments, count),
    }
    short = argparse.Namespace(**{**vars(arguments), "steps": 20})
    _plain(recorded, short)
    _ours(recorded, short, count)
    taken: dict[str, list[Run]] = {name: [] for name in contestants}
    for _ in range(arguments.rounds):
        for name, contestant in contestants.items():
            taken[name].append(contestant())
    print(
        f"{recorded.n_steps:,} rows, batch {arguments.batch_size}, {arguments.steps} steps, "
        f"{arguments.rounds} rounds, {arguments.threads} thread(s); ms per step"
    )
    print(f"{'':<28}{'min':>9}{'median':>9}{'CPU, min':>10}{'loss':>9}")
    for name, runs in taken.items():
        wall = sorted(one.wall * 1e3 for one in runs)
        cpu = min(one.cpu for one in runs) * 1e3
        print(
            f"{name:<28}{wall[0]:>9.3f}{statistics.median(wall):>9.3f}{cpu:>10.3f}"
            f"{runs[-1].loss:>9.4f}"
        )
    floor = _floor(recorded, arguments.batch_size)
    print(f"{'matrix products of one':<28}{floor * 1e3:>9.3f}")
    plain, one, many = taken.values()
    for title, slow, fast in (
        (f"{count} at once cost, in times one of ours", many, one),
        (f"{count} at once cost, in times one plain loop", many, plain),
        ("one is faster than the plain loop by", plain, one),
    ):
        ratios = [a.wall / b.wall for a, b in zip(slow, fast, strict=True)]
        cpu = min(a.cpu for a in slow) / min(b.cpu for b in fast)
        print(f"{title:<44}{statistics.median(ratios):>7.2f}x by the clock, {cpu:.2f}x by CPU")
    least = min(one.cpu for one in plain) / floor
    print(f"{'no float32 can be faster than that by more than':<44}{least:>4.2f}x")


def _ours(recorded: Trajectories, arguments: argparse.Namespace, students: int) -> Run:
    from tskd_ray.config.schema import DistillConfig, FitConfig
    from tskd_ray.training.distill import distill

    marks: list[tuple[float, float]] = []

    def progress(done: int, total: int, **metrics: float) -> None:
        marks.append((time.perf_counter(), time.process_time()))

    fit = FitConfig(
        steps=arguments.steps + 25,  # told every 25: from the first word on, making-ready apart
        batch_size=arguments.batch_size,
        learning_rate=RATE,
        ema_decay=0.0,
    )
    settings = DistillConfig(seeds=students, hidden=HIDDEN, fit=fit)
    found = distill({"a": recorded}, settings, 0, checkpoints=1, progress=progress)["a"]
    _, y = _rows(recorded)
    policy = found.final[-1]
    half = (policy.high - policy.low) / 2
    actions = policy.act(recorded.observations[recorded.step_state])
    error = (actions - (policy.low + policy.high) / 2) / half - y
    (wall, cpu), (wall_end, cpu_end) = marks[0], marks[-1]
    return Run(
        (wall_end - wall) / arguments.steps,
        (cpu_end - cpu) / arguments.steps,
        float((error**2).mean()),
    )


def _plain(recorded: Trajectories, arguments: argparse.Namespace) -> Run:
    import torch
    from torch import nn

    x, y = _rows(recorded)

    class Rows(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(x)

        def __getitem__(self, index: int) -> Any:
            return torch.from_numpy(x[index]), torch.from_numpy(y[index])

    torch.manual_seed(0)  # pyright: ignore[reportUnknownMemberType]
    network = nn.Sequential(
        nn.Linear(x.shape[1], HIDDEN[0]),
        nn.ReLU(),
        nn.Linear(*HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN[1], y.shape[1]),
        nn.Tanh(),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    loader: Any = torch.utils.data.DataLoader(Rows(), arguments.batch_size, shuffle=True)
    step, wall, cpu = -25, 0.0, 0.0
    while step < arguments.steps:
        for states, actions in loader:
            if not step:
                wall, cpu = time.perf_counter(), time.process_time()
            loss = nn.functional.mse_loss(network(states), actions)
            optimizer.zero_grad()
            loss.backward()  # pyright: ignore[reportUnknownMemberType]
            optimizer.step()
            step += 1
            if step == arguments.steps:
                break
    took = (time.perf_counter() - wall) / step, (time.process_time() - cpu) / step
    with torch.no_grad():
        final = nn.functional.mse_loss(network(torch.from_numpy(x)), torch.from_numpy(y))
    return Run(*took, float(final))


def _floor(recorded: Trajectories, batch: int) -> float:
    """Seconds that the matrix products of one student's step take, best of many."""
    import torch

    widths = (recorded.observation_dim, *HIDDEN, recorded.action_dim)
    total = 0.0
    for layer, (fan_in, fan_out) in enumerate(pairwise(widths)):
        x, w, g = (
            torch.randn(*s) for s in ((batch, fan_in), (fan_in, fan_out), (batch, fan_out))
        )
        products = [(x, w), (x.t(), g)] + [(g, w.t())] * (layer > 0)
        for left, right in products:
            # The transpose may be the faster one.
            pairs = ((left, right), (right.t(), left.t()))
            total += min(_best(torch.mm, *pair) for pair in pairs)
    return total


def _best(function: Callable[..., Any], *inputs: Any) -> float:
    best = float("inf")
    for _ in range(200):
        began = time.perf_counter()
        function(*inputs)
        best = min(best, time.perf_counter() - began)
    return best


def _rows(recorded: Trajectories) -> tuple[np.ndarray, np.ndarray]:
    """Standardised states, and actions in [−1, 1]."""
    import numpy as np

    from tskd_ray.models.batches import action_bounds
    from tskd_ray.models.standardizer import Standardizer

    low, high = action_bounds(recorded)
    states = Standardizer.fit(recorded.observations).normalize(recorded.observations)
    scaled = (recorded.actions - (low + high) / 2) / ((high - low) / 2)
    return states[recorded.step_state], np.clip(scaled, -1, 1).astype(np.float32)
