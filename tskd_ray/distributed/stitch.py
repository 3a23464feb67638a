"""Hop decisions through Ray Data: ranges of transitions over actors that map the problem.

The search index is replicated (mapped read-only, shared by the workers of a node) and the
queries are partitioned (docs/algorithm.md). Ray Data keeps no order, so every row carries its
transition's number and the driver sorts.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import time
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tskd_ray.config.schema import ComputeConfig
from tskd_ray.distributed.outcome import Failure, outcome, raise_failure
from tskd_ray.distributed.session import cluster_nodes, pool_size
from tskd_ray.errors import StageError
from tskd_ray.progress import Progress, silent
from tskd_ray.stitching.hops import HopDecisions, decide_hops
from tskd_ray.stitching.problem import HopProblem

_BLOCK = 8192
"""Transitions per call: a fraction of a second, against milliseconds of overhead."""


def decide_hops_distributed(
    problem_folder: Path,
    n_transitions: int,
    compute: ComputeConfig,
    *,
    block: int = _BLOCK,
    progress: Progress = silent,
) -> tuple[HopDecisions, float]:
    """Decide every transition of a saved problem; `decide_hops` in process if mode is local.

    Args:
        problem_folder: Written by `HopProblem.save`, where every worker can read it.
        n_transitions: Its number of transitions.
        compute: Workers, and CPUs of each.
        block: Transitions per call; no part of the result.
        progress: Told the transitions decided.

    Returns:
        The decisions, and the CPU seconds that other processes spent on them.

    Raises:
        TskdError: What a worker raised, as it is.
        StageError: If workers are lost more than `max_attempts` times, or rows are missing.
    """
    starts = range(0, n_transitions, block)
    ranges = [(start, min(start + block, n_transitions)) for start in starts]
    parts: list[HopDecisions] = []
    done = 0
    in_process = compute.mode == "local" or not ranges
    decided = _in_process if in_process else _on_ray
    cpu_seconds = 0.0
    for table in decided(problem_folder, ranges, compute):
        parts.append(_decisions(table))
        cpu_seconds += float(table["cpu_seconds"].to_numpy().sum())
        done += len(parts[-1].transitions)
        progress(done, n_transitions)
    return _join(parts, n_transitions), 0.0 if in_process else cpu_seconds


def _in_process(
    folder: Path, ranges: list[tuple[int, int]], compute: ComputeConfig
) -> Iterator[Any]:
    decider = _Decider(str(folder), compute.threads)
    for start, stop in ranges:
        yield decider({"start": [start], "stop": [stop]})


def _join(parts: list[HopDecisions], n_transitions: int) -> HopDecisions:
    joined = HopDecisions.join([_nothing(0), *parts])
    if not np.array_equal(joined.transitions, np.arange(n_transitions)):
        raise StageError(
            f"Each of {n_transitions} transitions must be decided exactly once. Got "
            f"{len(joined.transitions)} decisions for {len(np.unique(joined.transitions))} "
            "transitions. Run the same command again."
        )
    return joined


class _Decider:
    """Lives in an actor of Ray Data; one range of transitions per call."""

    def __init__(self, folder: str, threads: int) -> None:
        self._folder = Path(folder)
        self._threads = threads
        self._problem: HopProblem | None = None

    def __call__(self, batch: dict[str, Any]) -> Any:
        start, stop = int(batch["start"][0]), int(batch["stop"][0])
        before = time.process_time()
        part = outcome(lambda: self._decide(start, stop))
        if isinstance(part, Failure):
            # as a value: Ray Data keeps of an exception no more than its text
            return _table(_nothing(1), pickle.dumps(part), 0.0)
        return _table(part, None, time.process_time() - before)

    def _decide(self, start: int, stop: int) -> HopDecisions:
        # opened here, not at birth: Ray Data would take a bad folder for a lost actor
        self._problem = self._problem or HopProblem.open(self._folder)
        return decide_hops(self._problem, np.arange(start, stop), threads=self._threads)


def _on_ray(
    folder: Path, ranges: list[tuple[int, int]], compute: ComputeConfig
) -> Iterator[Any]:
    from ray.exceptions import RayError

    size = min(len(ranges), max(1, pool_size(compute, cluster_nodes(), gpu=False)))
    with _quiet_ray_data() as data:
        # Blocks that the driver makes, not `ray.data.range`: that reads by tasks of one CPU,
        # which never start where the actors hold every CPU, and the run would wait for ever.
        blocks = [pa.table({"start": [start], "stop": [stop]}) for start, stop in ranges]
        decided = data.from_arrow(blocks).map_batches(
            _Decider,
            fn_constructor_args=(str(folder), compute.threads),
            batch_size=1,
            batch_format="numpy",
            compute=data.ActorPoolStrategy(size=size),
            num_cpus=compute.threads,
            # the default is -1 for both: a block that kills its worker would do so for ever
            max_restarts=compute.max_attempts - 1,
            max_task_retries=compute.max_attempts - 1,
        )
        try:
            yield from decided.iter_batches(batch_size=None, batch_format="pyarrow")
        except RayError as error:
            raise StageError(
                f"Ray Data lost workers in the hop decisions ({type(error).__name__}) in each "
                f"of {compute.max_attempts} attempts. Is the memory short? Run the same "
                "command again, with fewer workers or a larger compute.max_attempts."
            ) from error


def _table(part: HopDecisions, failure: bytes | None, cpu_seconds: float) -> Any:
    rows = len(part.transitions)
    return pa.table(
        {
            "cpu_seconds": np.full(
                rows, cpu_seconds / rows
            ),  # of the call, summed by the driver
            "transition": part.transitions,
            "candidate": part.candidate,
            "verdict": part.verdict,
            "failure": pa.array([failure] * rows, pa.binary()),
        }
    )


def _decisions(table: Any) -> HopDecisions:
    failures = table["failure"].drop_null()
    if len(failures):
        failure = pickle.loads(failures[0].as_py())  # noqa: S301 - made by our own worker
        raise_failure(failure, "Deciding hops")
    return HopDecisions(
        transitions=table["transition"].to_numpy(),
        candidate=table["candidate"].to_numpy(),
        verdict=table["verdict"].to_numpy(),
    )


def _nothing(rows: int) -> HopDecisions:
    return HopDecisions(
        transitions=np.zeros(rows, np.int64),
        candidate=np.zeros(rows, np.int64),
        verdict=np.zeros(rows, np.int8),
    )


@contextlib.contextmanager
def _quiet_ray_data() -> Generator[Any]:
    """`ray.data`, its bars, banners and warnings off while the block runs."""
    from ray import data

    with warnings.catch_warnings():
        # Ray deprecates settings that it makes itself, and retry bounds without a successor.
        warnings.simplefilter("ignore", DeprecationWarning)
        yield from _silenced(data)


def _silenced(data: Any) -> Generator[Any]:
    context = data.DataContext.get_current()
    before = context.print_on_execution_start, context.enable_progress_bars
    logger = logging.getLogger("ray.data")
    level = logger.level
    context.print_on_execution_start = context.enable_progress_bars = False
    logger.setLevel(logging.CRITICAL)
    try:
        yield data
    finally:
        context.print_on_execution_start, context.enable_progress_bars = before
        logger.setLevel(level)
