from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tskd_ray.config.schema import ComputeConfig
from tskd_ray.distributed import session as module
from tskd_ray.distributed.session import (
    Node,
    check_feasible,
    describe,
    pool_size,
    session,
    worker_slots,
)
from tskd_ray.errors import ResourceError

NODES = [Node(8, 1), Node(4, 0), Node(1, 2)]


@pytest.mark.parametrize(
    ("changes", "gpu", "slots"),
    [
        ({}, False, 13),
        ({"threads": 2}, False, 6),
        ({"threads": 5}, False, 1),
        ({}, True, 2),  # the node with two GPUs has one CPU
        ({"gpus_per_worker": 0.1}, True, 9),
        ({"gpus_per_worker": 0.3}, True, 4),
        ({"threads": 2, "gpus_per_worker": 0.5}, True, 2),
    ],
)
def test_workers_fit_on_nodes_not_on_the_sum(
    changes: dict[str, Any], gpu: bool, slots: int
) -> None:
    assert worker_slots(ComputeConfig(**changes), NODES, gpu=gpu) == slots


def test_pool_takes_what_is_asked_or_what_there_is() -> None:
    assert pool_size(ComputeConfig(), NODES, gpu=False) == 13
    assert pool_size(ComputeConfig(workers=3), NODES, gpu=False) == 3
    assert pool_size(ComputeConfig(workers=30), NODES, gpu=False) == 13


def test_where_nodes_are_started_for_workers_that_wait_some_do() -> None:
    assert pool_size(ComputeConfig(), NODES, gpu=False, grows=True) == 13
    assert pool_size(ComputeConfig(), [Node(0, 0)], gpu=False, grows=True) == 0
    assert pool_size(ComputeConfig(workers=3), [Node(0, 0)], gpu=False, grows=True) == 3
    assert pool_size(ComputeConfig(workers=30), NODES, gpu=False, grows=True) == 30


def test_what_could_only_wait_is_refused() -> None:
    with pytest.raises(ResourceError, match=r"Got 9; the cluster has 3 node\(s\): 8 CPUs"):
        check_feasible(ComputeConfig(threads=9), NODES)
    with pytest.raises(ResourceError, match=r"has 1 node\(s\): 4 CPUs \+ 0 GPUs"):
        check_feasible(ComputeConfig(device="cuda"), [Node(4, 0)])
    with pytest.raises(ResourceError, match=r"0\.5 and 2 CPUs per worker"):
        check_feasible(
            ComputeConfig(device="cuda", threads=2, gpus_per_worker=0.5),
            [Node(8, 0), Node(1, 4)],
        )
    check_feasible(ComputeConfig(device="cuda", threads=8), NODES)
    check_feasible(ComputeConfig(training_workers=13), NODES)
    with pytest.raises(ResourceError, match=r"at once. Got 14 of 1 CPUs .* room for 13\."):
        check_feasible(ComputeConfig(training_workers=14), NODES)


def test_large_clusters_are_described_in_short() -> None:
    assert describe([Node(1, 0)] * 9).startswith("9 node(s): 1 CPUs + 0 GPUs, ")
    assert describe([Node(1, 0)] * 9).endswith(", …")


def test_local_mode_checks_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with (
        pytest.raises(ResourceError, match="This machine has none"),
        session(ComputeConfig(mode="local", device="cuda")),
    ):
        pass
    with (
        pytest.raises(ResourceError, match="Got 100000 of"),
        session(ComputeConfig(mode="local", threads=100_000)),
    ):
        pass


def test_local_mode_never_imports_ray() -> None:
    code = (
        "import sys\n"
        "from tskd_ray.config.schema import ComputeConfig\n"
        "from tskd_ray.distributed import actors, generate, stitch\n"
        "from tskd_ray.distributed.session import session\n"
        "from tskd_ray.distributed.tasks import Task, run_tasks\n"
        "compute = ComputeConfig(mode='local')\n"
        "with session(compute):\n"
        "    run_tasks({'a': Task(function=lambda progress: None)}, compute)\n"
        "sys.exit('ray' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_address_where_nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def refuse(**options: object) -> None:
        raise ConnectionError("nobody\nat home")

    monkeypatch.setenv("RAY_ADDRESS", "203.0.113.1:6379")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(module, "_probe", lambda _: None)
    with pytest.raises(ResourceError) as caught, session(ComputeConfig()):
        pass
    assert str(caught.value) == (
        "Ray must answer at RAY_ADDRESS=203.0.113.1:6379: nobody at home. Start it with "
        "`ray start --head`, or unset RAY_ADDRESS."
    )


def no_ray(monkeypatch: pytest.MonkeyPatch, init: Callable[..., object]) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(module, "_check_cluster", lambda _: None)


def test_an_address_where_nothing_listens_is_told_before_ray_tries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(**_: object) -> None:
        raise AssertionError("minutes of silence")

    no_ray(monkeypatch, never)
    monkeypatch.setattr(module, "_PROBE_SECONDS", 0.3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free.getsockname()[1]}")
        with (
            pytest.raises(
                ResourceError, match=r"at RAY_ADDRESS=127\S+: Connection refused\. S"
            ),
            session(ComputeConfig()),
        ):
            pass


def test_a_head_that_is_starting_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[object] = []

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        tries.append(address)
        if len(tries) == 1:
            raise ConnectionRefusedError(111, "Connection refused")
        return socket.socket()

    monkeypatch.setattr(module, "_PROBE_PAUSE", 0.0)
    monkeypatch.setattr(socket, "create_connection", connect)
    module._probe("[::1]:6379")
    assert tries == [("::1", 6379)] * 2
    for known_to_ray in ("auto", "local"):
        module._probe(known_to_ray)
    assert len(tries) == 2


def test_the_address_of_the_web_page_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    no_ray(monkeypatch, lambda **_: None)
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    with (
        pytest.raises(ResourceError, match=r"Use head:6379; http://…:8265 is for `ray job`"),
        session(ComputeConfig()),
    ):
        pass


def test_rays_words_are_cut_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("entirely " * 100)

    no_ray(monkeypatch, refuse)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with (
        pytest.raises(ResourceError, match=r"entirely entirely …\. Free"),
        session(ComputeConfig()),
    ):
        pass


@pytest.mark.parametrize("own", [True, False])
def test_a_programs_handler_of_sigterm_outlives_rays(
    own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ours(*_: object) -> None: ...

    def rays(*_: object) -> None: ...

    no_ray(monkeypatch, lambda **_: signal.signal(signal.SIGTERM, rays))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = signal.signal(signal.SIGTERM, ours if own else signal.SIG_DFL)
    try:
        with session(ComputeConfig()):
            assert signal.getsignal(signal.SIGTERM) is (ours if own else rays)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.ray
def test_a_running_cluster_is_used_and_left_running(three_workers: ComputeConfig) -> None:
    import ray

    with session(three_workers):
        assert ray.cluster_resources()["CPU"] == 3
    assert ray.is_initialized()
    with (
        pytest.raises(ResourceError, match=r"the cluster has 1 node\(s\): 3 CPUs"),
        session(three_workers.model_copy(update={"threads": 4})),
    ):
        pass


@pytest.mark.ray
def test_a_cluster_of_its_own_is_started_in_silence_and_shut_down() -> None:
    """In a process of its own, with a worker killed: nothing but ours on the terminal."""
    code = (
        "import os, ray\n"
        "from tskd_ray.config.schema import ComputeConfig\n"
        "from tskd_ray.distributed.session import session\n"
        "with session(ComputeConfig()):\n"
        "    try:\n"
        "        ray.get(ray.remote(max_retries=0)(lambda: os._exit(9)).remote())\n"
        "    except ray.exceptions.WorkerCrashedError:\n"
        "        print('ours')\n"
        "print(ray.is_initialized())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ours\nFalse\n", "")
