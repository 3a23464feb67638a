"""Structured observations as flat vectors, in one order for datasets and simulators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tskd_ray.errors import DataError
from tskd_ray.types import FloatArray


def flatten_observations(values: Any) -> FloatArray:
    """Rows of observations as one matrix, (rows, S).

    Dictionaries are flattened depth first, keys in alphabetical order; tuples by position; a
    leaf of several axes in C order. A matrix of floats is returned as it came.

    Args:
        values: (rows, ...) arrays, or nested mappings and tuples of them.

    Raises:
        DataError: If a leaf is no array of numbers or leaves differ in rows.
    """
    leaves = [_matrix(name, leaf) for name, leaf in _leaves("", values)]
    if len(leaves) == 1:
        return leaves[0]
    rows = {len(leaf) for leaf in leaves}
    if len(rows) != 1:
        raise DataError(
            "All parts of an observation have one row per state. Got parts with "
            f"{sorted(rows)} rows. Remove the episode from the dataset."
        )
    return np.concatenate(leaves, axis=1)


def flatten_observation(value: Any) -> FloatArray:
    """One observation as a vector, (S,), as `flatten_observations` lays out a row."""
    return np.concatenate([np.asarray(leaf).reshape(-1) for _, leaf in _leaves("", value)])


def _leaves(name: str, values: Any) -> list[tuple[str, Any]]:
    if isinstance(values, Mapping):
        return [
            leaf for key in sorted(values) for leaf in _leaves(f"{name}/{key}", values[key])
        ]
    if isinstance(values, tuple):
        return [leaf for i, part in enumerate(values) for leaf in _leaves(f"{name}/{i}", part)]
    return [(name, values)]


def _matrix(name: str, leaf: Any) -> FloatArray:
    array = np.asarray(leaf)
    if array.dtype.kind not in "fiub" or array.ndim < 1:
        raise DataError(
            f"Observations must be numbers. Got {array.dtype} in {name.strip('/') or 'them'}. "
            "Choose a dataset of numeric observations."
        )
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    return array if array.ndim == 2 else array.reshape(len(array), -1)
