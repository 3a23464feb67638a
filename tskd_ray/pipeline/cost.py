"""What a stage takes: seconds by the clock, processor seconds of all processes; its rate."""

from __future__ import annotations

import resource
import time

from tskd_ray.progress import Progress


class Meter:
    """Counts from its making on, in the process that made it."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), _cpu_seconds()
        self.elsewhere = 0.0
        """CPU seconds that other processes, or earlier sessions, told of; add to it."""

    @property
    def wall_seconds(self) -> float:
        """Seconds by the clock."""
        return time.monotonic() - self._wall

    @property
    def own_seconds(self) -> float:
        """CPU seconds of this process alone."""
        return _cpu_seconds() - self._cpu

    def figures(self) -> dict[str, float]:
        """`wall_seconds` and `cpu_seconds`, for a manifest."""
        return {
            "wall_seconds": round(self.wall_seconds, 3),
            "cpu_seconds": round(self.own_seconds + self.elsewhere, 3),
        }


class Rate:
    """Passes progress on, and knows how fast it was: from the first word to the last."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._first: tuple[float, int] | None = None
        self._last = (0.0, 0)

    def __call__(self, done: int, total: int, **metrics: float) -> None:
        self._last = (time.monotonic(), done)
        self._first = self._first or self._last
        self._progress(done, total, **metrics)

    def figures(self, flops_per_item: float = 0.0) -> dict[str, float]:
        """`rate`, items per second, and with their work known `flop_per_second`."""
        began, first = self._first or self._last
        ended, last = self._last
        if last <= first or ended <= began:
            return {}
        rate = (last - first) / (ended - began)
        figures = {"rate": round(rate, 3)}
        if flops_per_item:
            figures["flop_per_second"] = round(rate * flops_per_item)
        return figures


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
