"""What Prometheus is told of a run, through Ray: every node's metrics endpoint has its part.

Ray puts `ray_` before the names and, as Prometheus wants it, `_total` behind those of counters
(docs/cluster.md has the list). Where no Ray is, nothing is told. No result depends on it.

Ray forgets a gauge that was not set for some seconds, so a thread of the driver sets them again
and again. Workers have no such thread: it would look alive where the work hangs.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Generator, Iterable, Mapping
from contextvars import ContextVar
from functools import cache
from types import TracebackType
from typing import Any

from tskd_ray.progress import Progress

GAUGES = {
    "tskd_stage_running": "1 while a stage is being done",
    "tskd_units_done": "Units of a stage that are done: steps, trajectories, transitions",
    "tskd_units_planned": "Units of a stage in all",
    "tskd_shards_left": "Shards of a stage that are still to be done",
    "tskd_workers": "Workers that have loaded, of a stage with a pool of them",
}
COUNTERS = {
    "tskd_units": "Units done, for rates",
    "tskd_lost_workers": "Workers that died or hung; their work is tried again",
}
LABELS = ("run", "stage")

_SECONDS = 4.0  # Ray exports every ten
_FROM_WORDS = {"shards_left": "tskd_shards_left", "workers": "tskd_workers"}

_doing: ContextVar[tuple[str, str]] = ContextVar("_doing", default=("", ""))


class RunMetrics:
    """Of a driver: the stages that it works on, while its `with` block runs."""

    def __init__(self, run: str) -> None:
        """Name the run or the sweep."""
        self._run = run
        self._lock = threading.Lock()
        self._gauges: dict[str, dict[str, float]] = {}  # by stage, then by name
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._refresh, daemon=True)

    def __enter__(self) -> RunMetrics:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def listen(self, stage: str, tell: Progress) -> Progress:
        """`tell`, heard here too; the stage counts as running from now on."""
        self._hear(stage, {"tskd_stage_running": 1.0})
        told: int | None = None  # resumed work starts above 0, which is no rate

        def both(done: int, total: int, **metrics: float) -> None:
            nonlocal told
            tell(done, total, **metrics)
            heard = {"tskd_units_done": float(done), "tskd_units_planned": float(total)}
            heard |= {_FROM_WORDS[k]: v for k, v in metrics.items() if k in _FROM_WORDS}
            self._hear(stage, heard)
            if told is not None and done > told:
                _count("tskd_units", done - told, self._run, stage)
            told = done

        return both

    def ended(self, stages: Iterable[str]) -> None:
        """These run no longer."""
        with self._lock:
            for stage in stages:
                self._gauges.pop(stage, None)

    def running(self, stages: Iterable[str]) -> None:
        """These run, and no others that are not listened to."""
        wanted = set(stages)
        with self._lock:
            for stage in [*self._gauges]:
                if stage not in wanted and len(self._gauges[stage]) == 1:
                    del self._gauges[stage]
            for stage in wanted:
                self._gauges.setdefault(stage, {"tskd_stage_running": 1.0})

    def _hear(self, stage: str, values: dict[str, float]) -> None:
        with self._lock:
            self._gauges.setdefault(stage, {"tskd_stage_running": 1.0}).update(values)
        self._set(stage, values)

    def _refresh(self) -> None:
        while not self._ended.wait(_SECONDS):
            with self._lock:
                told = {stage: dict(values) for stage, values in self._gauges.items()}
            for stage, values in told.items():
                self._set(stage, values)

    def _set(self, stage: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if _connected():
                _metric(name).set(value, {"run": self._run, "stage": stage})


@contextlib.contextmanager
def doing(run: str, stage: str = "") -> Generator[None]:
    """Workers that this thread loses in the block are that run's, and that stage's."""
    token = _doing.set((run, stage))
    try:
        yield
    finally:
        _doing.reset(token)


def count_lost_worker(*, run: str = "", stage: str = "") -> None:
    """A worker was lost: of what this thread does, unless named."""
    here = _doing.get()
    _count("tskd_lost_workers", 1, run or here[0], stage or here[1])


def _count(name: str, more: float, run: str, stage: str) -> None:
    if _connected():
        _metric(name).inc(more, {"run": run, "stage": stage})


def _connected() -> bool:
    ray: Any = sys.modules.get("ray")  # not imported for this
    # It has no such function yet while another thread imports it, as TorchRL does.
    asked = getattr(ray, "is_initialized", None)
    return asked is not None and asked()


@cache
def _metric(name: str) -> Any:
    from ray.util.metrics import Counter, Gauge

    if name in GAUGES:
        return Gauge(name, description=GAUGES[name], tag_keys=LABELS)
    return Counter(name, description=COUNTERS[name], tag_keys=LABELS)
