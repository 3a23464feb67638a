"""Shards of generation: on the actor pool, or one after the other in process. Same bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tskd_ray.config.schema import ComputeConfig
from tskd_ray.distributed.actors import Arrays, Shard, Worker, run_pool
from tskd_ray.distributed.outcome import Failure, T, outcome, raise_failure
from tskd_ray.models.threads import torch_threads
from tskd_ray.progress import Progress, silent

__all__ = ["Arrays", "Shard", "Worker", "generate_shards", "plan_shards"]


def plan_shards(items: int, shard_size: int, *, first: int = 0) -> list[Shard]:
    """Cut `first … first + items - 1` into fixed shards, whatever the number of workers.

    Returns:
        Shards numbered from 0; the payload's `start` and `stop` bound its items' ids.
    """
    starts = range(first, first + items, shard_size)
    return [
        Shard(id=number, payload={"start": start, "stop": stop}, items=stop - start)
        for number, start in enumerate(starts)
        for stop in [min(start + shard_size, first + items)]
    ]


def generate_shards(
    factory: Callable[[], Worker],
    shards: Sequence[Shard],
    compute: ComputeConfig,
    *,
    on_result: Callable[[int, Arrays], None],
    progress: Progress = silent,
) -> None:
    """Process every shard; on the connected cluster unless `compute.mode` is local.

    Args and errors: as `run_pool`. Typically `on_result` is `ShardStore.write`, and `shards`
    are those that `ShardStore.finished` lacks, so that a killed run goes on where it was.
    """
    if compute.mode != "local":
        run_pool(factory, shards, compute, on_result=on_result, progress=progress)
        return
    if not shards:
        return
    done, total = 0, sum(shard.items for shard in shards)
    with torch_threads(compute.threads):
        worker = _unwrap(outcome(factory), "Loading a worker")
        for shard in shards:
            result = _unwrap(outcome(lambda s=shard: worker.process(s)), f"Shard {shard.id}")
            on_result(shard.id, result)
            done += shard.items
            progress(done, total)


def _unwrap(result: T | Failure, what: str) -> T:
    if isinstance(result, Failure):
        raise_failure(result, what)
    return result
