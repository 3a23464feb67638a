"""Students that are no MLP: kept, told apart, and not exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.small_policy import small_policy
from tskd_ray.cli.policies import _require_mlp
from tskd_ray.errors import ConfigError, DataError
from tskd_ray.models.policy import Policy
from tskd_ray.models.students import ExtensionPolicy, load_student
from tskd_ray.pipeline.output import _write_policy


def extension() -> ExtensionPolicy:
    low, high = -np.ones(2, np.float32), np.ones(2, np.float32)
    return ExtensionPolicy(
        "nobody", {"x": 1}, {"weights": np.eye(3)}, low, high, {"dataset": "student"}
    )


def test_each_kind_is_read_as_what_it_is(tmp_path: Path) -> None:
    extension().save(tmp_path / "a")
    small_policy().save(tmp_path / "b")
    again = load_student(tmp_path / "a")
    assert isinstance(again, ExtensionPolicy)
    assert isinstance(load_student(tmp_path / "b"), Policy)
    assert (again.name, again.settings, again.n_parameters) == ("nobody", {"x": 1}, 9)
    np.testing.assert_array_equal(again.fitted["weights"], np.eye(3))
    with pytest.raises(ConfigError, match=r"extension nobody of .*, which is not"):
        again.act(np.zeros((1, 3)))
    (tmp_path / "a" / "config.json").write_text("[]")
    with pytest.raises(DataError, match="A checkpoint is a folder"):
        load_student(tmp_path / "a")


def test_a_run_keeps_a_student_that_is_no_mlp_and_export_says_why_it_cannot(
    tmp_path: Path,
) -> None:
    made = tmp_path / "made"
    extension().save(made / "step-1" / "seed-0")
    (made / "students.json").write_text('{"steps": [1]}')
    anything: Any = None
    _write_policy({"students-tskd": made}, tmp_path, anything)
    assert {path.name for path in (tmp_path / "policy").iterdir()} == {
        "model.safetensors", "config.json"
    }  # fmt: skip
    with pytest.raises(DataError, match=r"has a student-extension\. Use distill\.method=bc"):
        _require_mlp(tmp_path / "policy")
