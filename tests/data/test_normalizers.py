from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tskd_ray.data.normalizers import CDFNormalizer, MinMaxNormalizer, make_normalizer
from tskd_ray.errors import ConfigError, DataError

NAMES = ["cdf", "minmax"]
ROWS = arrays(
    np.float32,
    st.tuples(st.integers(1, 40), st.integers(1, 4)),
    elements=st.floats(-1000, 1000, width=32),
)


@pytest.mark.parametrize("name", NAMES)
@given(x=ROWS)
def test_values_are_bounded_and_come_back(name: str, x: np.ndarray) -> None:
    normalizer = make_normalizer(name).fit(x)
    y = normalizer.normalize(x)
    assert y.dtype == np.float32
    assert np.abs(y).max() <= 1.0
    # float32 in [-1, 1] resolves 6e-8 of a range; a steep CDF magnifies that by its knots.
    tolerance = 1e-4 * (x.max(axis=0) - x.min(axis=0)) + 1e-4
    assert (np.abs(normalizer.unnormalize(y) - x) <= tolerance).all()


@pytest.mark.parametrize("name", NAMES)
@given(x=ROWS)
def test_order_is_kept(name: str, x: np.ndarray) -> None:
    y = make_normalizer(name).fit(x).normalize(x)
    for d in range(x.shape[1]):
        assert (np.diff(y[np.argsort(x[:, d], kind="stable"), d]) >= 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_constant_dimension_maps_to_zero_and_back_to_its_constant(name: str) -> None:
    x = np.column_stack([np.full(50, 7.25), np.arange(50.0)])
    normalizer = make_normalizer(name).fit(x)
    assert (normalizer.normalize(x)[:, 0] == 0).all()
    noisy = np.array([[0.3, 0.0], [-1.0, 1.0]])
    assert (normalizer.unnormalize(noisy)[:, 0] == 7.25).all()


@pytest.mark.parametrize("name", NAMES)
def test_values_outside_land_on_the_border(name: str) -> None:
    normalizer = make_normalizer(name).fit(np.array([[0.0], [1.0], [3.0]]))
    assert normalizer.normalize(np.array([[-5.0], [9.0]])).ravel().tolist() == [-1.0, 1.0]
    assert normalizer.unnormalize(np.array([[-5.0], [9.0]])).ravel().tolist() == [0.0, 3.0]


@pytest.mark.parametrize("name", NAMES)
def test_state_restores_it(name: str) -> None:
    x = np.random.default_rng(0).normal(size=(3000, 3))
    fitted = make_normalizer(name).fit(x)
    restored = type(fitted).from_state(fitted.state())
    np.testing.assert_array_equal(restored.normalize(x), fitted.normalize(x))
    np.testing.assert_array_equal(restored.unnormalize(x / 9), fitted.unnormalize(x / 9))


@pytest.mark.parametrize("name", NAMES)
def test_leading_axes_are_free(name: str) -> None:
    x = np.random.default_rng(0).normal(size=(60, 3))
    normalizer = make_normalizer(name).fit(x)
    cube = x.reshape(4, 15, 3)
    np.testing.assert_array_equal(
        normalizer.normalize(cube).reshape(60, 3), normalizer.normalize(x)
    )


def test_cdf_of_skewed_data_is_uniform() -> None:
    x = np.random.default_rng(0).exponential(size=(20_000, 1)) ** 3
    y = CDFNormalizer().fit(x).normalize(x).ravel()
    for level in (-0.9, -0.5, 0.0, 0.5, 0.9):
        assert np.mean(y <= level) == pytest.approx((level + 1) / 2, abs=0.005)


def test_cdf_maps_an_atom_to_the_middle_of_its_share() -> None:
    x = np.concatenate([np.linspace(-1, -0.5, 400), np.zeros(200), np.linspace(0.5, 1, 400)])
    y = CDFNormalizer().fit(x[:, None]).normalize(np.array([[-0.5], [0.0], [0.5]]))
    np.testing.assert_allclose(y.ravel(), [-0.2, 0.0, 0.2], atol=0.01)


def test_minmax_is_the_line_through_the_extremes() -> None:
    x = np.array([[2.0], [4.0], [10.0]])
    assert MinMaxNormalizer().fit(x).normalize(x).ravel().tolist() == [-1.0, -0.5, 1.0]


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"one of \['cdf', 'minmax'\]. Got 'gauss'"):
        make_normalizer("gauss")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [np.zeros((0, 2)), np.zeros(3), np.array([[np.nan]])])
def test_fit_refuses_what_has_no_range(name: str, bad: np.ndarray) -> None:
    with pytest.raises(DataError, match="finite rows"):
        make_normalizer(name).fit(bad)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_width_is_refused(name: str) -> None:
    normalizer = make_normalizer(name).fit(np.zeros((4, 2)))
    with pytest.raises(DataError, match="2 dimensions"):
        normalizer.normalize(np.zeros((4, 3)))
