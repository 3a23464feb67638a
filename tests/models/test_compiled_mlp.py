"""The compiled small networks against torch's layers, and what their rows depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tskd_ray.models.mlp import BatchedMLP, predict
from tskd_ray.models.threads import torch_threads


def network(*widths: int, members: int = 3) -> BatchedMLP:
    return BatchedMLP(
        widths[0],
        widths[-1],
        widths[1:-1],
        seed=0,
        keys=[(number,) for number in range(members)],
    )


def rows(count: int, width: int) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, width)).astype(np.float32)


@pytest.mark.parametrize("widths", [(5, 2), (3, 7, 1), (11, 300, 33, 22), (40, 32, 64)])
@pytest.mark.parametrize("count", [1, 3, 64, 65, 150])
def test_predictions_are_those_of_torch(widths: tuple[int, ...], count: int) -> None:
    plain, x = network(*widths), rows(count, widths[0])
    with torch.no_grad():
        theirs = plain(torch.from_numpy(x)).numpy()
    ours = predict(plain, x)
    assert ours.shape == (3, count, widths[-1])
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_a_row_is_the_same_to_the_last_bit_in_any_company() -> None:
    plain, x = network(11, 70, 70, 5), rows(150, 11)
    together = predict(plain, x)
    order = np.random.default_rng(0).permutation(150)
    assert np.array_equal(predict(plain, x[order]), together[:, order])
    for row in (0, 63, 64, 149):
        assert np.array_equal(predict(plain, x[row : row + 1])[:, 0], together[:, row])


def test_threads_share_the_rows_and_change_nothing() -> None:
    plain, x = network(11, 70, 5), rows(500, 11)
    alone = predict(plain, x)
    with torch_threads(3):
        assert np.array_equal(predict(plain, x), alone)


def test_no_number_in_none_out_and_only_there() -> None:
    plain, x = network(4, 40, 40, 2), rows(70, 4)
    clean = predict(plain, x)
    x[9, 1] = np.nan
    spoilt = predict(plain, x)
    assert np.isnan(spoilt[:, 9]).all()
    others = np.delete(np.arange(70), 9)
    assert np.array_equal(spoilt[:, others], clean[:, others])


def test_no_rows_give_no_predictions() -> None:
    assert predict(network(4, 8, 2), rows(0, 4)).shape == (3, 0, 2)


@pytest.mark.parametrize("shape", [(5, 3), (5, 5), (4,), (1, 5, 4)])
def test_rows_of_another_width_are_refused(shape: tuple[int, ...]) -> None:
    compiled = network(4, 8, 2).compiled()
    with pytest.raises(ValueError, match=r"x must be \(N, 4\)\. Got"):
        compiled(np.zeros(shape, dtype=np.float32))


def test_rows_need_not_lie_together_nor_be_of_the_kernels_type() -> None:
    compiled, x = network(4, 8, 2).compiled(), rows(5, 8)
    plain = compiled(np.ascontiguousarray(x[:, ::2]))
    assert np.array_equal(compiled(x[:, ::2]), plain)
    wide: Any = x[:, ::2].astype(np.float64)
    assert np.array_equal(compiled(wide), plain)


def test_predictions_follow_weights_that_change() -> None:
    plain, x = network(4, 8, 2), rows(5, 4)
    before = predict(plain, x)
    with torch.no_grad():
        plain.weights[0].mul_(1.5)
    assert not np.allclose(predict(plain, x), before)
