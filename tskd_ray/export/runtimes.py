"""Exported files as functions: observations (N, S) to actions (N, A), on one thread."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tskd_ray.errors import StageError, reason
from tskd_ray.export.c_source import SOURCE
from tskd_ray.models.policy import Policy, students_forward, unscale_actions
from tskd_ray.types import Float32Array, FloatArray

Act = Callable[[FloatArray], Float32Array]

C_FLAGS = ("-std=c99", "-O2", "-ffp-contract=off")


@dataclass(frozen=True)
class OneByOne:
    """A policy that sees one observation per call, as on a robot."""

    function: Act

    def act(self, observations: FloatArray) -> Float32Array:
        """Actions (N, A) for observations (N, S), each by a call of its own."""
        return np.concatenate([self.function(row[None]) for row in observations])


def torch_policy(policy: Policy) -> Act:
    """The policy by torch's own layers: what exported files are compared with."""

    def act(observations: FloatArray) -> Float32Array:
        with torch.no_grad():
            x = torch.from_numpy(policy.observation.normalize(observations))
            scaled = students_forward(policy.network, x[None])[0].numpy()
        return unscale_actions(scaled, policy.low, policy.high)

    return act


def onnx_policy(path: Path) -> Act:
    """An ONNX file in ONNX Runtime."""
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


def c_compiler() -> str | None:
    """`$CC`, else the first of cc, gcc and clang that is here."""
    names = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def c_policy(folder: Path, action_dim: int, compiler: str) -> Act:
    """The C source in `folder`, compiled into a shared library that lives as long as we do.

    Raises:
        StageError: If the compiler refuses it.
    """
    with tempfile.TemporaryDirectory(prefix="tskd-") as scratch:
        library = Path(scratch) / "policy.so"
        # The name of the source is its own, so no option; the compiler is the machine's.
        command = [compiler, *C_FLAGS, "-shared", "-fPIC", str(folder / SOURCE), "-lm"]
        done = subprocess.run(
            [*command, "-o", str(library)], check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise StageError(
                f"The exported C must compile. {compiler} says: {done.stderr.strip()[:500]} "
                "Please report this."
            )
        try:
            function = ctypes.CDLL(str(library)).tskd_policy
        except OSError as error:
            raise StageError(
                f"The exported C must load, to be checked. Got {reason(error)} Set TMPDIR to a "
                "folder whose files may be executed."
            ) from error
    function.restype = None
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p)

    def act(observations: FloatArray) -> Float32Array:
        rows = np.ascontiguousarray(observations, dtype=np.float32)
        actions = np.empty((len(rows), action_dim), dtype=np.float32)
        source, target = rows.ctypes.data, actions.ctypes.data
        for row in range(len(rows)):
            function(source + row * rows.strides[0], target + row * actions.strides[0])
        return actions

    return act
