from __future__ import annotations

import numpy as np
import pytest

from tskd_ray.data.observations import flatten_observations
from tskd_ray.errors import DataError


def test_order_is_depth_first_by_key() -> None:
    values = {
        "observation": np.array([[5.0, 6.0]]),
        "achieved": {"b": np.array([[3.0]]), "a": np.array([[[1.0], [2.0]]])},
        "desired": (np.array([4]),),
    }
    assert flatten_observations(values).tolist() == [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_matrix_is_returned_as_it_came(dtype: type) -> None:
    matrix = np.zeros((3, 2), dtype)
    assert flatten_observations(matrix) is matrix


def test_what_is_no_number() -> None:
    with pytest.raises(DataError, match="Got <U5 in task/name"):
        flatten_observations({"task": {"name": np.array(["stack"])}})


def test_ragged_parts() -> None:
    with pytest.raises(DataError, match=r"parts with \[2, 3\] rows"):
        flatten_observations({"a": np.zeros((2, 1)), "b": np.zeros((3, 1))})
