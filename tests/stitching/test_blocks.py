"""The search in blocks: against brute force, the loop, and the other exact searches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stitching.cases import random_case
from stitching.literal import literal_decision, literal_states
from stitching.test_hops import assert_same, gait, gait_problem
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.stitching.blocks import BlockShard
from tskd_ray.stitching.frames import Frame
from tskd_ray.stitching.hops import Verdict, count_neighbours, decide_hops
from tskd_ray.stitching.points import Points
from tskd_ray.stitching.problem import HopProblem, hop_problem


def no_density(S: np.ndarray, S2: np.ndarray) -> np.ndarray:
    return np.zeros((1, len(S)))


def of_states(states: np.ndarray, radius: float, **options: Any) -> HopProblem:
    """One trajectory through `states`, by default of random values with ties."""
    n = len(states) - 1
    rng = np.random.default_rng(n)
    trajectories = Trajectories.from_episodes([
        {
            "observations": states,
            "actions": np.zeros((n, 1)),
            "rewards": np.zeros(n),
            "terminated": False,
        }
    ])  # fmt: skip
    values = rng.integers(0, n // 2 + 2, n + 1).astype(np.float64)
    settings: dict[str, Any] = {
        "search": "blocks",
        "log_density": no_density,
        "value": lambda S: values,
    }
    return hop_problem(trajectories, radius=radius, **(settings | options))


def near_ranks(problem: HopProblem, transition: Any) -> list[int]:
    """Ranks of all states near s' but s and s', by a loop over Python floats."""
    source = int(problem.source[transition])
    arrived = problem.points[source + 1].tolist()
    ranks = []
    for rank, state in enumerate(problem.of_rank):
        squared = 0.0
        for a, b in zip(problem.points[state].tolist(), arrived, strict=True):
            squared += (a - b) * (a - b)
        if np.sqrt(squared) <= problem.radius and state not in (source, source + 1):
            ranks.append(rank)
    return ranks


def small_blocks(monkeypatch: pytest.MonkeyPatch, product: int = 150) -> None:
    """So that small data is many blocks, products and lists of pairs."""
    settings = {"_FIRST": 3, "_NARROWEST": 20, "_PAIRS": 99, "_PRODUCT": {"cpu": product}}
    for name, value in settings.items():
        monkeypatch.setattr(f"tskd_ray.stitching.blocks.{name}", value)


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("radius", [0.0, 0.5, 1.0, np.sqrt(2), 3.0])
def test_ranks_and_counts_are_those_of_brute_force(
    radius: float, narrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if narrow:
        small_blocks(monkeypatch)
    rng = np.random.default_rng(3)
    states = rng.integers(-2, 3, (150, 2)) / 2
    states[rng.random(150) < 0.1, 0] = np.nan
    whole = of_states(states.astype(np.float32), radius)
    chunk = rng.permutation(whole.n_transitions)
    floor = rng.integers(-1, len(whole.of_rank), len(chunk))
    floor[::3] = -1
    for first, size in ((0, len(whole.of_rank)), (40, 50)):
        shard = BlockShard.build(whole.points.take(whole.of_rank[first : first + size]), first)
        for k in (1, 4):
            got = shard.lowest(whole, chunk, floor, k)
            for row, transition in enumerate(chunk):
                stop = min(int(whole.threshold[transition]), first + size)
                start = max(int(floor[row]) + 1, first)
                ranks = [r for r in near_ranks(whole, transition) if start <= r < stop][:k]
                assert got[row].tolist() == ranks + [whole.nothing] * (k - len(ranks))
        here = [
            sum(first <= r < first + size for r in near_ranks(whole, transition))
            for transition in chunk
        ]
        for most in (1, 3, 1000):
            count = shard.count(whole, chunk, most)
            np.testing.assert_array_equal(count, np.minimum(here, most))


@pytest.mark.parametrize("batch", range(2))
def test_each_transition_is_decided_as_the_loop_decides_it(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if batch % 2:
        small_blocks(monkeypatch)
    for seed in range(2000 + batch * 20, 2020 + batch * 20):
        case = random_case(seed)
        options, trajectories = case.options, case.trajectories
        states = literal_states(trajectories.episodes(), options["value"])
        names = ("value", "log_density", "radius", "candidate")
        shared = {name: options[name] for name in names}
        scale = [1.0] * trajectories.observation_dim
        expected = [
            literal_decision(
                states,
                i,
                options["log_density"],
                options["radius"],
                scale,
                options["candidate"],
            )
            for i in trajectories.step_state
        ]
        decided = decide_hops(hop_problem(trajectories, **shared, search="blocks"))
        got = [
            (int(c), Verdict(int(v)).name.lower())
            for c, v in zip(decided.candidate, decided.verdict, strict=True)
        ]
        assert got == expected, seed


@pytest.mark.parametrize("candidate", ["dynamics_first", "best_value_first"])
@pytest.mark.parametrize(
    ("metric", "dtype"), [("raw", np.float32), ("standardized", np.float64)]
)
def test_it_agrees_with_the_flat_search_and_in_shards(
    candidate: str, metric: str, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"candidate": candidate, "metric": metric, "dtype": dtype}
    flat = decide_hops(gait_problem(search="faiss-flat", **options))
    assert_same(decide_hops(gait_problem(search="blocks", **options)), flat)
    small_blocks(monkeypatch, product=150_000)
    shards = gait_problem(search="blocks", shard_states=700, **options)
    assert len(shards.shards) == 3
    assert_same(decide_hops(shards), flat)


@pytest.mark.parametrize("unit", [1e-30, 1e25])
def test_huge_and_tiny_units_lose_no_neighbours(unit: float) -> None:
    states = gait(n_episodes=5, dtype=np.float64).observations
    plain, scaled = of_states(states, 0.5), of_states(states * unit, 0.5 * unit)
    assert_same(decide_hops(scaled), decide_hops(plain))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("search", ["blocks", "faiss-flat"])
def test_far_from_the_origin_no_pair_at_the_radius_is_lost(dtype: Any, search: Any) -> None:
    # Steps of 2⁻⁸ are exact at 10,000 in float32, but their squares are far below its last bit.
    steps = np.random.default_rng(0).integers(-3, 4, (300, 5))
    step = 2.0**-8
    near = of_states((10_000 + steps * step).astype(dtype), 5 * step, search=search)
    plain = of_states((steps * step).astype(dtype), 5 * step, search="cells")
    assert_same(decide_hops(near), decide_hops(plain))
    on_the_radius = sum(
        bool((((steps - row) ** 2).sum(axis=1) == 25).any()) for row in steps[1:]
    )
    assert on_the_radius > 200
    transitions = np.arange(near.n_transitions)
    want = [len(near_ranks(plain, t)) for t in transitions]
    np.testing.assert_array_equal(count_neighbours(near, transitions), want)


def test_queries_far_beyond_all_candidates_are_answered() -> None:
    # What has no value is no candidate, but its neighbours are looked for all the same.
    states = np.linspace(0, 1, 40)[:, None] * np.ones(3)
    states[20], states[30] = 1e17, 1e30
    values = np.arange(40.0)
    values[[20, 30]] = np.nan
    for radius in (0.2, 3e17, 1e31):
        problem = of_states(states, radius, value=lambda S: values)
        assert problem.rank[20] == problem.nothing
        transitions = np.arange(39)
        want = [len(near_ranks(problem, t)) for t in transitions]
        np.testing.assert_array_equal(count_neighbours(problem, transitions), want)


def test_a_coarser_precision_of_products_changes_nothing() -> None:
    want = decide_hops(gait_problem(search="blocks"))
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("high", "medium"):
            torch.set_float32_matmul_precision(precision)
            assert_same(decide_hops(gait_problem(search="blocks")), want)
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_slack_lets_few_pairs_through_and_loses_none() -> None:
    rng = np.random.default_rng(1)
    points = (rng.normal(size=(400, 17)) + 300).astype(np.float32)
    frame = Frame.of(Points(points))
    (_, scaled), *rest = frame.scaled(Points(points))
    assert not rest
    assert np.linalg.norm(scaled.astype(np.float64), axis=1).max() <= 1
    exact = np.linalg.norm(points[:, None].astype(np.float64) - points[None], axis=2)
    rounded = ((scaled[:, None] - scaled[None]) ** 2).sum(axis=2)
    for radius in (0.0, 2.0, 4.0):
        norm = np.linalg.norm(scaled.astype(np.float64), axis=1)
        _, limit = frame.limit(radius, norm)
        let_through = rounded <= limit[:, None]
        assert let_through[exact <= radius].all()
        assert not let_through[exact > radius + 0.3].any()


def test_a_saved_search_maps_its_table_and_finds_the_same(tmp_path: Path) -> None:
    problem = gait_problem(search="blocks", shard_states=900)
    problem.save(tmp_path / "problem")
    opened = HopProblem.open(tmp_path / "problem")
    assert [shard.name for shard in opened.shards] == ["blocks"] * len(problem.shards)
    maps = Path("/proc/self/maps").read_text()
    assert str(tmp_path / "problem" / "shard-0" / "table.npy") in maps
    assert_same(decide_hops(opened, threads=2), decide_hops(problem))


@pytest.mark.gpu
@pytest.mark.parametrize("candidate", ["dynamics_first", "best_value_first"])
def test_a_gpu_finds_what_the_cpu_finds(candidate: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"search": "blocks", "candidate": candidate, "shard_states": 900}
    want = decide_hops(gait_problem(**options))
    problem = gait_problem(**options, device="cuda")
    assert_same(decide_hops(problem), want)
    problem.save(tmp_path / "problem")
    for device in ("cpu", "cuda"):
        opened = HopProblem.open(tmp_path / "problem", device=device)
        assert_same(decide_hops(opened), want)
    transitions = np.arange(problem.n_transitions)
    np.testing.assert_array_equal(
        count_neighbours(problem, transitions),
        count_neighbours(replace(problem, shards=opened.shards), transitions),
    )
