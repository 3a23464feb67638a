"""Hop decisions through Ray Data: blocks of transitions over actors that map the problem.

The search index is replicated (mapped read-only, shared by the workers of a node) and the
queries are partitioned (docs/algorithm.md). Ray Data keeps no order, so every row carries its
place and the driver puts it there.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from tskd_ray.config.schema import ComputeConfig
from tskd_ray.distributed.guard import guard
from tskd_ray.distributed.outcome import Failure, outcome, raise_failure
from tskd_ray.distributed.session import cluster_nodes, pool_size
from tskd_ray.errors import StageError
from tskd_ray.progress import Progress, silent
from tskd_ray.stitching.hops import PIECE, Found, HopDecisions, decide_by_shards, search_shard
from tskd_ray.stitching.problem import HopProblem
from tskd_ray.types import IntArray

_BLOCKS = 8
"""Per worker, where there are enough transitions."""

_LEAST_BLOCK = 8192


def decide_hops_distributed(
    problem_folder: Path,
    compute: ComputeConfig,
    *,
    transitions: IntArray | None = None,
    dynamics: bool = True,
    locate: Callable[[], Path] | None = None,
    block: int | None = None,
    progress: Progress = silent,
) -> tuple[HopDecisions, float]:
    """Decide transitions of a saved problem; `decide_hops` in process if mode is local.

    Each shard is a pass over the transitions that are still open, so that a node maps one
    shard at a time.

    Args:
        problem_folder: Written by `HopProblem.save`.
        compute: Workers, and CPUs of each.
        transitions: (n,) distinct numbers; default all.
        dynamics: As in `decide_hops`.
        locate: Called on a worker, tells where that problem's files are there; picklable.
            Default: every worker reads `problem_folder` itself.
        block: Transitions per call, by default such that all workers end about together; no
            part of the result.
        progress: Told the transitions decided.

    Returns:
        The decisions, and the CPU seconds that other processes spent on them.

    Raises:
        TskdError: What a worker raised, as it is.
        StageError: If workers are lost more than `max_attempts` times, or rows are missing.
    """
    problem = HopProblem.open(problem_folder)
    if transitions is None:
        transitions = np.arange(problem.n_transitions, dtype=np.int64)
    in_process = compute.mode == "local"
    answers = _in_process if in_process else _on_ray
    elsewhere = 0.0
    passes = len(problem.shards)

    def search(number: int, wanted: IntArray) -> Found:
        nonlocal elsewhere
        found, done = Found.nothing(len(wanted), problem), 0
        rows = np.arange(len(wanted))
        asked = np.zeros(len(wanted), dtype=np.int64)
        # Only the block search is matrix products; the others gain nothing from a GPU.
        device = compute.device if problem.shards[number].name == "blocks" else "cpu"
        ask = _Ask(
            locate or partial(Path, str(problem_folder)),
            number,
            dynamics,
            compute.threads,
            device,
            compute.hang_timeout,
        )
        size = block or _block_size(len(wanted), compute, gpu=device == "cuda")
        places = [rows[start : start + size] for start in range(0, len(rows), size)]
        for table in answers(ask, wanted, places, compute):
            at, part, cpu_seconds = _read(table)
            found.take_in(at, part)
            asked[at] += 1
            elsewhere += cpu_seconds
            done += len(at)
            share = (number + done / len(wanted)) / passes
            progress(round(share * len(transitions)), len(transitions))
        _check_complete(asked)
        return found

    decisions = decide_by_shards(problem, transitions, search, dynamics=dynamics)
    return decisions, 0.0 if in_process else elsewhere


def _block_size(n: int, compute: ComputeConfig, *, gpu: bool) -> int:
    """Large blocks are searched faster, small ones leave no worker behind."""
    most = PIECE * compute.threads
    if compute.mode == "local":
        return most
    # none yet, where an autoscaler starts the first
    workers = max(1, pool_size(compute, cluster_nodes(), gpu=gpu))
    return min(most, max(_LEAST_BLOCK, -(-n // (_BLOCKS * workers))))


def _check_complete(asked: IntArray) -> None:
    if (asked != 1).any():
        raise StageError(
            f"Each of {len(asked)} transitions must be decided exactly once. Got "
            f"{asked.sum()} decisions for {(asked > 0).sum()} transitions. Run the same "
            "command again."
        )


class _Ask(NamedTuple):
    """What a worker does for each block."""

    locate: Callable[[], Path]
    shard: int
    dynamics: bool
    threads: int
    device: str
    hang_timeout: float


def _in_process(
    ask: _Ask, wanted: IntArray, places: list[IntArray], compute: ComputeConfig
) -> Iterator[Any]:
    searcher = _Searcher(ask)
    for rows in places:
        yield searcher.answer({"row": rows, "transition": wanted[rows]})


class _Searcher:
    """Lives in an actor of Ray Data; one block of transitions per call."""

    def __init__(self, ask: _Ask) -> None:
        self._ask = ask
        self._problem: HopProblem | None = None

    def __call__(self, batch: dict[str, Any]) -> Any:
        with guard(self._ask.hang_timeout).at_work():
            return self.answer(batch)

    def answer(self, batch: dict[str, Any]) -> Any:
        """What was found, as a table; unguarded, for a process that is no worker."""
        before = time.process_time()
        rows = np.asarray(batch["row"])
        part = outcome(lambda: self._search(np.asarray(batch["transition"])))
        if isinstance(part, Failure):
            # as a value: Ray Data keeps of an exception no more than its text
            return pa.table({"failure": pa.array([pickle.dumps(part)], pa.binary())})
        spent = (time.process_time() - before) / len(rows)
        return pa.table(
            {
                "row": rows,
                "rank": part.rank,
                "better": part.better,
                "near": part.near,
                "cpu_seconds": np.full(len(rows), spent),  # summed by the driver
            }
        )

    def _search(self, transitions: IntArray) -> Found:
        # opened here, not at birth: Ray Data would take a bad folder for a lost actor
        opened = self._problem
        self._problem = opened or HopProblem.open(self._ask.locate(), device=self._ask.device)
        ask = self._ask
        return search_shard(
            self._problem,
            ask.shard,
            transitions,
            dynamics=ask.dynamics,
            threads=ask.threads,
        )


def _on_ray(
    ask: _Ask, wanted: IntArray, places: list[IntArray], compute: ComputeConfig
) -> Iterator[Any]:
    from ray.exceptions import RayError

    gpu = ask.device == "cuda"
    size = min(len(places), max(1, pool_size(compute, cluster_nodes(), gpu=gpu)))
    with _quiet_ray_data() as data:
        # Blocks that the driver makes, not `ray.data.range`: that reads by tasks of one CPU,
        # which never start where the actors hold every CPU, and the run would wait for ever.
        blocks = [pa.table({"row": rows, "transition": wanted[rows]}) for rows in places]
        found = data.from_arrow(blocks).map_batches(
            _Searcher,
            fn_constructor_args=(ask,),
            batch_size=None,
            batch_format="numpy",
            compute=data.ActorPoolStrategy(size=size),
            num_cpus=compute.threads,
            num_gpus=compute.gpus_per_worker if gpu else 0,
            # the default is -1 for both: a block that kills its worker would do so for ever
            max_restarts=compute.max_attempts - 1,
            max_task_retries=compute.max_attempts - 1,
        )
        try:
            yield from found.iter_batches(batch_size=None, batch_format="pyarrow")
        except RayError as error:
            raise StageError(
                f"Ray Data lost workers in the hop decisions ({type(error).__name__}) in each "
                f"of {compute.max_attempts} attempts. Is the memory short, or does a worker "
                f"hang, so that it is killed after compute.hang_timeout="
                f"{compute.hang_timeout:g} s? Run the same command again, with fewer workers "
                "or a larger compute.max_attempts."
            ) from error


def _read(table: Any) -> tuple[IntArray, Found, float]:
    """Rows, what was found for them, and the CPU seconds that it took."""
    if "failure" in table.column_names:
        failure = pickle.loads(table["failure"][0].as_py())  # noqa: S301 - by our own worker
        raise_failure(failure, "Deciding hops")
    found = Found(
        rank=table["rank"].to_numpy(),
        better=table["better"].to_numpy(),
        near=table["near"].to_numpy(),
    )
    return table["row"].to_numpy(), found, float(table["cpu_seconds"].to_numpy().sum())


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
