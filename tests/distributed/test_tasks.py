from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tskd_ray.config.schema import ComputeConfig
from tskd_ray.distributed.tasks import Task, run_tasks
from tskd_ray.errors import DataError, StageError
from tskd_ray.progress import Progress, silent

LOCAL = ComputeConfig(mode="local", threads=1)


@pytest.fixture(autouse=True, scope="module")
def _by_value() -> Iterator[None]:
    """Workers cannot import a test module, so its functions travel whole."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def matmul(folder: Path, seed: int, progress: Progress = silent) -> int:
    """Bytes that depend on the number of torch threads, as training does."""
    import numpy as np
    import torch

    x = torch.randn(300, 300, generator=torch.Generator().manual_seed(seed))
    for step in range(3):
        x = torch.tanh(x @ x)
        progress(step + 1, 3, norm=float(x.norm()))
    np.save(folder / f"{seed}.npy", x.numpy())
    return torch.get_num_threads()


def refuse(progress: Progress = silent) -> None:
    raise DataError("Episode 3 has NaN in step 7. Remove it.")


def break_down(progress: Progress = silent) -> None:
    raise ZeroDivisionError("a\nbug")


def killed_until(
    folder: Path, times: int, how: int = signal.SIGKILL, progress: Progress = silent
) -> str:
    """Dies of SIGKILL, or is stopped, the first `times` times."""
    kills = len(list(folder.iterdir()))
    if kills < times:
        (folder / str(kills)).touch()
        os.kill(os.getpid(), how)
    return "survived"


def run_matmuls(folder: Path, compute: ComputeConfig) -> dict[str, bytes]:
    folder.mkdir()
    tasks = {
        f"m{seed}": Task(function=matmul, arguments={"folder": folder, "seed": seed})
        for seed in range(4)
    }
    assert run_tasks(tasks, compute) == dict.fromkeys(tasks, compute.threads)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_local_runs_in_this_process_and_restores_its_threads(tmp_path: Path) -> None:
    import torch

    before = torch.get_num_threads()
    told: list[tuple[str, int, int]] = []
    results = run_tasks(
        {"one": Task(function=matmul, arguments={"folder": tmp_path, "seed": 0})},
        LOCAL,
        progress=lambda name: lambda done, total, **_: told.append((name, done, total)),
    )
    assert results == {"one": 1}
    assert told == [("one", 1, 3), ("one", 2, 3), ("one", 3, 3)]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        (refuse, DataError, r"^Episode 3 has NaN in step 7\. Remove it\."),
        (break_down, StageError, "Task bad failed with ZeroDivisionError: a bug"),
    ],
)
@pytest.mark.parametrize("mode", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_what_a_task_raises_reaches_the_driver(
    function: Any, kind: type[Exception], message: str, mode: str, request: Any
) -> None:
    compute = request.getfixturevalue("three_workers") if mode == "ray" else LOCAL
    with pytest.raises(kind, match=message) as caught:
        run_tasks({"bad": Task(function=function)}, compute)
    assert "\n" not in str(caught.value)
    assert function.__name__ in caught.value.__notes__[0]  # the worker's own traceback


@pytest.mark.ray
def test_same_bytes_on_ray_and_in_process(tmp_path: Path, three_workers: ComputeConfig) -> None:
    assert run_matmuls(tmp_path / "local", LOCAL) == run_matmuls(
        tmp_path / "ray", three_workers
    )


@pytest.mark.ray
def test_a_killed_task_runs_again_and_progress_arrives(
    tmp_path: Path, three_workers: ComputeConfig
) -> None:
    (tmp_path / "kills").mkdir()
    told: dict[str, tuple[int, int]] = {}

    def progress(name: str) -> Progress:
        return lambda done, total, **_: told.update({name: (done, total)})

    results = run_tasks(
        {
            "b": Task(
                function=killed_until, arguments={"folder": tmp_path / "kills", "times": 2}
            ),
            "a": Task(function=matmul, arguments={"folder": tmp_path, "seed": 0}),
        },
        three_workers,
        progress=progress,
    )
    assert list(results.items()) == [("b", "survived"), ("a", 1)]
    assert told == {"a": (3, 3)}


@pytest.mark.ray
def test_attempts_are_bounded(tmp_path: Path, three_workers: ComputeConfig) -> None:
    task = Task(function=killed_until, arguments={"folder": tmp_path, "times": 99})
    with pytest.raises(StageError, match="Task poison lost its worker 3 times"):
        run_tasks({"poison": task}, three_workers)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.ray
def test_a_task_that_hangs_runs_again_so_often(
    tmp_path: Path, three_workers: ComputeConfig
) -> None:
    hasty = three_workers.model_copy(update={"hang_timeout": 3.0, "max_attempts": 2})
    arguments = {"folder": tmp_path, "times": 1, "how": signal.SIGSTOP}
    stopped = Task(function=killed_until, arguments=arguments)
    assert run_tasks({"stopped": stopped}, hasty) == {"stopped": "survived"}
    always = Task(function=killed_until, arguments={**arguments, "times": 99})
    with pytest.raises(
        StageError, match=r"Task stopped lost its worker 2 times.*compute\.hang_timeout=3 s"
    ):
        run_tasks({"stopped": always}, hasty)
