"""What a dataset must satisfy before anything is trained on it.

Only loading is this strict: in memory NaN states and one-step episodes are legal (D17).
"""

from __future__ import annotations

import numpy as np

from tskd_ray.data.trajectories import Origin, Trajectories
from tskd_ray.errors import DataError
from tskd_ray.types import BoolArray, FloatArray, IntArray

# Recorded actions are float32 roundings of the policy's output.
ACTION_TOLERANCE = 1e-3  # of the dimension's range


def validate(trajectories: Trajectories, *, path: str) -> None:
    """Check values; shapes were checked when the trajectories were built.

    Args:
        trajectories: What was read.
        path: Where from, for the message. Episodes are named by position, from 0.

    Raises:
        DataError: If a value is NaN or infinite, a recorded episode has fewer than two steps,
            no episode is complete, an origin is unknown, widths are zero or not the
            environment's, or an action lies outside its action space.
    """
    if not trajectories.n_episodes:
        raise DataError(f"A dataset needs at least one episode. {path} has none.")
    _check_lengths(trajectories, path)
    if not trajectories.observation_dim or not trajectories.action_dim:
        raise DataError(
            "Observations and actions need at least one dimension. Those of "
            f"{path} have {trajectories.observation_dim} and {trajectories.action_dim}. Write "
            "the dataset again."
        )
    check_finite(trajectories, path=path)
    if not (trajectories.terminated | trajectories.truncated).any():
        raise DataError(
            f"At least one episode must end, by termination or time limit. None of the "
            f"{trajectories.n_episodes} in {path} does. Mark the episode ends."
        )
    _check_origins(trajectories, path)
    _check_width(trajectories, path)
    check_actions(trajectories, path=path)


_REPAIR = "Remove the episode or repair the file."
_RESCALE = "Rescale the actions or name the environment that they came from."


def check_finite(trajectories: Trajectories, *, path: str, remedy: str = _REPAIR) -> None:
    """Refuse NaN and infinite values.

    Args:
        trajectories: What was read, or made.
        path: Where from, for the message.
        remedy: Its last sentence.

    Raises:
        DataError: Then; names the first one's episode and step.
    """
    columns: list[tuple[str, FloatArray, IntArray]] = [
        ("observations", trajectories.observations, trajectories.state_offsets),
        ("actions", trajectories.actions, trajectories.offsets),
        ("rewards", trajectories.rewards, trajectories.offsets),
    ]
    for name, array, offsets in columns:
        _check_column(name, array, offsets, path, remedy)


def _check_lengths(trajectories: Trajectories, path: str) -> None:
    # Generation and stitching make shorter ones, and write them.
    recorded = trajectories.episode_origin == Origin.RECORDED
    short = np.flatnonzero((trajectories.lengths < 2) & recorded)
    if len(short):
        raise DataError(
            f"Every recorded episode needs at least two steps. Episode {short[0]} of {path} "
            f"has {trajectories.lengths[short[0]]} ({len(short)} such in all). Remove it from "
            "the dataset."
        )


def _check_column(
    name: str, array: FloatArray, offsets: IntArray, path: str, remedy: str
) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum(dtype=np.float64)):
            return  # any NaN or infinity would have reached the sum
    bad: BoolArray = ~np.isfinite(array)
    rows = np.flatnonzero(bad.any(axis=1) if bad.ndim == 2 else bad)
    if not len(rows):
        return  # finite values whose sum overflows
    episode, step = _locate(int(rows[0]), offsets)
    raise DataError(
        f"All values must be finite. {name} of episode {episode}, step {step} in {path} holds "
        f"{_first_bad(array[rows[0]])} ({len(rows)} such rows in all). {remedy}"
    )


def _first_bad(row: FloatArray) -> float:
    row = np.atleast_1d(row)
    return float(row[~np.isfinite(row)][0])


def _check_origins(trajectories: Trajectories, path: str) -> None:
    codes = np.union1d(trajectories.origin, trajectories.episode_origin)
    unknown = np.setdiff1d(codes, list(Origin))
    if len(unknown):
        known = ", ".join(f"{int(origin)} {origin.name.lower()}" for origin in Origin)
        raise DataError(
            f"Origins are {known}. {path} has {int(unknown[0])}. Correct the origin columns."
        )


def _check_width(trajectories: Trajectories, path: str) -> None:
    environment, width = trajectories.environment, trajectories.observation_dim
    if environment is None or environment.observation_dim in (None, width):
        return
    raise DataError(
        f"Observations must have the width of {environment.id}'s, "
        f"{environment.observation_dim}. {path} has {width}. Name the environment that it came "
        "from, with its keyword arguments."
    )


def check_actions(trajectories: Trajectories, *, path: str, remedy: str = _RESCALE) -> None:
    """Refuse actions outside the environment's action space, if that is known.

    Args and errors: as `check_finite`.
    """
    environment = trajectories.environment
    if environment is None or not environment.action_low:
        return
    low = np.asarray(environment.action_low, dtype=np.float64)
    high = np.asarray(environment.action_high, dtype=np.float64)
    if len(low) != trajectories.action_dim:
        raise DataError(
            f"Actions must have the width of {environment.id}'s action space, {len(low)}. "
            f"{path} has {trajectories.action_dim}. Name the environment that it came from."
        )
    with np.errstate(invalid="ignore"):  # unbounded spaces: inf - inf
        slack = np.nan_to_num(ACTION_TOLERANCE * (high - low), nan=0.0, posinf=0.0)
    actions = trajectories.actions
    outside = (actions < low - slack) | (actions > high + slack)
    rows = np.flatnonzero(outside.any(axis=1))
    if not len(rows):
        return
    row = int(rows[0])
    dim = int(np.flatnonzero(outside[row])[0])
    episode, step = _locate(row, trajectories.offsets)
    raise DataError(
        f"Actions must lie in {environment.id}'s action space. Episode {episode}, step {step} "
        f"in {path} has {actions[row, dim]:.6g} in dimension {dim}, outside [{low[dim]:.6g}, "
        f"{high[dim]:.6g}] ({len(rows)} such steps in all). {remedy}"
    )


def _locate(row: int, offsets: IntArray) -> tuple[int, int]:
    """Episode of a flat row, and its step there."""
    episode = int(np.searchsorted(offsets, row, side="right")) - 1
    return episode, row - int(offsets[episode])
