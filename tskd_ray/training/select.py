"""Selection: the trajectories of D_K that the student learns from (D20)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from tskd_ray.config.schema import SelectConfig
from tskd_ray.data.extensions import Selector, calling, read_only, selector_extension
from tskd_ray.data.trajectories import Origin, Trajectories
from tskd_ray.errors import DataError, StageError
from tskd_ray.types import BoolArray, Float64Array, IntArray

HISTOGRAM_BINS = 8
HISTOGRAM_WIDTH = 24


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """Which episodes were kept, and why."""

    indices: IntArray  # (n,) kept episodes, ascending
    thresholds: dict[str, float]  # lowest kept return by scope: "global" or origin name
    survivors: dict[str, tuple[int, int]]  # by origin name: (kept, of how many)
    warnings: tuple[str, ...]


def select(trajectories: Trajectories, settings: SelectConfig | None = None) -> Selection:
    """Keep the episodes with `Σ r ≥ max Σ r − δ`, or the best share of them (D20).

    Over all episodes, or for each origin.

    A threshold over mixed origins can discard one of them whole, so survivors are counted by
    origin and an origin without any is a warning. NaN returns are never kept. An extension
    (`select.by`) keeps what it likes, and has no thresholds.

    Args:
        trajectories: With origins by episode.
        settings: Slack δ, its scope and how many must survive; default: `SelectConfig()`.

    Raises:
        ConfigError: If an extension is not there or refuses its settings.
        DataError: If fewer than `settings.minimum_episodes` survive; shows the returns.
        StageError: If an extension fails, or returns what are no episodes.
    """
    settings = settings or SelectConfig()
    returns = trajectories.returns
    groups: dict[str, BoolArray] = {
        origin.name.lower(): trajectories.episode_origin == origin
        for origin in Origin
        if (trajectories.episode_origin == origin).any()
    }
    extension = selector_extension(settings)
    if extension is not None:
        return _by_extension(extension, trajectories, groups, settings)
    everything = {"global": np.ones(len(returns), dtype=np.bool_)}
    thresholds = {
        name: _threshold(returns[members], settings)
        for name, members in (everything if settings.scope == "global" else groups).items()
    }
    kept = np.zeros(len(returns), dtype=np.bool_)
    for name, members in groups.items():
        threshold = thresholds["global" if settings.scope == "global" else name]
        kept |= members & (returns >= threshold)  # False for NaN
    setting = "select.slack" if settings.best is None else "select.best"
    if kept.sum() < settings.minimum_episodes:
        limits = ", ".join(f"{name} {value:.6g}" for name, value in thresholds.items())
        rule = f"slack {settings.slack}" if settings.best is None else f"best {settings.best}"
        raise DataError(
            f"Selection must keep at least {settings.minimum_episodes} episodes. With {rule} "
            f"({settings.scope}) {int(kept.sum())} of {len(returns)} reach "
            f"the threshold ({limits}). Raise {setting} or lower select.minimum_episodes. "
            f"Returns:\n{histogram(returns)}"
        )
    return _counted(
        kept, groups, thresholds, f"Raise {setting}, or use select.scope: per_origin."
    )


def _by_extension(
    extension: Selector,
    trajectories: Trajectories,
    groups: Mapping[str, BoolArray],
    settings: SelectConfig,
) -> Selection:
    with calling(settings.by):
        numbers = np.asarray(extension.select(read_only(trajectories)))
    episodes = trajectories.n_episodes
    if (
        numbers.ndim != 1
        or not np.issubdtype(numbers.dtype, np.integer)
        or not ((numbers >= 0) & (numbers < episodes)).all()
    ):
        raise StageError(
            f"A selector must return numbers of episodes, integers from 0 to {episodes - 1}. "
            f"{settings.by} returned {numbers.dtype} {numbers.shape}. Mend its package."
        )
    kept = np.zeros(episodes, dtype=np.bool_)
    kept[numbers] = True
    if kept.sum() < settings.minimum_episodes:
        raise DataError(
            f"Selection must keep at least {settings.minimum_episodes} episodes. {settings.by} "
            f"keeps {int(kept.sum())} of {episodes}. Change select.settings or lower "
            "select.minimum_episodes."
        )
    return _counted(kept, groups, {}, "Change select.settings.")


def _counted(
    kept: BoolArray,
    groups: Mapping[str, BoolArray],
    thresholds: dict[str, float],
    remedy: str,
) -> Selection:
    survivors = {name: (int((kept & m).sum()), int(m.sum())) for name, m in groups.items()}
    warnings = tuple(
        f"Selection kept none of the {total} {name} episodes. {remedy}"
        for name, (count, total) in survivors.items()
        if not count
    )
    return Selection(
        indices=np.flatnonzero(kept),
        thresholds=thresholds,
        survivors=survivors,
        warnings=warnings,
    )


def histogram(returns: Float64Array) -> str:
    """The distribution of returns as text, one line per bin, highest returns first."""
    finite = returns[np.isfinite(returns)]
    if not len(finite):
        return "(no finite return)"
    counts, edges = np.histogram(finite, bins=HISTOGRAM_BINS)
    lines = [
        f"{low:10.1f} … {high:10.1f} {'█' * -(-HISTOGRAM_WIDTH * n // counts.max())} {n}"
        for n, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
    ]
    return "\n".join(reversed(lines))


def _threshold(returns: Float64Array, settings: SelectConfig) -> float:
    """The least return that is kept; infinite without a finite one."""
    finite = np.sort(returns[np.isfinite(returns)])[::-1]
    if not len(finite):
        return float("inf")
    if settings.best is not None:
        # Exact: in floats 7 % of 100 is more than 7.
        kept = math.ceil(Fraction(settings.best.removesuffix("%")) / 100 * len(finite))
        return float(finite[kept - 1])
    if isinstance(settings.slack, str):
        share = float(settings.slack.removesuffix("%")) / 100.0
        if share == 1:
            return float(finite[-1])  # rounding may put the difference above it
        return float(finite[0] - share * (finite[0] - finite[-1]))
    return float(finite[0] - settings.slack)
