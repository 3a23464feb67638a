"""The compiled temporal U-Net against torch's, and what its rows depend on: themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tskd_ray.config.schema import UNetConfig
from tskd_ray.models.compiled_unet import CompiledUNet
from tskd_ray.models.temporal_unet import TemporalUNet
from tskd_ray.models.threads import torch_threads

CHANNELS, CONTEXT, OUT = 5, 3, 4


def network(unet: UNetConfig, channels: int = CHANNELS + CONTEXT) -> TemporalUNet:
    torch.manual_seed(0)
    made = TemporalUNet(channels, OUT, unet).eval()
    with torch.no_grad():  # norms begin as ones and zeros: mistakes there would not show
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def inputs(rows: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(rows)
    x = rng.normal(size=(rows, horizon, CHANNELS)).astype(np.float32)
    return x, rng.normal(size=(rows, CONTEXT)).astype(np.float32)


@pytest.mark.parametrize(
    ("width", "multipliers", "kernel", "horizon", "rows"),
    [
        (8, (1,), 5, 6, 3),
        (8, (1, 3), 3, 7, 17),  # padded to the stride; more rows than go together
        (24, (1, 2, 3), 7, 13, 2),  # channels that are no multiple of a vector
        (32, (1, 2, 4), 5, 32, 5),  # the small preset
        (8, (1, 2), 1, 4, 16),
        (8, (2, 1), 5, 1, 2),  # a shortcut from two joined tensors; one value to normalise
    ],
)
def test_predictions_are_those_of_torch(
    width: int, multipliers: tuple[int, ...], kernel: int, horizon: int, rows: int
) -> None:
    unet = UNetConfig(
        base_width=width, multipliers=multipliers, embedding_width=8, kernel_size=kernel
    )
    plain = network(unet)
    compiled = CompiledUNet(plain)
    x, context = inputs(rows, horizon)
    told = [compiled.embedding(7, 0.8, True), compiled.embedding(7, 0.8, False)]
    which = np.repeat([0, 1], rows)
    ours = compiled(x, context, told, which)
    beside = np.broadcast_to(context[:, None], (rows, horizon, CONTEXT))
    both = torch.from_numpy(np.concatenate([x, beside], axis=-1)).repeat(2, 1, 1)
    step = torch.full((2 * rows,), 7)
    condition, keep = torch.full((2 * rows,), 0.8), torch.from_numpy(1.0 - which)
    with torch.no_grad():
        theirs = plain(both, step, condition, keep.float()).numpy()
        exact = plain.double()(both.double(), step, condition.double(), keep).numpy()
    assert np.abs(ours[:rows] - ours[rows:]).max() > 1e-3, "the condition makes no difference"
    # Where few values are normalised, rounding grows: for torch no less than for us.
    rounding = np.abs(theirs - exact).max()
    np.testing.assert_allclose(
        ours, exact, rtol=0, atol=5 * rounding + 1e-6 * np.abs(exact).max()
    )


@pytest.fixture(scope="module")
def small() -> CompiledUNet:
    return CompiledUNet(
        network(UNetConfig(base_width=8, multipliers=(1, 2), embedding_width=8))
    )


def test_a_row_is_the_same_to_the_last_bit_in_any_company(small: CompiledUNet) -> None:
    x, context = inputs(37, 9)
    told = [small.embedding(3, 1.0, True)]
    together = small(x, context, told, np.zeros(37, int))
    order = np.random.default_rng(0).permutation(37)
    assert np.array_equal(
        small(x[order], context[order], told, np.zeros(37, int)), together[order]
    )
    for row in (0, 15, 16, 36):
        part = slice(row, row + 1)
        assert np.array_equal(
            small(x[part], context[part], told, np.zeros(1, int))[0], together[row]
        )


def test_threads_share_the_rows_and_change_nothing(small: CompiledUNet) -> None:
    x, context = inputs(50, 9)
    told = [small.embedding(3, 1.0, True), small.embedding(3, 1.0, False)]
    which = np.arange(100) // 50
    alone = small(x, context, told, which)
    with torch_threads(3):
        assert np.array_equal(small(x, context, told, which), alone)


def test_a_row_that_is_no_number_spoils_no_other(small: CompiledUNet) -> None:
    x, context = inputs(40, 9)
    told = [small.embedding(3, 1.0, True)]
    clean = small(x, context, told, np.zeros(40, int))
    x[5] = np.nan
    context[20] = np.inf
    spoilt = small(x, context, told, np.zeros(40, int))
    assert np.isnan(spoilt[5]).all()
    assert not np.isfinite(spoilt[20]).all()
    others = np.delete(np.arange(40), [5, 20])
    assert np.array_equal(spoilt[others], clean[others])
    again, _ = inputs(40, 9)
    assert np.array_equal(small(again, inputs(40, 9)[1], told, np.zeros(40, int)), clean)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": (2, 9, CHANNELS + 1)}, "must be 8 together"),
        ({"x": (2, 9, CHANNELS - 1)}, "must be 8 together"),
        ({"context": (2, CONTEXT + 1)}, "must be 8 together"),
        ({"x": (2, 9)}, r"must be \(B, H, C\)"),
        ({"context": (2,)}, r"context \(B, K\)"),
        ({"context": (1, CONTEXT)}, "the same rows"),
        ({"which": [0, 1, 0]}, "a multiple of the rows"),
        ({"x": (0, 9, CHANNELS), "context": (0, CONTEXT)}, "a multiple of the rows"),
        ({"which": [0, 2]}, "from 0 to 1. Got 0 to 2"),
        ({"which": [-1, 0]}, "from 0 to 1. Got -1 to 0"),
        ({"embedding": 32}, "Embeddings must have"),
    ],
)
def test_what_does_not_fit_is_refused(
    small: CompiledUNet, change: dict[str, Any], message: str
) -> None:
    x, context = (np.zeros(change.get(*d), np.float32) for d in (
        ("x", (2, 9, CHANNELS)), ("context", (2, CONTEXT)),
    ))  # fmt: skip
    told = [small.embedding(3, 1.0, True), small.embedding(3, 1.0, False)]
    if "embedding" in change:
        told = [part[: change["embedding"]] for part in told]
    with pytest.raises(ValueError, match=message):
        small(x, context, told, np.array(change.get("which", [0, 1])))


def test_a_program_takes_windows_of_its_own_length_only(small: CompiledUNet) -> None:
    told = [small.embedding(3, 1.0, True)]
    small(*inputs(2, 9), told, np.zeros(2, int))
    (program,) = (made for length, made in small._programs.items() if length == 9)
    x, context = inputs(2, 12)
    with pytest.raises(ValueError, match=r"x must be \(B, 9, C\)"):
        program.run(x, context, np.stack(told), np.zeros(2, int))


def test_inputs_need_not_lie_together_nor_be_of_the_kernels_type(small: CompiledUNet) -> None:
    x, context = inputs(4, 9)
    told, which = [small.embedding(3, 1.0, True)], np.zeros(2, int)
    plain = small(x[::2].copy(), context[::2].copy(), told, which)
    assert np.array_equal(small(x[::2], context[::2], told, which), plain)
    turned: Any = np.asfortranarray(x[::2]).astype(np.float64, order="F")
    wide: Any = context[::2].astype(np.float64)
    assert np.array_equal(small(turned, wide, told, which), plain)


def test_one_network_serves_several_horizons(small: CompiledUNet) -> None:
    told = [small.embedding(0, 0.5, True)]
    shapes = [small(*inputs(2, horizon), told, np.zeros(2, int)).shape for horizon in (3, 8, 3)]
    assert shapes == [(2, 3, OUT), (2, 8, OUT), (2, 3, OUT)]
