"""A whole stitching epoch against the per-step loop that Algorithm 4 is written as.

Ours is `stitch_epoch`: values, densities, search, walks, rewards of the hops used, assembly.
The loop takes one step at a time: neighbours of s' from a cKDTree, V of them, the ensemble at
s, densities of s' and of the better ones, and for a hop inverse dynamics and reward, each
network called for the step at hand. It runs for some time on random walks and is extrapolated
by the number of steps that it would take. So that both must decide alike, it decides by the
numbers that ours stored (another batch size moves a network's last bits); its own calls only
take time.
Rewards come from a stand-in for DDR-II, a small network fitted like the others in seconds.

--growth fits how the time of a query grows with the number of states; --workers runs the hop
search through Ray.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchmarks.clock import Clock, TimedDensities, peak_memory
from benchmarks.networks import Models, load, subset
from benchmarks.scaling import growth, workers_on_ray

if TYPE_CHECKING:
    import numpy as np

    from tskd_ray.data.trajectories import Trajectories
    from tskd_ray.stitching.epoch import StitchResult

MAX_LENGTH = 1000

PARTS = {
    "hop_problem": "index",
    "decide_hops": "search",
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
    parser.add_argument("--fit-steps", type=int, default=500, help="of each network")
    parser.add_argument("--seconds", type=float, default=60.0, help="for the loop")
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
    import numpy as np

    from tskd_ray.stitching.walks import follow_hops

    _epoch(subset(trajectories, 2000), models, radius, arguments.threads)  # compiles
    clock, result, seconds, peak = _epoch(trajectories, models, radius, arguments.threads)
    n = trajectories.n_steps
    print(f"\nstitch_epoch: {seconds:.1f} s, {seconds / n * 1e6:.1f} µs per transition")
    for part, took in clock.seconds.items():
        print(f"  {part:<22} {took:>9.2f} s")
    print(f"  peak memory beyond the data {peak:.2f} GiB")
    counts = result.counts
    print(
        f"  hops: {counts.hops_accepted:,} accepted, {counts.hops_used:,} used; "
        f"{counts.replaced:,} of {counts.episodes:,} trajectories replaced"
    )

    destination = np.full(n, -1, dtype=np.int64)
    step_of_state = np.full(trajectories.n_states, -1, dtype=np.int64)
    step_of_state[trajectories.step_state] = np.arange(n)
    destination[step_of_state[result.hops[:, 0]]] = result.hops[:, 1]
    walks = follow_hops(trajectories, destination, max_length=MAX_LENGTH)
    loop = _Loop(trajectories, models, radius)
    steps, finished = 0, 0
    for episode in np.random.default_rng(0).permutation(trajectories.n_episodes):
        path, ended = [], False
        for step, candidate in loop.walk(int(episode)):
            assert candidate == destination[step], f"step {step}: {candidate}"
            path.append(step)
            if ended := sum(loop.clock.seconds.values()) > arguments.seconds:
                break
        steps += len(path)
        if ended:
            break
        expected = walks.steps_of(np.array([episode]))
        np.testing.assert_array_equal(path, expected)
        finished += 1
    spent, total = sum(loop.clock.seconds.values()), int(walks.length.sum())
    print(
        f"\nloop: {spent:.1f} s for {steps:,} steps, {spent / steps * 1e3:.2f} ms each "
        f"({finished:,} whole walks); every decision the same as ours"
    )
    for part, took in loop.clock.seconds.items():
        print(f"  {part:<22} {took / steps * 1e3:>9.3f} ms per step")
    whole = spent / steps * total
    print(
        f"  extrapolated to the {total:,} steps of all walks: {whole:,.0f} s "
        f"({whole / 3600:.1f} h)\nratio: {whole / seconds:,.0f}x"
    )
    without = whole * (1 - loop.clock.seconds["value"] / spent)
    print(f"ratio to a loop that looks values up: {without / seconds:,.0f}x")


def _epoch(
    trajectories: Trajectories, models: Models, radius: float, threads: int
) -> tuple[Clock, StitchResult, float, float]:
    """Seconds by part, the result, seconds in all, GiB."""
    from tskd_ray.stitching import epoch

    clock = Clock()
    patched = {name: getattr(epoch, name) for name in PARTS}
    for name, function in patched.items():
        setattr(epoch, name, clock.timed(PARTS[name], function))
    try:
        with peak_memory() as peak:
            began = time.perf_counter()
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
                    threads=threads,
                )
            seconds = time.perf_counter() - began
    finally:
        for name, function in patched.items():
            setattr(epoch, name, function)
    return clock, result, seconds, peak[0]


class _Loop:
    """Algorithm 4 as one would write it, step by step, `dynamics_first`."""

    def __init__(self, trajectories: Trajectories, models: Models, radius: float) -> None:
        import numpy as np
        from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]

        from tskd_ray.stitching.problem import hop_problem

        self.data, self.models, self.radius = trajectories, models, radius
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
        self.points, self.gaussians = problem.points, problem.gaussians
        self.values = np.concatenate(stored)
        self.values[trajectories.final_states[trajectories.terminated]] = 0.0
        began = time.perf_counter()
        self.tree = cKDTree(problem.points)
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
            if state == data.final_states[owner] or state in left or taken >= cap:
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
