"""A guard beside each worker process: one that hangs is killed, so that hanging is dying.

Ray replaces a process that ends, not one that is stopped or waits for ever for a lock, a device
or a file system. The sign of life is processor time, of the threads that work: of the main one,
and of all that were started since it began its first work, so that Ray's own do not count. Slow
work and slow transfers use some, however long they take, and are left alone; what spins for
ever is not found. A worker without work is killed only if it is stopped.

This file is also the guard's program, and so needs nothing but Python. It reads /proc:
elsewhere than on Linux nothing is guarded.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

_TASKS = Path("/proc/self/task")
_LOOKS = 10
"""In the time after which a worker is taken for hung."""

_MOST_SECONDS = 10.0  # between two looks

_TIMERS = ("grpc_global_tim", "event_engine")
"""Threads of gRPC that tick whatever happens, some of them started late."""


class Guard:
    """Of this process, which works now and then."""

    def __init__(self, seconds: float) -> None:
        """Guard this process from now on.

        Args:
            seconds: Without a sign of life, until it is killed.
        """
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        if _TASKS.is_dir():
            # noted here: those that the guard will find, once it runs, may be at work already
            here = str(os.getpid())
            self._others = [task.name for task in _TASKS.iterdir() if task.name != here]
            self._tell(b"idle")

    @contextlib.contextmanager
    def at_work(self) -> Generator[None]:
        """Expect signs of life while the block runs; in the main thread."""
        self._tell(b"work")
        try:
            yield
        finally:
            self._tell(b"idle")

    def _tell(self, word: bytes) -> None:
        if not _TASKS.is_dir():
            return
        process = self._process
        if process is None or process.poll() is not None:  # somebody may have killed it
            process = self._process = self._start()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            os.write(process.stdin.fileno(), word + b"\n")

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(self._seconds)]
        return subprocess.Popen([*command, *self._others], stdin=subprocess.PIPE)


_guards: dict[float, Guard] = {}


def guard(seconds: float) -> Guard:
    """The one guard of this process with that patience; a worker process does many tasks."""
    if seconds not in _guards:
        _guards[seconds] = Guard(seconds)
    return _guards[seconds]


# -- the guard's program -------------------------------------------------------------------


def _watch(worker: int, seconds: float, others: set[int]) -> None:
    """Kill the worker once it is silent for so long; end when it does.

    Args:
        worker: The process.
        seconds: How long.
        others: Threads of it that do not work.
    """
    pause = min(seconds / _LOOKS, _MOST_SECONDS)
    working, seen, silent = False, _threads(worker), 0.0
    while os.getppid() == worker:
        if select.select([0], [], [], pause)[0]:
            words = os.read(0, 4096).split()
            if not words:
                return
            working, silent = words[-1] == b"work", 0.0
            continue
        before, seen = seen, _threads(worker)
        if working:
            alive = any(seen[t] != before.get(t) for t in seen.keys() - others)
        else:
            alive = not _is_stopped(worker)
        # by looks, not by a clock: a machine that sleeps, or has no time for us, is no proof
        silent = 0.0 if alive else silent + pause
        if silent >= seconds and os.getppid() == worker:
            os.kill(worker, signal.SIGKILL)


def _threads(process: int) -> dict[int, int]:
    """Processor time in ticks of every thread, gRPC's timers left out."""
    ticks: dict[int, int] = {}
    for folder in Path(f"/proc/{process}/task").glob("*"):
        with contextlib.suppress(OSError):  # it ended while we looked
            start, _, rest = (folder / "stat").read_text().rpartition(")")
            if not start.endswith(_TIMERS):
                fields = rest.split()
                ticks[int(folder.name)] = int(fields[11]) + int(fields[12])
    return ticks


def _is_stopped(process: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    return False


if __name__ == "__main__":
    _watch(int(sys.argv[1]), float(sys.argv[2]), {int(thread) for thread in sys.argv[3:]})
