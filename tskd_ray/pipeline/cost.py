"""What a stage takes: seconds by the clock, and processor seconds of all its processes."""

from __future__ import annotations

import resource
import time


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


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
