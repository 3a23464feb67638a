"""`tskd export`: files of every format, each checked against torch before it takes its place.

N rows · S observation dim · A action dim
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from tskd_ray.data.trajectories import EnvironmentSpec
from tskd_ray.errors import StageError, StorageError
from tskd_ray.evaluation.simulate import evaluate
from tskd_ray.export.c_source import HEADER, SOURCE, c_files
from tskd_ray.export.card import CARD, model_card
from tskd_ray.export.description import Description
from tskd_ray.export.layers import require_finite
from tskd_ray.export.onnx_graph import float_onnx, int8_onnx
from tskd_ray.export.runtimes import (
    Act,
    OneByOne,
    c_compiler,
    c_policy,
    onnx_policy,
    torch_policy,
)
from tskd_ray.models.policy import Policy
from tskd_ray.report.data import ReportData
from tskd_ray.types import Float64Array, FloatArray

Format = Literal["onnx", "onnx-int8", "c"]

FILES: dict[Format, tuple[str, ...]] = {
    "onnx": ("policy.onnx",),
    "onnx-int8": ("policy-int8.onnx",),
    "c": (HEADER, SOURCE),
}
"""What each format consists of."""

TOLERANCE = 1e-5
"""Largest difference from torch that a float format may show, in half action ranges."""
ROWS = 10_000
"""Recorded observations that are enough to check by, and to find the range of activations."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One format, as checked."""

    format: Format
    files: Mapping[str, bytes]
    act: Act | None  # None: nothing on this machine runs it
    largest_error: float | None = None  # from torch, in half action ranges
    mean_error: float | None = None
    returns: Float64Array = field(default_factory=lambda: np.empty(0))  # (E,) episodes

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(len(content) for content in self.files.values())


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """Where and how often to score what was exported."""

    environment: EnvironmentSpec
    count: int
    seed: int
    first: int


def export(
    policy: Policy,
    run: ReportData,
    observations: FloatArray,
    formats: Sequence[Format],
    out: Path,
    episodes: Episodes | None = None,
) -> list[Exported]:
    """Write `formats` and a model card into the folder `out`; all of them or none.

    Args:
        policy: What to export.
        run: What its run tells.
        observations: (N, S) recorded ones, in raw units.
        formats: Which.
        out: A folder, made if need be.
        episodes: On which each format acts in the environment; None: no score.

    Raises:
        DataError: If a number of the policy is not finite, or no observation is given.
        StageError: If a float format acts otherwise than torch; nothing is written then.
        StorageError: If `out` cannot be written.
    """
    require_finite(policy)
    some = np.linspace(0, len(observations) - 1, min(ROWS, len(observations))).astype(int)
    rows = observations[some].astype(np.float32)
    with _together(out) as scratch:
        made = [_make(name, policy, run, rows, scratch, episodes) for name in formats]
        facts = [
            (
                name,
                len(content),
                hashlib.sha256(content).hexdigest(),
                one.largest_error,
                float(one.returns.mean()) if len(one.returns) else None,
            )
            for one in made
            for name, content in one.files.items()
        ]
        card = model_card(
            policy, run, facts, len(rows), 0 if episodes is None else episodes.count
        )
        with _writing(out):
            (scratch / CARD).write_bytes(card.encode())
    return made


def _make(
    name: Format,
    policy: Policy,
    run: ReportData,
    rows: FloatArray,
    scratch: Path,
    episodes: Episodes | None,
) -> Exported:
    files = _files(name, policy, Description.of(run.run, policy), rows)
    with _writing(scratch.parent):
        for file, content in files.items():
            (scratch / file).write_bytes(content)
    act = _runtime(name, policy, scratch)
    if act is None:
        return Exported(format=name, files=files, act=None)
    half = (policy.high - policy.low) / 2
    error = np.abs(act(rows) - torch_policy(policy)(rows)) / half
    largest = float(error.max())
    if name != "onnx-int8" and not largest <= TOLERANCE:
        raise StageError(
            f"An exported policy must act as the original, within {TOLERANCE} of half the "
            f"action range. {name} is off by {largest:.2g}. Nothing was written; please report "
            "this."
        )
    returns = np.empty(0)
    if episodes is not None:
        (returns,) = evaluate(
            [OneByOne(act)],
            episodes.environment,
            episodes.count,
            episodes.seed,
            first=episodes.first,
        )
    return Exported(
        format=name,
        files=files,
        act=act,
        largest_error=largest,
        mean_error=float(error.mean()),
        returns=returns,
    )


def _files(
    name: Format, policy: Policy, description: Description, rows: FloatArray
) -> dict[str, bytes]:
    if name == "onnx":
        return {FILES[name][0]: float_onnx(policy, description)}
    if name == "onnx-int8":
        return {FILES[name][0]: int8_onnx(policy, description, rows)}
    return c_files(policy, description)


def _runtime(name: Format, policy: Policy, folder: Path) -> Act | None:
    if name != "c":
        return onnx_policy(folder / FILES[name][0])
    compiler = c_compiler()
    return None if compiler is None else c_policy(folder, len(policy.low), compiler)


@contextmanager
def _together(out: Path) -> Generator[Path]:
    """A folder whose files go to `out` when the block ends without an error."""
    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".export-", dir=out))
    try:
        yield scratch
        with _writing(out):
            for path in sorted(scratch.iterdir()):
                path.replace(out / path.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _writing(out: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"The folder of the export must be writable. Got {out}: {error.strerror or error}. "
            "Choose another with --out, or free it."
        ) from error
