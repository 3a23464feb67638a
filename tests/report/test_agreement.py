from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from tskd_ray.report.agreement import agreement, spearman


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=40))
def test_the_correlation_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs, dtype=float).T
    found = spearman(x, y)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(x, y)[0])


def test_only_what_both_measured_counts() -> None:
    found = agreement([1.0, 2.0, None, 3.0, float("nan")], [10.0, 30.0, 0.0, 50.0, 5.0])
    assert found is not None
    assert (found.correlation, found.pairs) == (pytest.approx(1.0), 3)


def test_too_few_or_constant_measures_have_no_order() -> None:
    assert agreement([1.0, 2.0], [1.0, 2.0]) is None
    assert agreement([1.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0]) is None


def test_the_interval_narrows_with_more_pairs_and_holds_the_truth() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    y = x + rng.normal(size=400)
    few, many = agreement(x[:20].tolist(), y[:20].tolist()), agreement(x.tolist(), y.tolist())
    assert few is not None
    assert many is not None
    assert many.high - many.low < (few.high - few.low) / 2
    assert many.low < 6 / np.pi * np.arcsin(np.sqrt(0.5) / 2) < many.high
    assert many.text.endswith("400 pairs)")
