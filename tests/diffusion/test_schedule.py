"""The noise schedule and the steps that samplers visit, by their definitions."""

from __future__ import annotations

import math

import pytest

from tskd_ray.diffusion.schedule import cosine_alpha_bar, sampling_steps


@pytest.mark.parametrize("steps", [1, 20, 200])
def test_the_schedule_is_the_published_cosine(steps: int) -> None:
    def f(i: int) -> float:
        return math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2

    expected, product = list[float](), 1.0
    for i in range(1, steps + 1):
        product *= 1 - min(1 - f(i) / f(i - 1), 0.999)
        expected.append(product)
    assert cosine_alpha_bar(steps).tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("total", "steps", "visited"),
    [
        (200, 5, [199, 127, 71, 31, 7]),  # a few: as squares, 200 · (k / 5)²
        (100, 10, [99, 80, 63, 48, 35, 24, 15, 8, 3, 0]),
        (20, 5, [19, 15, 11, 7, 3]),  # more: evenly
        (7, 3, [6, 4, 2]),
        (3, 1, [2]),
    ],
)
def test_a_few_steps_lie_closer_where_noise_is_small(
    total: int, steps: int, visited: list[int]
) -> None:
    assert sampling_steps(total, steps) == visited
