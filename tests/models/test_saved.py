"""Models whose checkpoints follow from their fields."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tskd_ray.errors import DataError
from tskd_ray.models.mlp import BatchedMLP
from tskd_ray.models.saved import SavedModel
from tskd_ray.models.standardizer import Standardizer
from tskd_ray.types import Float32Array


@dataclass(frozen=True, eq=False)
class Example(SavedModel):
    kind = "example"

    network: BatchedMLP
    state: Standardizer
    low: Float32Array
    seed: int
    metrics_: dict[str, Any] = field(default_factory=dict[str, Any])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    network = BatchedMLP(3, 2, (4,), seed=0, keys=[("a",), ("b",)])
    state = Standardizer(np.array([1.0, 2.0, 3.0]), np.array([1.0, 0.0, 2.0]))
    low = np.array([-1.0, 0.5], np.float32)
    Example(network, state, low, 7, {"loss": 0.5}).save(tmp_path)
    return tmp_path


def test_every_field_comes_back(folder: Path) -> None:
    found = Example.load(folder)
    assert (found.seed, found.metrics_) == (7, {"loss": 0.5})
    assert found.low.dtype == np.float32
    assert found.low.tolist() == [-1.0, 0.5]
    assert found.state.std_.tolist() == [1.0, 0.0, 2.0]
    network = BatchedMLP(3, 2, (4,), seed=0, keys=[("a",), ("b",)])
    x = torch.ones(2, 5, 3)
    assert torch.equal(found.network(x), network(x))


def test_tensors_have_the_names_of_fields(folder: Path) -> None:
    names = {name.split(".")[0] for name in load_file(folder / "model.safetensors")}
    assert names == {"network", "state", "low"}


@pytest.mark.parametrize("change", [{"seed": "7"}, {"metrics": []}, {"seed": None}])
def test_a_setting_of_another_type_is_refused(folder: Path, change: dict[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(DataError, match="must be"):
        Example.load(folder)
