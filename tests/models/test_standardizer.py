from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tskd_ray.models.standardizer import Standardizer


@given(st.floats(-100, 100), st.floats(1e-2, 1e3), st.integers(0, 100))
def test_normalize_gives_unit_scale_and_unnormalize_undoes_it(
    centre: float, spread: float, seed: int
) -> None:
    x = centre + spread * np.random.default_rng(seed).normal(size=(50, 3))
    scale = Standardizer.fit(x)
    normal = scale.normalize(x)
    np.testing.assert_allclose(normal.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(normal.std(axis=0), 1, rtol=1e-3)
    np.testing.assert_allclose(scale.unnormalize(normal), x, atol=1e-5 * spread, rtol=1e-6)


def test_constant_dimensions_keep_their_scale() -> None:
    x = np.full((10, 2), 7.0, dtype=np.float32)
    x[:, 1] = np.arange(10)
    scale = Standardizer.fit(x)
    assert scale.std_[0] == 1.0
    assert np.isfinite(scale.normalize(x)).all()


def test_tensors_bring_it_back() -> None:
    scale = Standardizer.fit(np.random.default_rng(0).normal(size=(9, 4)))
    again = Standardizer.from_tensors(scale.tensors("x"), "x")
    np.testing.assert_array_equal(again.mean_, scale.mean_)
    np.testing.assert_array_equal(again.std_, scale.std_)


def test_what_is_predicted_of_a_constant_counts_for_nothing() -> None:
    x = np.column_stack([np.full(10, 7.0), np.arange(10.0)])
    scale = Standardizer.fit(x, constant=0.0)
    np.testing.assert_array_equal(scale.normalize(x), Standardizer.fit(x).normalize(x))
    assert (scale.unnormalize(np.random.default_rng(0).normal(size=(9, 2)))[:, 0] == 7.0).all()
