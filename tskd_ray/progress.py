"""How long work tells how far it is: the console, Ray workers and tests bring their own."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told now and then how far a piece of work is."""

    def __call__(self, done: int, total: int, **metrics: float) -> None:
        """`done` of `total` units; `metrics` are the latest figures, such as `loss`."""
        raise NotImplementedError


def silent(done: int, total: int, **metrics: float) -> None:
    """Tell nobody."""
