"""Hop search: value-bounded cells against FAISS flat range search and SciPy's cKDTree.

The question asked of each: of the states within ρ of s', which has the highest value above that
of s'? All are exact, and their answers are compared. Coordinates are standardised; the value of
a state is its discounted return-to-go.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from tskd_ray.data.trajectories import Trajectories
    from tskd_ray.stitching.problem import HopProblem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this subject."""
    parser.add_argument(
        "--dataset",
        default="builtin:hopper-medium-replay",
        help="a dataset, or a folder of scripts/make_gait.py",
    )
    parser.add_argument(
        "--noise",
        type=int,
        nargs=2,
        metavar=("STATES", "DIMS"),
        help="instead: Gaussian noise of full rank and random values, the worst case",
    )
    parser.add_argument("--neighbours", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--queries", type=int, default=500, help="for the slow contestants")
    parser.add_argument("--cell-queries", type=int, help="for the cells; default all")
    parser.add_argument("--repeats", type=int, default=3)


def run(arguments: argparse.Namespace) -> None:
    """Print microseconds per query, medians over the repeats, and ratios to the cells."""
    from tskd_ray.stitching.radius import suggest_radius

    trajectories = _trajectories(arguments)
    name = "noise, the worst case" if arguments.noise else arguments.dataset
    clock = "processor" if arguments.threads == 1 else "wall"
    print(
        f"{name}: {trajectories.n_states} states of {trajectories.observation_dim} dims, "
        f"{arguments.threads} thread(s), {clock} time"
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


def _trajectories(arguments: argparse.Namespace) -> Trajectories:
    from tskd_ray.data.arrays import load_arrays
    from tskd_ray.data.load import load_trajectories

    if arguments.noise:
        return _noise(*arguments.noise)
    if (Path(arguments.dataset) / "trajectories.json").exists():
        return load_arrays(arguments.dataset)
    return load_trajectories(arguments.dataset)


def _compare(
    trajectories: Trajectories, radius: float, arguments: argparse.Namespace
) -> tuple[float, list[float]]:
    """Seconds to build the cells; median µs per query of each contestant, answers asserted."""
    import numpy as np
    from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]

    from tskd_ray.stitching.hops import best_neighbours

    # Of one thread: processor time, which a busy machine does not stretch.
    now = time.process_time if arguments.threads == 1 else time.perf_counter
    _problem(trajectories, radius, "cells")  # compile
    began = now()
    problem = _problem(trajectories, radius, "cells")
    build = now() - began
    flat_problem = _problem(trajectories, radius, "faiss-flat")
    tree = cKDTree(problem.points[problem.of_rank])
    n, rng = problem.n_transitions, np.random.default_rng(0)
    many = rng.choice(n, min(arguments.cell_queries or n, n), replace=False)
    sample = many[: arguments.queries]
    contestants: list[tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]] = [
        (lambda q: best_neighbours(problem, q, threads=arguments.threads), many),
        (lambda q: best_neighbours(flat_problem, q), sample),
        (lambda q: _best_by_tree(problem, tree, q, arguments.threads), sample),
    ]
    for find, _ in contestants:
        find(sample[:8])  # compile, build lazily, warm up
    seconds: list[list[float]] = [[] for _ in contestants]
    for _ in range(arguments.repeats):
        answers = []
        for taken, (find, queries) in zip(seconds, contestants, strict=True):
            began = now()
            answer = find(queries)
            taken.append((now() - began) / len(queries))
            answers.append(answer[: len(sample)])
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


def _noise(n_states: int, dims: int) -> Trajectories:
    """Episodes of a thousand independent states, with independent values."""
    import numpy as np

    from tskd_ray.data.trajectories import Trajectories

    rng = np.random.default_rng(0)
    lengths = [min(1000, n_states - first) for first in range(0, n_states - 1, 1000)]
    return Trajectories.from_episodes(
        {
            "observations": rng.normal(size=(length, dims)).astype(np.float32),
            "actions": np.zeros((length - 1, 1), dtype=np.float32),
            "rewards": rng.normal(size=length - 1),
            "terminated": False,
        }
        for length in lengths
    )
