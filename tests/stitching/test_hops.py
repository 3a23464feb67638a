"""The hop search on its own: splits, threads, saved problems, backends, neighbour counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stitching.cases import GaussianTable, random_case
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.errors import ConfigError, StorageError
from tskd_ray.stitching.hops import (
    HopDecisions,
    best_neighbours,
    count_neighbours,
    decide_hops,
)
from tskd_ray.stitching.problem import HopProblem, hop_problem
from tskd_ray.stitching.radius import suggest_radius


class Drift:
    """Three members that expect the state to stay about where it is."""

    def gaussian(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = states + np.array([0.0, 0.05, -0.05])[:, None, None]
        return mean, np.broadcast_to(np.array([-1.0, -0.9, -1.1])[:, None, None], mean.shape)


def gait(n_episodes: int = 30, d: int = 4, dtype: Any = np.float32) -> Trajectories:
    """Noisy limit cycles of different tempo: near states everywhere, few of them equal."""
    rng = np.random.default_rng(5)
    episodes = []
    for _ in range(n_episodes):
        length = int(rng.integers(20, 120))
        phase = rng.uniform(0, 6) + np.arange(length + 1) * rng.uniform(0.1, 0.3)
        rows = np.stack([np.sin(phase + k) * (1 + k / 4) for k in range(d)], axis=1)
        rows += rng.normal(0, 0.05, rows.shape)
        episodes.append({
            "observations": rows.astype(dtype),
            "actions": rng.normal(size=(length, 2)),
            "rewards": rng.normal(size=length),
            "terminated": bool(rng.integers(2)),
        })  # fmt: skip
    return Trajectories.from_episodes(episodes)


def gait_problem(**options: Any) -> HopProblem:
    settings: dict[str, Any] = {
        "value": lambda S: S[:, 0] + np.cos(3 * S[:, 1]),
        "log_density": Drift(),
        "radius": 0.5,
    }
    return hop_problem(gait(dtype=options.pop("dtype", np.float32)), **(settings | options))


def assert_same(got: HopDecisions, want: HopDecisions) -> None:
    np.testing.assert_array_equal(got.transitions, want.transitions)
    np.testing.assert_array_equal(got.candidate, want.candidate)
    np.testing.assert_array_equal(got.verdict, want.verdict)


@pytest.mark.parametrize("candidate", ["dynamics_first", "best_value_first"])
@pytest.mark.parametrize("metric", ["raw", "standardized"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_backends_agree(candidate: str, metric: str, dtype: Any) -> None:
    options: dict[str, Any] = {"candidate": candidate, "metric": metric, "dtype": dtype}
    flat = decide_hops(gait_problem(search="faiss-flat", **options))
    assert len(np.unique(flat.verdict)) >= 3
    assert_same(decide_hops(gait_problem(**options)), flat)

    def callable_density(S: np.ndarray, S2: np.ndarray) -> np.ndarray:
        mean, log_std = Drift().gaussian(S.astype(np.float64))
        return (-0.5 * ((S2 - mean) * np.exp(-log_std)) ** 2 - log_std).sum(axis=2)

    assert_same(decide_hops(gait_problem(log_density=callable_density, **options)), flat)


def test_any_split_order_and_thread_count_gives_the_same() -> None:
    problem = gait_problem()
    whole = decide_hops(problem)
    rng = np.random.default_rng(0)
    numbers = rng.permutation(problem.n_transitions)
    for parts in (1, 3, 7):
        split = [decide_hops(problem, part) for part in np.array_split(numbers, parts)]
        assert_same(HopDecisions.join(split), whole)
    assert_same(decide_hops(problem, threads=3), whole)
    none = decide_hops(problem, np.zeros(0, dtype=np.int64))
    assert len(none.candidate) == 0


def test_chunks_shared_by_threads_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = gait_problem()
    whole = decide_hops(problem)
    monkeypatch.setattr("tskd_ray.stitching.hops.PIECE", 64)
    assert_same(decide_hops(problem, threads=1), whole)
    monkeypatch.setattr("tskd_ray.stitching.hops._PAIRS", 50)
    monkeypatch.setattr("tskd_ray.stitching.faiss_shards._PAIRS", 5_000)
    assert_same(decide_hops(problem, threads=4), whole)
    assert_same(decide_hops(gait_problem(search="faiss-flat"), threads=2), whole)


@pytest.mark.parametrize("candidate", ["dynamics_first", "best_value_first"])
@pytest.mark.parametrize("search", ["cells", "faiss-flat"])
def test_shards_of_any_size_give_the_same(candidate: str, search: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"candidate": candidate, "search": search}
    whole = decide_hops(gait_problem(**options))
    transitions = np.arange(0, len(whole.transitions), 7)
    counts = count_neighbours(gait_problem(**options), transitions)
    best = best_neighbours(gait_problem(**options), transitions)
    for size in (100, 700, 10_000):
        problem = gait_problem(shard_states=size, **options)
        assert len(problem.shards) == -(-len(problem.of_rank) // size)
        assert_same(decide_hops(problem), whole)
        np.testing.assert_array_equal(count_neighbours(problem, transitions), counts)
        np.testing.assert_array_equal(best_neighbours(problem, transitions), best)
    saved = gait_problem(shard_states=700, folder=tmp_path / "problem", **options)
    assert_same(decide_hops(saved), whole)


def test_a_model_is_asked_in_blocks_whatever_is_decided_together() -> None:
    class Fragile(Drift):
        """Its last bits depend on what it is asked together, as a matrix product's may."""

        def gaussian(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            mean, log_std = super().gaussian(states)
            return mean + states.sum() * 1e-3, log_std

    problem = gait_problem(log_density=Fragile())
    whole = decide_hops(problem)
    assert 0 < (whole.verdict == 0).sum() < len(whole.verdict)
    numbers = np.random.default_rng(0).permutation(problem.n_transitions)
    for part in np.array_split(numbers, 9):
        np.testing.assert_array_equal(
            decide_hops(problem, part).candidate, whole.candidate[part]
        )


@pytest.mark.parametrize("search", ["cells", "faiss-flat"])
def test_a_saved_problem_decides_the_same_in_another_process(
    tmp_path: Path, search: str
) -> None:
    problem = gait_problem(search=search)
    problem.save(tmp_path / "problem")
    assert_same(decide_hops(HopProblem.open(tmp_path / "problem")), decide_hops(problem))
    code = (
        "import sys, numpy as np; from pathlib import Path;"
        "from tskd_ray.stitching.problem import HopProblem;"
        "from tskd_ray.stitching.hops import decide_hops;"
        "d = decide_hops(HopProblem.open(Path(sys.argv[1])), np.arange(50, 90));"
        "np.save(sys.argv[2], d.candidate)"
    )
    arguments = [str(tmp_path / "problem"), str(tmp_path / "out.npy")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
    np.testing.assert_array_equal(
        np.load(tmp_path / "out.npy"), decide_hops(problem, np.arange(50, 90)).candidate
    )


def test_only_gaussian_problems_are_saved(tmp_path: Path) -> None:
    problem = gait_problem(log_density=lambda S, S2: np.zeros((1, len(S))))
    with pytest.raises(ConfigError, match="Gaussian ensemble"):
        problem.save(tmp_path)
    with pytest.raises(StorageError, match="Make it again"):
        HopProblem.open(tmp_path)


@pytest.mark.parametrize("search", ["cells", "faiss-flat"])
def test_neighbours_are_counted_exactly(search: str) -> None:
    problem = gait_problem(search=search)
    transitions = np.arange(0, problem.n_transitions, 7)
    points = problem.points[:].astype(np.float64)
    for transition, count in zip(
        transitions, count_neighbours(problem, transitions), strict=True
    ):
        source = problem.source[transition]
        near = np.linalg.norm(points - points[source + 1], axis=1) <= problem.radius
        assert count == near.sum() - near[source] - 1
    few = count_neighbours(problem, transitions, most=2)
    np.testing.assert_array_equal(few, np.minimum(count_neighbours(problem, transitions), 2))


@pytest.mark.parametrize("metric", ["raw", "standardized"])
def test_the_suggested_radius_has_the_median_neighbourhood(metric: Any) -> None:
    states = gait().observations
    radius = suggest_radius(states, 25, seed=3, metric=metric)
    assert radius == suggest_radius(states, 25, seed=3, metric=metric)
    points = states.astype(np.float64)
    points = points / points.std(axis=0) if metric == "standardized" else points
    sizes = [(np.linalg.norm(points - p, axis=1) <= radius).sum() - 1 for p in points]
    assert 23 <= np.median(sizes) <= 27


def test_the_suggested_radius_of_few_states_is_exact() -> None:
    states = np.array([[0.0], [1.0], [3.0], [np.nan], [7.0]])
    # Nearest others: 1, 1, 2, 4; second nearest: 3, 2, 3, 6.
    assert suggest_radius(states, 1) == 1.5
    assert suggest_radius(states, 2) == 3.0
    with pytest.raises(ConfigError, match="below the number of states"):
        suggest_radius(states, 4)


def test_nothing_finite_means_no_hops() -> None:
    case = random_case(0)
    trajectories = Trajectories.from_episodes(
        {**episode, "observations": np.full_like(episode["observations"], np.nan)}
        for episode in case.trajectories.episodes()
    )
    density = GaussianTable(np.random.default_rng(0), trajectories, 2)
    for search in ("cells", "faiss-flat"):
        problem = hop_problem(
            trajectories,
            value=case.options["value"],
            log_density=density,
            radius=1,
            search=search,
        )
        assert (decide_hops(problem).candidate == -1).all()


def test_huge_and_tiny_units_lose_no_neighbours() -> None:
    for unit in (1e-30, 1e25):
        trajectories = Trajectories.from_episodes(
            {**episode, "observations": episode["observations"] * unit}
            for episode in gait(dtype=np.float64).episodes()
        )
        for search in ("cells", "faiss-flat"):
            problem = hop_problem(
                trajectories,
                value=lambda S: S[:, 0],
                log_density=lambda S, S2: np.zeros((1, len(S))),
                radius=0.5 * unit,
                search=search,
            )
            plain = gait_problem(
                value=lambda S: S[:, 0],
                log_density=lambda S, S2: np.zeros((1, len(S))),
                dtype=np.float64,
            )
            assert_same(decide_hops(problem), decide_hops(plain))


def test_importing_the_stitching_is_cheap() -> None:
    code = (
        "import sys, tskd_ray.stitching.epoch, tskd_ray.stitching.radius;"
        "sys.exit(bool({'faiss', 'numba', 'torch', 'ray'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_kernels_compile_where_nothing_can_be_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    njit = numba.njit

    def refuse(**options: Any) -> Any:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(numba, "njit", refuse)
    from tskd_ray.compiled import compiled

    assert compiled(lambda x: x + 1)(1) == 2
