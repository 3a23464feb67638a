"""A whole stitching epoch against the per-step loop that Algorithm 4 is written as.

Ours is `stitch_epoch`: values, densities, search, walks, rewards of the hops used, assembly.
The loop takes one step at a time: neighbours of s' from a cKDTree, V of them, the ensemble at
s, densities of s' and of the better ones, and for a hop inverse dynamics and reward, each
network called for the step at hand. It runs for some time on random walks, on one thread, where
it is fastest, and is extrapolated by the number of steps that it would take. So that both must
decide alike, it decides by the numbers that ours stored (another batch size moves a network's
last bits); its own calls only take time.
Rewards come from a stand-in for DDR-II, a small network fitted like the others in seconds.

--growth fits how the time of a query grows with the number of states; --workers runs the hop
search through Ray.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.clock import Clock, TimedDensities, peak_memory
from benchmarks.networks import Models, load, subset
from benchmarks.scaling import growth, workers_on_ray

if TYPE_CHECKING:
    import numpy as np

    from tskd_ray.data.trajectories import Trajectories
    from tskd_ray.stitching.epoch import StitchResult
    from tskd_ray.stitching.walks import OnCycle

MAX_LENGTH = 1000

PARTS = {
    "hop_problem": "index",
    "decide_hops": "search",
    "decide_reached": "rounds",
    "neighbourhood_sizes": "counts",
    "follow_hops": "walks",
    "_assemble": "assembly",
}
"""Functions that `stitch_epoch` calls, and what to call their time; networks inside apart."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this subject."""
    parser.add_argument(
        "--dataset", default="builtin:hopper-medium-replay", help="also a folder of .npy"
    )
    parser.add_argument("--states", type=int, help="use random episodes with so many states")
    parser.add_argument("--neighbours", type=int, default=100, help="of the median state")
    parser.add_argument("--fit-steps", type=int, default=1000, help="of each network")
    parser.add_argument(
        "--on-cycle",
        choices=["stop", "cap"],
        default="stop",
        help="cap: walks go round until the time limit, as Algorithm 4 is printed",
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="for the loop; 0: none")
    parser.add_argument("--growth", type=int, nargs="+", help="numbers of states; nothing else")
    parser.add_argument("--workers", type=int, nargs="+", help="on Ray; nothing else")
    parser.add_argument("--queries", type=int, default=200_000, help="of --growth, per size")


def run(arguments: argparse.Namespace) -> None:
    """Fit the networks, then measure what was asked for."""
    import torch

    from tskd_ray.stitching.radius import suggest_radius

    torch.set_num_threads(arguments.threads)
    trajectories = subset(load(arguments.dataset), arguments.states)
    print(
        f"{arguments.dataset}: {trajectories.n_states:,} states of "
        f"{trajectories.observation_dim} dims, {trajectories.n_episodes:,} episodes, "
        f"{arguments.threads} thread(s)"
    )
    models = Models.fit(trajectories, arguments.fit_steps)
    if arguments.growth:
        growth(trajectories, models, arguments)
        return
    radius = suggest_radius(
        trajectories.observations, arguments.neighbours, metric="standardized"
    )
    print(f"ρ = {radius:.3f}, the median distance to neighbour {arguments.neighbours}")
    if arguments.workers:
        workers_on_ray(trajectories, models, radius, arguments)
    else:
        _against_loop(trajectories, models, radius, arguments)


def _against_loop(
    trajectories: Trajectories, models: Models, radius: float, arguments: argparse.Namespace
) -> None:
    _epoch(subset(trajectories, 20_000), models, radius, arguments)  # compiles
    ours = _epoch(trajectories, models, radius, arguments)
    n, counts = trajectories.n_steps, ours.result.counts
    print(
        f"\nstitch_epoch: {ours.seconds:.1f} s ({ours.cpu_seconds:.1f} s of processor time), "
        f"{ours.seconds / n * 1e6:.1f} µs per transition"
    )
    for part, took in ours.clock.seconds.items():
        print(f"  {part:<22} {took:>9.2f} s")
    print(f"  peak memory beyond the data {ours.gib:.2f} GiB")
    print(
        f"  hops: {counts.hops_accepted:,} accepted, {counts.hops_used:,} used; "
        f"{counts.replaced:,} of {counts.episodes:,} trajectories replaced",
        flush=True,
    )
    if not arguments.seconds:
        return
    import torch

    torch.set_num_threads(1)  # a second thread only slows networks called for one state
    loop = _Loop(trajectories, models, radius, arguments.on_cycle)
    steps, finished, total = _follow(loop, ours.result, arguments.seconds)
    parts = loop.clock.seconds
    spent, cpu = sum(parts.values()), loop.clock.cpu_seconds
    print(
        f"\nloop: {spent:.1f} s ({cpu:.1f} s of processor time) for {steps:,} steps, "
        f"{spent / steps * 1e3:.2f} ms each ({finished:,} whole walks); every decision and "
        "every walk the same as ours"
    )
    for part, took in parts.items():
        print(f"  {part:<22} {took / steps * 1e3:>9.3f} ms per step")
    scale = total / steps
    print(
        f"  extrapolated to the {total:,} steps of all walks: {scale * spent:,.0f} s "
        f"({scale * spent / 3600:.1f} h)\n"
        f"ratio: {scale * spent / ours.seconds:,.0f}x by the clock, "
        f"{scale * cpu / ours.cpu_seconds:,.0f}x by processor time\n"
        "ratio to a loop that looks values up instead: "
        f"{scale * (spent - parts['value']) / ours.seconds:,.0f}x by the clock"
    )


def _follow(loop: _Loop, result: StitchResult, limit: float) -> tuple[int, int, int]:
    """Random walks by the loop until `limit` seconds have passed, compared with ours.

    Returns:
        Steps and whole walks that the loop has done, and steps of all walks.
    """
    import numpy as np

    from tskd_ray.stitching.walks import follow_hops

    data = loop.data
    destination = np.full(data.n_steps, -1, dtype=np.int64)
    step_of_state = np.full(data.n_states, -1, dtype=np.int64)
    step_of_state[data.step_state] = np.arange(data.n_steps)
    destination[step_of_state[result.hops[:, 0]]] = result.hops[:, 1]
    walks = follow_hops(data, destination, max_length=MAX_LENGTH, on_cycle=loop.on_cycle)
    steps, finished, total = 0, 0, int(walks.length.sum())
    for episode in np.random.default_rng(0).permutation(data.n_episodes):
        path: list[int] = []
        for step, candidate in loop.walk(int(episode)):
            assert candidate == destination[step], f"step {step}: {candidate}"
            path.append(step)
            if sum(loop.clock.seconds.values()) > limit:
                return steps + len(path), finished, total
        np.testing.assert_array_equal(path, walks.steps_of(np.array([episode])))
        steps, finished = steps + len(path), finished + 1
    return steps, finished, total


class _Epoch(NamedTuple):
    """`stitch_epoch`, measured."""

    result: StitchResult
    clock: Clock
    seconds: float
    cpu_seconds: float
    gib: float


def _epoch(
    trajectories: Trajectories, models: Models, radius: float, arguments: argparse.Namespace
) -> _Epoch:
    from tskd_ray.stitching import epoch

    clock = Clock()
    patched = {name: getattr(epoch, name) for name in PARTS if hasattr(epoch, name)}
    for name, function in patched.items():
        setattr(epoch, name, clock.timed(PARTS[name], function))
    try:
        with peak_memory() as peak:
            began, cpu_began = time.perf_counter(), time.process_time()
            with clock.part("everything else"):
                result = epoch.stitch_epoch(
                    trajectories,
                    value=clock.timed("value", models.value.predict),
                    log_density=TimedDensities(models.dynamics, clock),
                    action=clock.timed("pricing", models.inverse.predict),
                    reward=clock.timed("pricing", models.reward),
                    radius=radius,
                    metric="standardized",
                    max_length=MAX_LENGTH,
                    threads=arguments.threads,
                    on_cycle=arguments.on_cycle,
                )
            seconds = time.perf_counter() - began
            cpu_seconds = time.process_time() - cpu_began
    finally:
        for name, function in patched.items():
            setattr(epoch, name, function)
    return _Epoch(result, clock, seconds, cpu_seconds, peak[0])


class _Loop:
    """Algorithm 4 as one would write it, step by step, `dynamics_first`."""

    def __init__(
        self, trajectories: Trajectories, models: Models, radius: float, on_cycle: OnCycle
    ) -> None:
        import numpy as np
        from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]

        from tskd_ray.stitching.problem import hop_problem

        self.data, self.models, self.radius = trajectories, models, radius
        self.on_cycle: OnCycle = on_cycle
        self.clock = Clock()
        stored: list[np.ndarray] = []

        def value(states: np.ndarray) -> np.ndarray:
            stored.append(models.value.predict(states))
            return stored[-1]

        # What ours looks at: the same coordinates, values and, asked for later, Gaussians.
        problem = hop_problem(
            trajectories,
            value=value,
            log_density=models.dynamics,
            radius=radius,
            metric="standardized",
            search="faiss-flat",
        )
        assert problem.gaussians is not None
        self.points, self.gaussians = problem.points[:], problem.gaussians
        self.values = np.concatenate(stored)
        self.values[trajectories.final_states[trajectories.terminated]] = 0.0
        began = time.perf_counter()
        self.tree = cKDTree(problem.points[:])
        print(f"cKDTree built in {time.perf_counter() - began:.1f} s, not counted")

    def walk(self, episode: int) -> Iterator[tuple[int, int]]:
        """Steps of a walk, and where each hops to, -1 for nowhere."""
        data = self.data
        step, left, taken = int(data.offsets[episode]), set[int](), 0
        cap = max(MAX_LENGTH, int(data.lengths[episode]))
        while True:
            source = int(data.step_state[step])
            candidate = self._decide(step, source)
            left.add(source)
            taken += 1
            yield step, candidate
            state = source + 1 if candidate < 0 else candidate
            owner = int(data.state_offsets.searchsorted(state, side="right")) - 1
            cycle = state in left and self.on_cycle == "stop"
            if state == data.final_states[owner] or cycle or taken >= cap:
                return
            step = state - owner

    def _decide(self, step: int, source: int) -> int:
        import numpy as np

        states, models, clock = self.data.observations, self.models, self.clock
        s, arrival = states[source], states[source + 1]
        with clock.part("search"):
            near = self.tree.query_ball_point(self.points[source + 1], self.radius)
            near = np.array([i for i in near if i not in (source, source + 1)], dtype=np.int64)
        with clock.part("value"):
            models.value.predict(states[np.append(near, source + 1)])
            values = self.values[near]
            better = near[values > self.values[source + 1]]
            better = better[np.lexsort((better, -self.values[better]))]
        with clock.part("dynamics"):
            models.dynamics.gaussian(s[None])
        mean, log_std = (part[:, 0] for part in self.gaussians.at(np.array([step])))
        with clock.part("densities"):
            required = _log_mean(_log_density(mean, log_std, arrival[None])[:, 0])
            lowest = _log_density(mean, log_std, states[better]).min(axis=0)
            passed = np.flatnonzero(lowest >= required)
        if not len(passed):
            return -1
        candidate = int(better[passed[0]])
        with clock.part("pricing"):
            models.inverse.predict(s[None], states[candidate][None])
            models.reward(s[None], states[candidate][None])
        return candidate


def _log_density(mean: np.ndarray, log_std: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Members (M, d) at rows (n, d): (M, n), up to the constant that cancels."""
    import numpy as np

    scaled = (x - mean[:, None]) * np.exp(-log_std)[:, None]
    return -0.5 * np.square(scaled).sum(axis=2) - log_std.sum(axis=1)[:, None]


def _log_mean(log_p: np.ndarray) -> float:
    import numpy as np

    return float(log_p.max() + np.log(np.exp(log_p - log_p.max()).mean()))
