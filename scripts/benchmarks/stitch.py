"""Hop search: value-bounded cells against FAISS flat range search and SciPy's cKDTree.

The question asked of each: of the states within ρ of s', which has the highest value above that
of s'? All are exact, and their answers are compared. Coordinates are standardised; the value of
a state is its discounted return-to-go.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from tskd_ray.data.trajectories import Trajectories
    from tskd_ray.stitching.problem import HopProblem

JITTER = 0.1
"""Noise on copied states, in standard deviations: copies must not be duplicates."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this subject."""
    parser.add_argument("--dataset", default="builtin:hopper-medium-replay")
    parser.add_argument("--states", type=int, help="copy the data, with noise, to this many")
    parser.add_argument("--neighbours", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--queries", type=int, default=500, help="for the slow contestants")
    parser.add_argument("--repeats", type=int, default=3)


def run(arguments: argparse.Namespace) -> None:
    """Print microseconds per query, medians over the repeats, and ratios to the cells."""
    from tskd_ray.data.load import load_trajectories
    from tskd_ray.stitching.radius import suggest_radius

    trajectories = load_trajectories(arguments.dataset)
    if arguments.states:
        trajectories = _tiled(trajectories, arguments.states)
    print(
        f"{arguments.dataset}: {trajectories.n_states} states of "
        f"{trajectories.observation_dim} dims, {arguments.threads} thread(s)"
    )
    print(f"{'k':>6} {'ρ':>7} {'build s':>8} {'cells':>9} {'FAISS flat':>19} {'cKDTree':>19}")
    for k in arguments.neighbours:
        radius = suggest_radius(trajectories.observations, k, metric="standardized")
        build, times = _compare(trajectories, radius, arguments)
        cells, flat, tree = times
        print(
            f"{k:>6} {radius:>7.3f} {build:>8.1f} {cells:>6.1f} µs {flat:>7.0f} µs "
            f"({flat / cells:>5.1f}x) {tree:>7.0f} µs ({tree / cells:>5.1f}x)",
            flush=True,
        )


def _compare(
    trajectories: Trajectories, radius: float, arguments: argparse.Namespace
) -> tuple[float, list[float]]:
    """Seconds to build the cells; median µs per query of each contestant, answers asserted."""
    import numpy as np
    from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]

    from tskd_ray.stitching.hops import best_neighbours

    began = time.perf_counter()
    problem = _problem(trajectories, radius, "cells")
    build = time.perf_counter() - began
    flat_problem = _problem(trajectories, radius, "faiss-flat")
    tree = cKDTree(problem.points[problem.of_rank])
    everything = np.arange(problem.n_transitions)
    rng = np.random.default_rng(0)
    sample = rng.choice(everything, min(arguments.queries, len(everything)), replace=False)
    contestants: list[tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]] = [
        (lambda q: best_neighbours(problem, q, threads=arguments.threads), everything),
        (lambda q: best_neighbours(flat_problem, q), sample),
        (lambda q: _best_by_tree(problem, tree, q, arguments.threads), sample),
    ]
    for find, _ in contestants:
        find(sample[:8])  # compile, build lazily, warm up
    seconds: list[list[float]] = [[] for _ in contestants]
    for _ in range(arguments.repeats):
        answers = []
        for taken, (find, queries) in zip(seconds, contestants, strict=True):
            began = time.perf_counter()
            answer = find(queries)
            taken.append((time.perf_counter() - began) / len(queries))
            answers.append(answer[sample] if len(queries) > len(sample) else answer)
        for answer in answers[1:]:
            np.testing.assert_array_equal(answer, answers[0])
    return build, [float(np.median(taken)) * 1e6 for taken in seconds]


def _problem(trajectories: Trajectories, radius: float, search: str) -> HopProblem:
    import numpy as np

    from tskd_ray.data.returns import returns_to_go
    from tskd_ray.stitching.problem import hop_problem

    values = np.zeros(trajectories.n_states)
    values[trajectories.step_state] = returns_to_go(
        trajectories.rewards, trajectories.offsets, 0.99
    )
    taken = 0

    def value(states: np.ndarray) -> np.ndarray:
        nonlocal taken
        taken += len(states)
        return values[taken - len(states) : taken]

    return hop_problem(
        trajectories,
        value=value,
        log_density=lambda s, s2: np.zeros((1, len(s))),
        radius=radius,
        metric="standardized",
        candidate="best_value_first",
        search=search,  # pyright: ignore[reportArgumentType]
    )


def _best_by_tree(
    problem: HopProblem, tree: object, queries: np.ndarray, threads: int
) -> np.ndarray:
    import numpy as np

    arrival = problem.source[queries] + 1
    near = tree.query_ball_point(  # pyright: ignore[reportAttributeAccessIssue]
        problem.points[arrival], problem.radius, workers=threads
    )
    answer = np.full(len(queries), -1)
    for row, ranks in enumerate(near):
        ranks = np.asarray(ranks)
        better = ranks[ranks < problem.threshold[queries[row]]]
        better = better[problem.of_rank[better] != arrival[row] - 1]
        if len(better):
            answer[row] = problem.of_rank[better.min()]
    return answer


def _tiled(trajectories: Trajectories, n_states: int) -> Trajectories:
    """Copies of the episodes, each copy with noise, up to about `n_states` states."""
    import numpy as np

    from tskd_ray.data.trajectories import Trajectories

    rng = np.random.default_rng(0)
    spread = trajectories.observations.std(axis=0)
    episodes, total = list[dict[str, object]](), 0
    while total < n_states:
        for episode in trajectories.episodes():
            states = episode["observations"]
            if total >= trajectories.n_states:
                noise = rng.normal(size=states.shape) * spread * JITTER
                states = (states + noise).astype(states.dtype)
            episodes.append({**episode, "observations": states})
            total += len(states)
            if total >= n_states:
                break
    return Trajectories.from_episodes(episodes)
