"""The C that an export writes: strict compilers, equal bits, names that cannot get out."""

from __future__ import annotations

import ctypes
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.small_policy import ABOUT, LOW, rows, small_policy, written_out
from report.report_example import example
from tskd_ray.errors import StageError
from tskd_ray.export.c_source import _literal, c_files
from tskd_ray.export.description import Description
from tskd_ray.export.runtimes import c_compiler, c_policy
from tskd_ray.models.policy import Policy

COMPILER = c_compiler()
needs_compiler = pytest.mark.skipif(
    COMPILER is None, reason="no C compiler on this machine: the exported C stays untried"
)
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-ffp-contract=off")


def written(policy: Policy, folder: Path, about: Description = ABOUT) -> Path:
    for name, content in c_files(policy, about).items():
        (folder / name).write_bytes(content)
    return folder


def strictly_compiled(folder: Path, level: str) -> ctypes.CDLL:
    assert COMPILER is not None
    library = folder / f"policy{level}.so"
    subprocess.run(
        [COMPILER, *STRICT, level, "-shared", "-fPIC", "policy.c", "-o", library, "-lm"],
        check=True, cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    return ctypes.CDLL(str(library))


def actions_of(library: ctypes.CDLL, x: np.ndarray) -> np.ndarray:
    actions = np.empty((len(x), 2), dtype=np.float32)
    for row, action in zip(np.ascontiguousarray(x), actions, strict=True):
        library.tskd_policy(
            ctypes.c_void_p(row.ctypes.data), ctypes.c_void_p(action.ctypes.data)
        )
    return actions


@needs_compiler
@pytest.mark.parametrize("hidden", [(), (16, 24)])
def test_strict_c99_acts_as_the_policy_with_equal_bits_at_every_level(
    hidden: tuple[int, ...], tmp_path: Path
) -> None:
    policy, x = small_policy(hidden), rows(200)
    folder = written(policy, tmp_path)
    plain, optimised = (actions_of(strictly_compiled(folder, o), x) for o in ("-O0", "-O2"))
    assert plain.tobytes() == optimised.tobytes()
    np.testing.assert_allclose(plain, written_out(policy, x), rtol=0, atol=1e-5)


@needs_compiler
def test_bounds_hold_and_no_number_gives_none(tmp_path: Path) -> None:
    policy = small_policy()
    policy.network.weights[-1].data.mul_(1e4)
    assert COMPILER is not None
    act = c_policy(written(policy, tmp_path), 2, COMPILER)
    assert (act(rows(50)) >= LOW).all()
    assert (act(rows(50)) == LOW).any()
    assert np.isnan(act(np.full((1, 3), np.nan))).all()


def test_the_files_are_the_same_bytes_every_time() -> None:
    assert c_files(small_policy(), ABOUT) == c_files(small_policy(), ABOUT)


def test_nothing_is_called_but_tanhf_and_nothing_can_be_changed() -> None:
    source = c_files(small_policy(), ABOUT)["policy.c"].decode()
    code = re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)
    called = set(re.findall(r"(\w+)\(", code)) - {"for", "if"}
    assert called == {"layer", "rectify", "tanhf", "tskd_policy"}
    assert re.findall(r"#include (.*)", code) == ['"policy.h"', "<math.h>"]
    outside = [line for line in code.splitlines() if line.startswith("static") and "[" in line]
    assert len(outside) == 7 + 2 * 3
    assert all(line.startswith("static const float ") for line in outside)


def test_numbers_are_written_exactly() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 2000, dtype=np.uint32)
    values = np.concatenate(
        [bits.view(np.float32), np.array([0.0, -0.0, 1.0, 0.1, 1e-45], np.float32)]
    )
    values = values[np.isfinite(values)]
    back = [float.fromhex(_literal(value).removesuffix("f")) for value in values]
    assert np.array(back, np.float32).tobytes() == values.tobytes()
    assert re.fullmatch(r"-?0x[01](\.[0-9a-f]+)?p[+-]\d+f", _literal(np.float32(-0.1)))


def test_a_name_that_would_end_a_comment_cannot(tmp_path: Path) -> None:
    run = replace(example().run, source='x*/ #error "out" /*\n|??/', environment="E\u0000-v0\\")
    about = Description.of(run, small_policy())
    header = c_files(small_policy(), about)["policy.h"].decode("ascii")
    assert header.count("*/") == 1
    assert about.dataset.startswith("x_/ _error")
    if COMPILER is not None:
        strictly_compiled(written(small_policy(), tmp_path, about), "-O0")


def test_where_a_dataset_lay_is_not_told() -> None:
    run = replace(example().run, source="/home/me/secret/hopper.hdf5")
    assert Description.of(run, small_policy()).dataset == "hopper.hdf5"
    run = replace(example().run, source="mujoco/hopper/medium-v0")
    assert Description.of(run, small_policy()).dataset == "mujoco/hopper/medium-v0"


@needs_compiler
def test_a_library_that_cannot_be_loaded_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        raise OSError(f"{path}: failed to map segment")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert COMPILER is not None
    with pytest.raises(StageError, match=r"failed to map segment. Set TMPDIR"):
        c_policy(written(small_policy(), tmp_path), 2, COMPILER)


@needs_compiler
def test_c_that_does_not_compile_is_told(tmp_path: Path) -> None:
    (tmp_path / "policy.c").write_text("#error no\n")
    assert COMPILER is not None
    with pytest.raises(StageError, match="must compile"):
        c_policy(tmp_path, 2, COMPILER)
