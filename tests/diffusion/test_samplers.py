"""Samplers against a distribution whose perfect denoiser is known, and exact clamping."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from tskd_ray.diffusion.guidance import guided
from tskd_ray.diffusion.samplers import SAMPLERS
from tskd_ray.diffusion.schedule import cosine_alpha_bar, sampling_steps

ALPHA_BAR = cosine_alpha_bar(200)
MEAN, STD = 0.7, 0.3


def gaussian_denoiser(x: Tensor, i: int) -> Tensor:
    """E[x0 | x_i] for x0 ~ N(MEAN, STD²): the posterior mean, by hand."""
    a = float(ALPHA_BAR[i])
    gain = math.sqrt(a) * STD**2 / (a * STD**2 + 1 - a)
    return MEAN + gain * (x - math.sqrt(a) * MEAN)


def draw(name: str, steps: int, std: float = 1.0, count: int = 20_000) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return SAMPLERS[name](
        torch.randn(count, 1, 1, generator=rng) * std,
        gaussian_denoiser,
        ALPHA_BAR,
        sampling_steps(len(ALPHA_BAR), steps),
        noise=lambda: torch.randn(count, 1, 1, generator=rng),
        clamp=lambda x: x,
        std=std,
    )


@pytest.mark.parametrize(
    ("name", "steps", "tolerance"),
    [("ddpm", 200, 0.01), ("ddim", 200, 0.01), ("ddim", 20, 0.05), ("dpmpp_2m", 20, 0.05)],
)
def test_samplers_recover_the_distribution(name: str, steps: int, tolerance: float) -> None:
    samples = draw(name, steps)
    assert abs(float(samples.mean()) - MEAN) < tolerance
    assert abs(float(samples.std()) - STD) < tolerance


def test_second_order_is_nearer_than_first_at_few_steps() -> None:
    exact = draw("ddim", 200, count=200)
    errors = {
        name: float((draw(name, 8, count=200) - exact).abs().mean())
        for name in ("ddim", "dpmpp_2m")
    }
    assert errors["dpmpp_2m"] < errors["ddim"]


def test_ddpm_with_all_steps_is_the_published_update() -> None:
    rng = torch.Generator().manual_seed(3)
    alpha_bar = cosine_alpha_bar(20)
    beta = 1 - alpha_bar / np.concatenate([[1.0], alpha_bar[:-1]])
    denoise: Callable[[Tensor, int], Tensor] = lambda x, i: torch.tanh(x) * 0.5  # noqa: E731
    x = torch.randn(4, 2, 1, generator=rng)
    for i in reversed(range(20)):
        before = alpha_bar[i - 1] if i else 1.0
        mean = (
            math.sqrt(before) * beta[i] / (1 - alpha_bar[i]) * denoise(x, i)
            + math.sqrt(1 - beta[i]) * (1 - before) / (1 - alpha_bar[i]) * x
        )
        variance = beta[i] * (1 - before) / (1 - alpha_bar[i])
        x = mean + (math.sqrt(variance) * torch.randn(4, 2, 1, generator=rng) if i else 0)
    rng = torch.Generator().manual_seed(3)
    ours = SAMPLERS["ddpm"](
        torch.randn(4, 2, 1, generator=rng),
        denoise,
        alpha_bar,
        sampling_steps(20, 20),
        noise=lambda: torch.randn(4, 2, 1, generator=rng),
        clamp=lambda x: x,
        std=1.0,
    )
    torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-5)


def test_the_multistep_solver_is_the_published_one() -> None:
    visited = sampling_steps(200, 6)  # unevenly spaced, also in log(signal / noise)
    denoise: Callable[[Tensor, int], Tensor] = lambda x, i: torch.sin(2 * x + 0.01 * i)  # noqa: E731
    start = torch.randn(4, 2, 1, generator=torch.Generator().manual_seed(3)).double()

    def levels(i: int) -> tuple[float, float, float]:
        alpha, sigma = math.sqrt(ALPHA_BAR[i]), math.sqrt(1 - ALPHA_BAR[i])
        return alpha, sigma, math.log(alpha / sigma)

    x, answers, widths = start, list[Tensor](), list[float]()
    for i, j in pairwise(visited):
        (_, sigma_i, lambda_i), (alpha, sigma, lambda_j) = levels(i), levels(j)
        answers.append(denoise(x, i))
        widths.append(lambda_j - lambda_i)
        direction = answers[-1]
        if len(answers) > 1:
            r = widths[-2] / widths[-1]
            direction = (1 + 1 / (2 * r)) * answers[-1] - 1 / (2 * r) * answers[-2]
        x = sigma / sigma_i * x - alpha * (math.exp(-widths[-1]) - 1) * direction
    ours = SAMPLERS["dpmpp_2m"](
        start,
        denoise,
        ALPHA_BAR,
        visited,
        noise=lambda: torch.zeros(0),
        clamp=lambda x: x,
        std=1.0,
    )
    torch.testing.assert_close(ours, denoise(x, visited[-1]), rtol=1e-9, atol=1e-9)


def test_temperature_narrows_ancestral_samples() -> None:
    assert float(draw("ddpm", 200, std=0.5).std()) < 0.8 * STD


@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("steps", [1, 2, 5, 200])
def test_clamped_entries_come_out_bit_identical(name: str, steps: int) -> None:
    rng = torch.Generator().manual_seed(1)
    known = torch.randn(3, 4, 2, generator=rng)
    mask = torch.rand(3, 4, 2, generator=rng) < 0.5
    seen: list[Tensor] = []

    def denoise(x: Tensor, i: int) -> Tensor:
        seen.append(x)
        return torch.zeros_like(x)

    result = SAMPLERS[name](
        torch.randn(3, 4, 2, generator=rng),
        denoise,
        ALPHA_BAR,
        sampling_steps(len(ALPHA_BAR), steps),
        noise=lambda: torch.randn(3, 4, 2, generator=rng),
        clamp=lambda x: torch.where(mask, known, x),
        std=1.0,
    )
    for x in (*seen, result):
        assert torch.equal(x[mask], known[mask])
    assert len(seen) == steps


@pytest.mark.parametrize("total", [1, 7, 200, 1000])
def test_sampling_steps_fall_from_the_noisiest_without_repeats(total: int) -> None:
    for steps in {1, min(5, total), min(15, total), total}:
        visited = sampling_steps(total, steps)
        assert len(visited) == steps
        assert visited[0] == total - 1
        assert all(a > b >= 0 for a, b in pairwise(visited))
    assert sampling_steps(total, total) == list(reversed(range(total)))


@pytest.mark.parametrize(("w", "batches"), [(0.0, [2]), (1.0, [2]), (1.4, [4])])
def test_guidance_is_one_forward_of_the_size_it_needs(w: float, batches: list[int]) -> None:
    seen: list[int] = []
    y = torch.tensor([1.0, 2.0])[:, None, None]

    def predict(x: Tensor, step: int, keep: tuple[bool, ...]) -> Tensor:
        seen.append(len(keep) * len(x))
        assert step == 7
        return torch.cat([x + kept * y for kept in keep])

    x = torch.randn(2, 3, 1)
    torch.testing.assert_close(guided(predict, x, 7, w), x + w * y)
    assert seen == batches
