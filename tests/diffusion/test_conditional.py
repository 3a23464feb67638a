"""The diffusion core: its loss by hand, dropout, temperature, exact clamping."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffusion.small_teacher import UNET
from tskd_ray.config.schema import SamplerConfig
from tskd_ray.diffusion import conditional
from tskd_ray.diffusion.conditional import ConditionalDiffusion, Example, Guess
from tskd_ray.diffusion.schedule import sampling_steps
from tskd_ray.models.ranks import Ranks
from tskd_ray.models.temporal_unet import TemporalUNet

B, H, C, K = 5, 4, 3, 2


class Spy(nn.Module):
    """A network that remembers what it was asked and answers with a fixed tensor."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = nn.Parameter(answer)
        self.seen: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def forward(self, x: Tensor, step: Tensor, condition: Tensor, keep: Tensor) -> Tensor:
        self.seen.append((x.detach(), step, condition, keep))
        return self.answer


def model(prediction: str, answer: Tensor) -> tuple[ConditionalDiffusion, Spy]:
    diffusion = ConditionalDiffusion(
        channels=C,
        context_channels=K,
        unet=UNET,
        diffusion_steps=20,
        prediction=prediction,
        clip=5.0,
    )
    spy = Spy(answer)
    diffusion.network = spy  # type: ignore[assignment]
    return diffusion, spy


def example() -> Example:
    rng = np.random.default_rng(0)
    clamped = rng.random((B, H, C)) < 0.3
    return Example(
        rows=rng.normal(size=(B, H, C)).astype(np.float32),
        clamped=clamped,
        weight=(rng.random((B, H, C)) * ~clamped).astype(np.float32),
        context=rng.normal(size=(B, K)).astype(np.float32),
        condition=rng.random(B).astype(np.float32),
    )


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_the_loss_is_the_weighted_error_of_what_is_predicted(prediction: str) -> None:
    answer = torch.randn(B, H, C, generator=torch.Generator().manual_seed(9))
    diffusion, spy = model(prediction, answer)
    given = example()
    loss = diffusion.loss(given, 0.0, torch.Generator().manual_seed(1))
    # The same draws again, entry by entry.
    rng = torch.Generator().manual_seed(1)
    i = torch.randint(20, (B,), generator=rng)
    epsilon = torch.randn(B, H, C, generator=rng)
    (x, step, condition, keep), total, weights = spy.seen[0], 0.0, 0.0
    assert torch.equal(step, i)
    assert torch.equal(condition, torch.from_numpy(given.condition))
    assert keep.tolist() == [1.0] * B
    for b in range(B):
        a = float(diffusion.alpha_bar[i[b]])
        assert torch.equal(x[b, :, C:], torch.from_numpy(given.context[b]).expand(H, K))
        for h in range(H):
            for c in range(C):
                clean, noise = float(given.rows[b, h, c]), float(epsilon[b, h, c])
                noisy = math.sqrt(a) * clean + math.sqrt(1 - a) * noise
                known = bool(np.asarray(given.clamped)[b, h, c])
                assert float(x[b, h, c]) == pytest.approx(clean if known else noisy, abs=1e-5)
                velocity = math.sqrt(a) * noise - math.sqrt(1 - a) * clean
                target = noise if prediction == "noise" else velocity
                weight = float(given.weight[b, h, c])
                total += weight * (float(answer[b, h, c]) - target) ** 2
                weights += weight
    assert float(loss.detach()) == pytest.approx(total / weights, rel=1e-4)


def test_the_condition_is_dropped_for_the_share_of_rows_asked_for() -> None:
    diffusion, spy = model("noise", torch.zeros(B, H, C))
    rng = torch.Generator().manual_seed(0)
    for _ in range(400):
        diffusion.loss(example(), 0.25, rng)
    kept = torch.cat([keep for *_, keep in spy.seen])
    assert set(kept.tolist()) == {0.0, 1.0}
    assert float(kept.mean()) == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize(("on", "std"), [("variance", 0.5), ("std", 0.25)])
def test_temperature_scales_variance_or_deviation(
    on: Literal["variance", "std"], std: float
) -> None:
    diffusion, spy = model("noise", torch.zeros(200, H, C))
    sampler = SamplerConfig(
        name="ddim", steps=1, guidance=1.0, temperature=0.25, temperature_on=on
    )
    sample(diffusion, sampler, 200)
    first = spy.seen[0][0][..., :C]
    assert float(first.std()) == pytest.approx(std, rel=0.05)


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpmpp_2m"])
def test_clamped_entries_of_a_sample_are_bit_identical(
    name: Literal["ddpm", "ddim", "dpmpp_2m"], prediction: str
) -> None:
    diffusion, _ = model(prediction, torch.full((6, H, C), 0.1))
    rng = np.random.default_rng(3)
    known = rng.normal(size=(6, H, C)).astype(np.float32)
    clamped = rng.random((6, H, C)) < 0.4
    made = sample(diffusion, SamplerConfig(name=name, steps=7, guidance=1.0), 6, known, clamped)
    assert np.array_equal(made[clamped], known[clamped])
    assert not np.isclose(made[~clamped], known[~clamped]).any()


def test_each_window_has_a_stream_of_its_own() -> None:
    diffusion, _ = model("noise", torch.zeros(1))
    sampler = SamplerConfig(name="ddpm", steps=5, guidance=1.0)
    together = sample(diffusion, sampler, 4)
    known = np.zeros((1, H, C), np.float32)
    alone = diffusion.sample(
        known=known,
        clamped=known.astype(bool),
        context=np.zeros((1, K), np.float32),
        condition=np.ones(1, np.float32),
        rngs=[np.random.default_rng(2)],
        sampler=sampler,
    )
    assert np.array_equal(alone[0], together[2])


def test_a_guess_is_made_as_noisy_as_the_sampler_is_so_many_steps_before_its_end() -> None:
    diffusion, spy = model("noise", torch.zeros(2, H, C))
    guess = np.random.default_rng(5).normal(size=(2, H, C)).astype(np.float32)
    nothing = np.zeros((2, H, C), np.float32)
    diffusion.sample(
        known=nothing,
        clamped=nothing.astype(bool),
        context=np.zeros((2, K), np.float32),
        condition=np.ones(2, np.float32),
        rngs=[np.random.default_rng(row) for row in range(2)],
        sampler=SamplerConfig(name="ddim", steps=7, guidance=1.0, temperature=0.25),
        guess=Guess(rows=guess, steps=3),
    )
    left = sampling_steps(20, 7)[-3:]
    assert [int(step[0]) for _, step, *_ in spy.seen] == left
    a = float(diffusion.alpha_bar[left[0]])
    for row in range(2):
        noise = np.random.default_rng(row).standard_normal((H, C), dtype=np.float32)
        expected = math.sqrt(a) * guess[row] + math.sqrt(1 - a) * 0.5 * noise
        np.testing.assert_allclose(spy.seen[0][0][row, :, :C].numpy(), expected, atol=1e-6)


class Rows:
    """In the place of `CompiledUNet`: torch, one row at a time."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def embedding(self, i: int, y: float, kept: bool) -> tuple[Tensor, Tensor, Tensor]:
        return torch.tensor([i]), torch.tensor([y]), torch.tensor([float(kept)])

    def __call__(self, x: np.ndarray, context: np.ndarray, told: Any, rows: Any) -> np.ndarray:
        def one(number: int, tells: int) -> Tensor:
            beside = np.repeat(context[number][None], H, axis=0)
            row = torch.from_numpy(np.concatenate([x[number], beside], axis=1))
            return self.network(row[None], *told[tells])[0]

        return torch.stack(
            [one(n % len(x), which).detach() for n, which in enumerate(rows)]
        ).numpy()


class Hidden(nn.Module):
    """A network not known to be one of ours, so that torch runs it, all rows at once."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network(*inputs)


def test_compiled_or_not_each_row_is_told_its_own_context_and_condition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conditional, "CompiledUNet", Rows)
    torch.manual_seed(0)
    diffusion, _ = model("velocity", torch.zeros(1))
    network = TemporalUNet(C + K, C, UNET).eval()
    for parameter in network.parameters():  # zeros and ones would hide mistakes
        parameter.data += 0.1 * torch.randn_like(parameter)
    context = np.random.default_rng(1).normal(size=(3, K)).astype(np.float32)
    x, found = torch.randn(3, H, C), []
    for one in (network, Hidden(network)):
        diffusion.network = one
        predict = diffusion._predictor(context, np.array([0.9, 0.2, 0.9], np.float32))
        found.append(predict(x, 7, (True, False)).detach())
    rows = torch.cat([x, torch.from_numpy(context)[:, None].expand(3, H, K)], dim=-1)
    expected = [
        network(
            rows[[row]], torch.tensor([7]), torch.tensor([y]), torch.tensor([kept])
        ).detach()
        for kept in (1.0, 0.0)
        for row, y in enumerate((0.9, 0.2, 0.9))
    ]
    assert float((expected[0] - expected[3]).abs().max()) > 1e-2, "conditions tell nothing"
    for predicted in found:
        torch.testing.assert_close(predicted, torch.cat(expected), atol=1e-5, rtol=1e-4)


def sample(
    diffusion: ConditionalDiffusion,
    sampler: SamplerConfig,
    count: int,
    known: np.ndarray | None = None,
    clamped: np.ndarray | None = None,
) -> np.ndarray:
    nothing = np.zeros((count, H, C), np.float32)
    return diffusion.sample(
        known=nothing if known is None else known,
        clamped=nothing.astype(bool) if clamped is None else clamped,
        context=np.zeros((count, K), np.float32),
        condition=np.ones(count, np.float32),
        rngs=[np.random.default_rng(row) for row in range(count)],
        sampler=sampler,
    )


@pytest.mark.parametrize("size", [2, 3])
def test_the_losses_of_all_parts_add_up_to_that_of_the_batch(size: int) -> None:
    given = example()
    diffusion, _ = model("noise", torch.zeros(()))
    whole = diffusion.loss(given, 0.25, torch.Generator().manual_seed(1))
    parts = [
        diffusion.loss(
            given,
            0.25,
            torch.Generator().manual_seed(1),
            part=Ranks(rank, size).part(len(given.rows)),
        )
        for rank in range(size)
    ]
    torch.testing.assert_close(torch.stack(parts).sum(), whole)
    assert len({part.item() for part in parts}) == size
