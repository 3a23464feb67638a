"""How long a policy takes to decide, one observation at a time, on one core."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tskd_ray.types import Float32Array, FloatArray

WARM_UP = 50


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Microseconds per action."""

    p50: float
    p99: float


def latency(
    act: Callable[[Float32Array], Any], observation_dim: int, *, calls: int = 2000
) -> Latency:
    """Time `act` on single observations (1, S), after a warm-up."""
    observations = np.random.default_rng(0).normal(size=(calls, 1, observation_dim))
    observations = observations.astype(np.float32)
    for row in observations[:WARM_UP]:
        act(row)
    taken = np.empty(calls)
    for number, row in enumerate(observations):
        start = time.perf_counter_ns()
        act(row)
        taken[number] = time.perf_counter_ns() - start
    p50, p99 = np.quantile(taken, [0.5, 0.99]) / 1000
    return Latency(p50=float(p50), p99=float(p99))


@contextmanager
def one_thread() -> Generator[None]:
    """Torch on one thread inside, as before outside."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def onnx_policy(path: Path) -> Callable[[FloatArray], Float32Array]:
    """The exported policy in ONNX Runtime, on one thread: observations (N, S) to actions."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name

    def act(observations: FloatArray) -> Float32Array:
        inputs = {name: np.asarray(observations, dtype=np.float32)}
        return np.asarray(session.run(None, inputs)[0], dtype=np.float32)

    return act
