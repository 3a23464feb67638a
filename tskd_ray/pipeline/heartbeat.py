"""Signs of life, by which work in progress is told from what a kill left behind.

The folder of an attempt: its time is renewed while its writer lives (`beating`), so that
`tskd storage gc` knows the ones that nobody will finish.

    <root>/runs/<name>/heartbeat.json   `Heartbeat`: what a run's command is doing

The command writes it while it works, so that `tskd status` can tell from the storage alone, and
on any machine, how far it is and whether it still lives. No result depends on it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Literal

from tskd_ray.errors import StorageError, TskdError
from tskd_ray.pipeline.storage import Storage
from tskd_ray.progress import Progress
from tskd_ray.report.documents import document_adapter

ATTEMPT_SECONDS = 60.0
RUN_SECONDS = 20.0
SILENT_SECONDS = 300.0
"""Without a sign of life for as long, a command is taken for dead: clocks and caches of file
systems may be minutes late."""


@contextlib.contextmanager
def beating(folder: Path) -> Generator[int]:
    """Renew a folder's time while the block runs; its descriptor, should its name change."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with _every(ATTEMPT_SECONDS, lambda: renew(descriptor)):
            yield descriptor
    finally:
        os.close(descriptor)


def renew(descriptor: int) -> None:
    """Set a folder's time to now, by the clock of its file system."""
    with contextlib.suppress(OSError):  # its files' times must then do
        os.utime(descriptor)


@dataclass(frozen=True, kw_only=True)
class Work:
    """A stage that is being done."""

    started: datetime
    first: int | None = None  # units done when it was first heard of: more than 0 if resumed
    done: int = 0
    total: int = 0  # 0: not told yet


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """heartbeat.json: a run's latest command."""

    state: Literal["running", "done", "failed", "interrupted"]
    started: datetime
    updated: datetime
    running: Mapping[str, Work] = field(default_factory=dict[str, Work])  # by stage
    failure: str = ""

    @property
    def alive(self) -> bool:
        """Whether the command still runs, as far as one can tell."""
        silent = (datetime.now(UTC) - self.updated).total_seconds()
        return self.state == "running" and silent < SILENT_SECONDS


def heartbeat_path(run: str) -> str:
    """Below the storage's root."""
    return f"runs/{run}/heartbeat.json"


class RunHeartbeat:
    """Writes heartbeat.json while its `with` block runs, and how that ended."""

    def __init__(self, storage: Storage, run: str) -> None:
        self.storage, self.path = storage, heartbeat_path(run)
        now = datetime.now(UTC)
        self._lock = threading.Lock()
        self._beat = Heartbeat(state="running", started=now, updated=now)
        self._ticks = contextlib.ExitStack()

    def __enter__(self) -> RunHeartbeat:
        self._write()
        self._ticks.enter_context(_every(RUN_SECONDS, self._write))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ticks.close()
        if kind is None:
            self._beat = replace(self._beat, state="done", running={})
        elif issubclass(kind, Exception):
            self._beat = replace(self._beat, state="failed", failure=_in_a_line(error))
        else:
            self._beat = replace(self._beat, state="interrupted")
        self._write()

    def listen(self, stage: str, tell: Progress) -> Progress:
        """`tell`, heard here too; the stage counts as running from now on."""
        self._hear(stage, Work(started=datetime.now(UTC)))
        self._write()

        def both(done: int, total: int, **metrics: float) -> None:
            tell(done, total, **metrics)
            work = self._beat.running.get(stage)
            if work is not None:
                first = done if work.first is None else work.first
                self._hear(stage, replace(work, first=first, done=done, total=total))

        return both

    def ended(self, stages: Iterable[str]) -> None:
        """These run no longer."""
        names = set(stages)
        with self._lock:
            running = {k: work for k, work in self._beat.running.items() if k not in names}
            self._beat = replace(self._beat, running=running)
        self._write()

    def _hear(self, stage: str, work: Work) -> None:
        with self._lock:
            # a new mapping each time: the thread that writes never sees half a change
            self._beat = replace(self._beat, running={**self._beat.running, stage: work})

    def _write(self) -> None:
        beat = replace(self._beat, updated=datetime.now(UTC))
        data = document_adapter(Heartbeat).dump_json(beat, indent=1)
        with contextlib.suppress(StorageError):  # no work fails for want of this
            self.storage.write(self.path, data + b"\n")


@contextlib.contextmanager
def _every(seconds: float, act: Callable[[], None]) -> Generator[None]:
    """Call `act` now and then, in a thread, while the block runs."""
    ended = threading.Event()

    def loop() -> None:
        while not ended.wait(seconds):
            act()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _in_a_line(error: BaseException | None) -> str:
    """What the command said at its end; other libraries' messages stay out of the storage."""
    if isinstance(error, TskdError):
        return " ".join(str(error).split())[:1000]
    return f"unexpected {type(error).__name__}"
