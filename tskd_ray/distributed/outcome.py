"""Errors of the work, told apart from losses of the worker.

What a function raises comes back as a value, so that whatever Ray itself raises means that a
process, a node or an object was lost, and trying again is right. An error of the work would
only come again.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from tskd_ray.config.schema import ComputeConfig
from tskd_ray.errors import StageError, TskdError

T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """What the work raised."""

    error: TskdError | None  # ours, to be raised as it is; None for any other
    summary: str  # one line
    traceback: str


def outcome(work: Callable[[], T]) -> T | Failure:
    """What `work()` returns, or the Failure of what it raises."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - raised again in the driver
        return Failure(
            error=error if isinstance(error, TskdError) else None,
            summary=" ".join(f"{type(error).__name__}: {error}".split()),
            traceback=traceback.format_exc(),
        )


def raise_failure(failure: Failure, what: str) -> NoReturn:
    """Raise what the work raised: ours as itself, any other as a StageError.

    The worker's traceback is a note of the error, for whoever prints notes.
    """
    error = failure.error or StageError(
        f"{what} failed with {failure.summary[:500]}. It would fail again: this is no lost "
        "worker. See the traceback below it, or run with compute.mode=local."
    )
    error.add_note(failure.traceback)
    raise error


def perhaps_hung(seconds: float, compute: ComputeConfig) -> str:
    """What to ask about a worker that was lost after so long at one piece of work."""
    if seconds < compute.hang_timeout:
        return "Is it out of memory?"
    return (
        f"That was after {seconds:.0f} s, and workers that use no processor time for "
        f"compute.hang_timeout={compute.hang_timeout:g} s are killed. Does it hang, on a "
        "device or a file system, or is it out of memory?"
    )
