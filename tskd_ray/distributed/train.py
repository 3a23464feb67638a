"""One model trained by several processes together, through Ray Train.

The processes are a `torch.distributed` group: NCCL between GPUs, gloo between CPUs. If one is
lost, Ray Train starts the whole group anew and the training goes on from the state that the
first process keeps. A process that waits for another longer than `compute.hang_timeout` fails,
and so takes the group along.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tskd_ray.config.schema import ComputeConfig
from tskd_ray.distributed.outcome import Failure, raise_failure
from tskd_ray.errors import StageError, TskdError
from tskd_ray.progress import Progress

_POLL_SECONDS = 0.5
_DESK_SECONDS = 10.0
"""How long either side waits for the desk: nothing that it holds is needed for the result."""


def train_together(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    compute: ComputeConfig,
    *,
    folder: Path,
    progress: Progress,
) -> tuple[Any, float]:
    """Call `function(**arguments, ranks=…, device=…, progress=…)` in each of several processes.

    Args:
        function: Picklable. Trains by what `models.ranks` offers; resumes by itself.
        arguments: Sent once through Ray's memory, arrays too.
        compute: `training_workers` processes with `threads` CPUs and `gpus_per_worker` each;
            groups are started up to `max_attempts` times.
        folder: For Ray Train's own small files; on storage that all nodes reach.
        progress: Told what the first process tells.

    Returns:
        What the first process returned, and the CPU seconds of all in the last group.

    Raises:
        TskdError: What a process raised, as it is.
        StageError: If groups are lost too often.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Beside the driver, whose loss ends all anyway: any other node may go at any moment.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote  # typed for plain functions only
    beside = remote(num_cpus=0, max_concurrency=2, max_restarts=-1, scheduling_strategy=here)
    desk: Any = beside(_Desk).remote()
    answers: list[Any] = []
    thread = threading.Thread(
        target=_fit,
        args=(function, ray.put(dict(arguments)), compute, folder, desk, answers),
        daemon=True,
    )
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
            latest: Any = _answered(desk.take.remote())
            if latest is not None:
                progress(latest[0], latest[1], **latest[2])
        cpu_seconds = float(_answered(desk.total_spent.remote()) or 0.0)
    finally:
        # Processes whose driver has been interrupted end when they next try to tell.
        ray.kill(desk)
    answer = answers[0] if answers else StageError("Ray Train ended without an answer.")
    if isinstance(answer, Failure):
        raise_failure(answer, "Training")
    if isinstance(answer, Exception):
        raise StageError(
            f"Training on {compute.training_workers} workers was given up after "
            f"{compute.max_attempts} losses or errors, the last one: "
            f"{' '.join(str(answer).split())[:500]} Run the same command again to resume."
        ) from answer
    return answer, cpu_seconds


def _fit(
    function: Callable[..., Any],
    arguments: Any,
    compute: ComputeConfig,
    folder: Path,
    desk: Any,
    answers: list[Any],
) -> None:
    """Run Ray Train to its end; in a thread, since it would take Ctrl-C for itself."""
    try:
        answers.append(_trainer(function, arguments, compute, folder, desk).fit().return_value)
    except Exception as error:  # noqa: BLE001 - told by the thread that waits
        answers.append(error)


def _trainer(
    function: Callable[..., Any],
    arguments: Any,
    compute: ComputeConfig,
    folder: Path,
    desk: Any,
) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    cuda = compute.device == "cuda"
    share = {"GPU": compute.gpus_per_worker} if cuda else {}
    return TorchTrainer(
        _in_group,
        train_loop_config={
            "function": function,
            "arguments": [arguments],  # in a list: Ray would put its value in its place
            "threads": compute.threads,
            "desk": desk,
        },
        torch_config=TorchConfig(
            backend="nccl" if cuda else "gloo", timeout_s=int(max(1, compute.hang_timeout))
        ),
        scaling_config=ScalingConfig(
            num_workers=compute.training_workers,
            use_gpu=cuda,
            resources_per_worker={"CPU": compute.threads, **share},
        ),
        run_config=RunConfig(
            name="train",
            storage_path=str(folder.resolve()),
            failure_config=FailureConfig(max_failures=compute.max_attempts - 1),
        ),
    )


def _answered(reference: Any, *, unless_closed: bool = False) -> Any:
    """What the desk answers; None if it cannot now.

    Args:
        reference: Of the call.
        unless_closed: Raise if it never will: the driver closes it when it is interrupted.
    """
    import ray
    from ray.exceptions import ActorDiedError, RayError

    try:
        return ray.get(reference, timeout=_DESK_SECONDS)
    except ActorDiedError:
        if unless_closed:
            raise
    except RayError:  # a timeout is one
        pass
    return None


def _in_group(config: dict[str, Any]) -> Any:
    """The whole life of one process of the group."""
    import ray
    import torch
    from ray.train.torch import get_device

    from tskd_ray.models.ranks import Ranks

    torch.set_num_threads(config["threads"])
    (reference,) = config["arguments"]
    ranks, began = Ranks.joined(), time.process_time()
    desk, told_at = config["desk"], 0.0

    def progress(done: int, total: int, **metrics: float) -> None:
        nonlocal told_at
        if ranks.rank == 0 and (done == total or time.monotonic() > told_at + _POLL_SECONDS):
            told_at = time.monotonic()
            _answered(desk.tell.remote(done, total, metrics), unless_closed=True)

    arguments: Any = ray.get(reference)
    try:
        answer = config["function"](
            **arguments, ranks=ranks, device=str(get_device()), progress=progress
        )
    except TskdError as error:  # would come again; anything else may be a lost neighbour
        return Failure(error, str(error), "")
    _answered(desk.spend.remote(ranks.rank, time.process_time() - began))
    return answer if ranks.rank == 0 else None


class _Desk:
    """Actor between the group and the driver."""

    def __init__(self) -> None:
        self._latest: tuple[int, int, dict[str, float]] | None = None
        self._spent: dict[int, float] = {}

    def tell(self, done: int, total: int, metrics: dict[str, float]) -> None:
        self._latest = done, total, metrics

    def take(self) -> tuple[int, int, dict[str, float]] | None:
        latest, self._latest = self._latest, None
        return latest

    def spend(self, rank: int, seconds: float) -> None:
        self._spent[rank] = seconds

    def total_spent(self) -> float:
        return sum(self._spent.values())
