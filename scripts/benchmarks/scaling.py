"""How the hop search grows with the number of states, and with workers on Ray."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.clock import Clock, TimedDensities
from benchmarks.networks import Models, subset

if TYPE_CHECKING:
    from tskd_ray.data.trajectories import Trajectories


def growth(trajectories: Trajectories, models: Models, arguments: argparse.Namespace) -> None:
    """Time per query by number of states, ρ by neighbour count and ρ fixed."""
    import numpy as np

    from tskd_ray.stitching.radius import suggest_radius

    k = arguments.neighbours
    sizes = [n for n in sorted(arguments.growth) if n <= trajectories.n_states]
    data = [subset(trajectories, n) for n in sizes]
    radii = [suggest_radius(part.observations, k, metric="standardized") for part in data]
    kinds = {f"ρ at neighbour {k}": radii, f"ρ = {radii[-1]:.3f}": [radii[-1]] * len(radii)}
    _per_query(data[0], models, radii[0], 20_000, arguments.threads)  # compiles
    for kind, rho in kinds.items():
        print(f"\n{kind}, a sample of at most {arguments.queries:,} queries\n")
        print(f"{'states':>12} {'ρ':>7} {'index s':>8} {'search':>10} {'and densities':>14}")
        rows: list[tuple[float, float]] = []
        for part, radius in zip(data, rho, strict=True):
            index, search, densities = _per_query(
                part, models, radius, arguments.queries, arguments.threads
            )
            rows.append((part.n_states, search))
            print(
                f"{part.n_states:>12,} {radius:>7.3f} {index:>8.1f} {search * 1e6:>7.1f} µs "
                f"{(search + densities) * 1e6:>11.1f} µs",
                flush=True,
            )
        if len(rows) > 1:
            n, seconds = np.log(np.array(rows)).T
            print(f"search grows as N^{np.polyfit(n, seconds, 1)[0]:.2f}")


def _per_query(
    trajectories: Trajectories, models: Models, radius: float, queries: int, threads: int
) -> tuple[float, float, float]:
    """Seconds to build the index, then per query: of the search, of the densities."""
    import numpy as np

    from tskd_ray.stitching.hops import decide_hops
    from tskd_ray.stitching.problem import hop_problem
    from tskd_ray.stitching.sampling import sample_transitions

    clock = Clock()
    with clock.part("index"):
        problem = hop_problem(
            trajectories,
            value=clock.timed("value", models.value.predict),
            log_density=TimedDensities(models.dynamics, clock),
            radius=radius,
            metric="standardized",
        )
    sample = sample_transitions(problem.n_transitions, queries, 0)
    with clock.part("search"):
        decide_hops(problem, sample, threads=threads)
    seconds = clock.seconds
    # Threads' seconds overlap; spread evenly, they take so much of the search's.
    in_threads = seconds["densities, in threads"] / threads
    search = seconds["search"] - in_threads
    per = np.array([search, seconds["densities"] + in_threads]) / len(sample)
    return seconds["index"], float(per[0]), float(per[1])


def workers_on_ray(
    trajectories: Trajectories, models: Models, radius: float, arguments: argparse.Namespace
) -> None:
    """The hop search in process, and on Ray with so many workers."""
    import tempfile

    import numpy as np

    from tskd_ray.config.schema import ComputeConfig
    from tskd_ray.distributed.session import quiet_environment, session
    from tskd_ray.distributed.stitch import decide_hops_distributed
    from tskd_ray.stitching.problem import hop_problem

    quiet_environment()
    few = np.arange(min(1000, trajectories.n_steps))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "problem"
        problem = hop_problem(
            trajectories,
            value=models.value.predict,
            log_density=models.dynamics,
            radius=radius,
            metric="standardized",
        )
        problem.save(folder)
        local = ComputeConfig(mode="local", threads=arguments.threads)
        decide_hops_distributed(folder, local, transitions=few)  # compiles
        began, cpu_began = time.perf_counter(), time.process_time()
        expected, _ = decide_hops_distributed(folder, local)
        alone, cpu = time.perf_counter() - began, time.process_time() - cpu_began
        print(
            f"\nin process: {alone:.1f} s ({cpu:.1f} s of processor time), "
            f"{alone / problem.n_transitions * 1e6:.1f} µs each"
        )
        print("the cluster's start is not counted; a call's own start is that of 1000 queries")
        one = None
        for workers in arguments.workers:
            compute = ComputeConfig(workers=workers, threads=arguments.threads)
            with session(compute):
                began = time.perf_counter()
                decide_hops_distributed(folder, compute, transitions=few)
                start = time.perf_counter() - began
                began = time.perf_counter()
                found, cpu_seconds = decide_hops_distributed(folder, compute)
                took = time.perf_counter() - began
            np.testing.assert_array_equal(found.candidate, expected.candidate)
            one = one or took
            print(
                f"{workers} worker(s): {took:.1f} s ({start:.1f} s to start), "
                f"{alone / took:.2f}x in process ({100 * (took / alone - 1):+.1f} % time; "
                f"{100 * ((took - start) / alone - 1):+.1f} % after the start), "
                f"{one / took:.2f}x the first; processor time there {cpu_seconds:.1f} s",
                flush=True,
            )
