"""Where the seconds and the memory of a benchmark go."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tskd_ray.stitching.densities import GaussianModel


@dataclass
class Clock:
    """Seconds by part; a part inside another counts for itself alone."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    cpu_seconds: float = 0.0
    """Of this thread in all parts: what a busy machine does not stretch."""
    _inside: list[float] = field(default_factory=list[float])

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, its time noted."""

        def wrapper(*arguments: Any, **options: Any) -> Any:
            with self.part(part):
                return function(*arguments, **options)

        return wrapper

    @contextlib.contextmanager
    def part(self, name: str) -> Generator[None]:
        """Note the time of the block."""
        began, cpu_began = time.perf_counter(), time.thread_time()
        if threading.current_thread() is not threading.main_thread():
            # Beside the main thread's clock, which goes on: not to be taken from anything.
            yield
            self.seconds[f"{name}, in threads"] += time.perf_counter() - began
            return
        self._inside.append(0.0)
        yield
        took = time.perf_counter() - began
        self.seconds[name] += took - self._inside.pop()
        if self._inside:
            self._inside[-1] += took
        else:
            self.cpu_seconds += time.thread_time() - cpu_began


class TimedDensities:
    """A Gaussian ensemble whose calls are timed."""

    def __init__(self, model: GaussianModel, clock: Clock) -> None:
        self.gaussian = clock.timed("densities", model.gaussian)


@contextlib.contextmanager
def peak_memory() -> Generator[list[float]]:
    """Fills in the peak of anonymous memory during the block, beyond that before; GiB."""
    # What the allocator has kept from fitting must not hide what the epoch needs.
    ctypes.CDLL(None).malloc_trim(0)
    before, peak, stop = _anonymous(), [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            peak[0] = max(peak[0], _anonymous() - before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield peak
    stop.set()
    thread.join()


def _anonymous() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("RssAnon")]
    return int(line.split()[1]) / 2**20
