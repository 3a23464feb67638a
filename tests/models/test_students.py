"""Students that are no MLP: kept, told apart, and not exported."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tskd_ray
from export.small_policy import rows, small_policy
from tskd_ray.cli.policies import _require_mlp
from tskd_ray.errors import ConfigError, DataError
from tskd_ray.models.mlp import BatchedMLP
from tskd_ray.models.policy import Policy
from tskd_ray.models.standardizer import Standardizer
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


def test_the_policy_of_a_run_is_read_by_either_folder(tmp_path: Path) -> None:
    small_policy().save(tmp_path / "run" / "policy")
    extension().save(tmp_path / "other" / "policy")
    for folder in (tmp_path / "run", str(tmp_path / "run" / "policy")):
        policy = tskd_ray.load_policy(folder)
        assert isinstance(policy, Policy)
        np.testing.assert_array_equal(policy.act(rows(4)), small_policy().act(rows(4)))
    assert isinstance(tskd_ray.load_policy(tmp_path / "other"), ExtensionPolicy)
    with pytest.raises(DataError, match="A checkpoint is a folder"):
        tskd_ray.load_policy(tmp_path)


def test_the_example_of_a_policy_in_python_acts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(tskd_ray.__file__).parent.parent / "docs/export.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    network = BatchedMLP(11, 3, (4,), seed=0, keys=[("p",)])
    unit = Standardizer(np.zeros(11), np.ones(11))
    bounds = -np.ones(3, np.float32), np.ones(3, np.float32)
    folder = tmp_path / "tskd_storage/runs/quickstart/policy"
    Policy(network, unit, *bounds).save(folder)
    monkeypatch.chdir(tmp_path)
    exec(code, {})  # noqa: S102 - our own page
    assert float(capsys.readouterr().out) > 0


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
