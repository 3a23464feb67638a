"""Per-dimension maps onto [-1, 1], where the denoiser lives (D6).

N rows · D dimensions · K knots

The predicted sample is clipped to [-1, 1] at each diffusion step, so both normalizers are
bounded: values outside the fitted range land on the border. A dimension that never varies in
the data maps to 0 and comes back as its constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, Self

import numpy as np

from tskd_ray.errors import ConfigError, DataError
from tskd_ray.types import Float32Array, Float64Array, FloatArray

Array = np.ndarray  # any dtype: what checkpoints hold

# A CDF of every distinct value would store the dataset in each checkpoint and stretch the gap
# to a lone outlier over half the output's resolution; a thousand quantiles do neither.
KNOTS = 1001


class Normalizer(Protocol):
    """Fitted on rows, then maps the last axis onto [-1, 1] and back."""

    def fit(self, x: FloatArray) -> Self:
        """Learn from rows of `x`, shaped (N, D)."""
        raise NotImplementedError

    def normalize(self, x: FloatArray) -> Float32Array:
        """Values in [-1, 1]; any leading axes, last axis D."""
        raise NotImplementedError

    def unnormalize(self, x: FloatArray) -> Float32Array:
        """Inverse of `normalize` on the fitted range; clips its input to [-1, 1]."""
        raise NotImplementedError

    def state(self) -> dict[str, Array]:
        """What `from_state` needs."""
        raise NotImplementedError


class MinMaxNormalizer:
    """Linear between each dimension's smallest and largest value."""

    name = "minmax"

    def fit(self, x: FloatArray) -> Self:
        """Learn `low_` and `high_`, (D,), from rows of `x`, shaped (N, D)."""
        x = _rows(x)
        self.low_: Float64Array = x.min(axis=0)
        self.high_: Float64Array = x.max(axis=0)
        return self

    def normalize(self, x: FloatArray) -> Float32Array:
        """Values in [-1, 1]; any leading axes, last axis D."""
        x = _matching(x, len(self.low_))
        span = self.high_ - self.low_
        flat = span == 0
        unit = (x - self.low_) / np.where(flat, 1.0, span)
        y = np.where(flat, 0.0, 2.0 * unit - 1.0)
        return np.clip(y, -1.0, 1.0).astype(np.float32)

    def unnormalize(self, x: FloatArray) -> Float32Array:
        """Inverse of `normalize` on the fitted range; clips its input to [-1, 1]."""
        y = np.clip(_matching(x, len(self.low_)), -1.0, 1.0)
        return (self.low_ + (y + 1.0) / 2.0 * (self.high_ - self.low_)).astype(np.float32)

    def state(self) -> dict[str, Array]:
        """What `from_state` needs."""
        return {"low": self.low_, "high": self.high_}

    @classmethod
    def from_state(cls, state: Mapping[str, Array]) -> Self:
        """The normalizer that `state` came from."""
        self = cls()
        self.low_ = np.asarray(state["low"], dtype=np.float64)
        self.high_ = np.asarray(state["high"], dtype=np.float64)
        return self


class CDFNormalizer:
    """Through each dimension's empirical distribution function, so outputs spread evenly.

    The distribution function is linear between `KNOTS` quantiles; a value that holds several
    quantiles (an atom) maps to their middle.
    """

    name = "cdf"

    def fit(self, x: FloatArray) -> Self:
        """Learn `values_` and `levels_`, (D, K) each, from rows of `x`, shaped (N, D)."""
        x = _rows(x)
        share = np.linspace(0.0, 1.0, min(KNOTS, max(len(x), 2)))
        quantiles_KD = np.quantile(x, share, axis=0)
        values, levels = zip(*(_knots(q, share) for q in quantiles_KD.T), strict=True)
        width = max(len(v) for v in values)
        # Rows are padded by their last knot, which interpolation never looks behind.
        self.values_: Float64Array = np.stack(
            [np.pad(v, (0, width - len(v)), "edge") for v in values]
        )
        self.levels_: Float64Array = np.stack(
            [np.pad(v, (0, width - len(v)), "edge") for v in levels]
        )
        return self

    def normalize(self, x: FloatArray) -> Float32Array:
        """Values in [-1, 1]; any leading axes, last axis D."""
        return self._map(x, self.values_, self.levels_)

    def unnormalize(self, x: FloatArray) -> Float32Array:
        """Inverse of `normalize` on the fitted range; clips its input to [-1, 1]."""
        return self._map(x, self.levels_, self.values_)

    def state(self) -> dict[str, Array]:
        """What `from_state` needs."""
        return {"values": self.values_, "levels": self.levels_}

    @classmethod
    def from_state(cls, state: Mapping[str, Array]) -> Self:
        """The normalizer that `state` came from."""
        self = cls()
        self.values_ = np.asarray(state["values"], dtype=np.float64)
        self.levels_ = np.asarray(state["levels"], dtype=np.float64)
        return self

    def _map(self, x: FloatArray, source: Float64Array, target: Float64Array) -> Float32Array:
        x = _matching(x, len(source))
        out = np.empty(x.shape, dtype=np.float32)
        for d in range(len(source)):
            if self.values_[d, 0] == self.values_[d, -1]:
                out[..., d] = target[d, 0]
            else:
                out[..., d] = np.interp(x[..., d], source[d], target[d])
        return out


def _knots(quantiles: Float64Array, share: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Distinct quantiles and their levels in [-1, 1], the ends exactly -1 and 1."""
    values, first, count = np.unique(quantiles, return_index=True, return_counts=True)
    if len(values) == 1:
        return values, np.zeros(1)
    middle = (share[first] + share[first + count - 1]) / 2
    unit = (middle - middle[0]) / (middle[-1] - middle[0])
    return values, 2.0 * unit - 1.0


def _rows(x: FloatArray) -> Float64Array:
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or not len(x) or not np.isfinite(x).all():
        raise DataError(
            "A normalizer is fitted on finite rows, (N, D) with N >= 1. Got shape "
            f"{x.shape}{'' if np.isfinite(x).all() else ' with NaN or infinite values'}."
        )
    return x


def _matching(x: FloatArray, width: int) -> Float64Array:
    x = np.asarray(x, dtype=np.float64)
    if x.ndim < 1 or x.shape[-1] != width:
        raise DataError(
            f"The last axis must have the {width} dimensions the normalizer was fitted on. "
            f"Got shape {x.shape}."
        )
    return x


_MAKERS: dict[str, Callable[[], MinMaxNormalizer | CDFNormalizer]] = {
    "cdf": CDFNormalizer,
    "minmax": MinMaxNormalizer,
}


def make_normalizer(name: str) -> MinMaxNormalizer | CDFNormalizer:
    """An unfitted normalizer by its name in the configuration.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in _MAKERS:
        raise ConfigError(f"normalizer must be one of {sorted(_MAKERS)}. Got {name!r}.")
    return _MAKERS[name]()
