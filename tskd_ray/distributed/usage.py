"""CPU seconds of this process and of all that it started, such as a whole local Ray cluster."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

_SAMPLE_SECONDS = 2.0


class ProcessTree:
    """Counts from its making on; what a process used in its last seconds may be missed.

    Ray's daemon does not collect the times of workers that end, so they are looked at while
    they live. Reads /proc: elsewhere than on Linux it counts this process alone.
    """

    def __init__(self) -> None:
        self._ticks = os.sysconf("SC_CLK_TCK")
        self._seen: dict[tuple[int, str], float] = {}  # (process, its start) → seconds
        self._before = time.process_time()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @property
    def cpu_seconds(self) -> float:
        """Of all processes so far."""
        self._sample()
        with self._lock:
            return time.process_time() - self._before + sum(self._seen.values())

    def close(self) -> None:
        """Stop looking."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        parents: dict[int, int] = {}
        found: dict[int, tuple[str, float]] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it ended while we looked
                # the name, in parentheses, may hold spaces
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                pid = int(folder.name)
                parents[pid] = int(fields[1])
                found[pid] = (fields[19], (int(fields[11]) + int(fields[12])) / self._ticks)
        below = {pid for pid in found if _is_below(pid, os.getpid(), parents)}
        with self._lock:
            for pid in below:
                start, seconds = found[pid]
                self._seen[pid, start] = seconds


def _is_below(pid: int, top: int, parents: dict[int, int]) -> bool:
    for _ in range(len(parents)):
        pid = parents.get(pid, 0)
        if pid in (0, top):
            return pid == top
    return False
