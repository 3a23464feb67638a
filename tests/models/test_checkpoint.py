"""Checkpoints that are damaged or made to harm."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from fuzzing.targets import TARGETS, attempt, small_policy
from tskd_ray.errors import DataError
from tskd_ray.models.policy import Policy

NAMES = ["checkpoint-tensors", "checkpoint-json"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small_policy(tmp_path)
    return tmp_path


def refused(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        Policy.load(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


def test_a_whole_one_is_read(folder: Path) -> None:
    assert Policy.load(folder).act(np.zeros((5, 3))).shape == (5, 2)


@settings(
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
@pytest.mark.parametrize("name", NAMES)
def test_truncated_files_and_flipped_bytes_are_read_or_refused(
    name: str, tmp_path: Path, data: st.DataObject
) -> None:
    if not (tmp_path / "seed").exists():
        TARGETS[name].seeds(tmp_path)
    file = "model.safetensors" if name == "checkpoint-tensors" else "config.json"
    damaged = bytearray((tmp_path / "seed" / file).read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        where = data.draw(st.integers(0, len(damaged) - 1))
        damaged[where : where + 1] = data.draw(st.binary(min_size=1, max_size=2))
    kept = data.draw(st.one_of(st.just(len(damaged)), st.integers(0, len(damaged))))
    attempt(TARGETS[name], bytes(damaged[:kept]), tmp_path)


def header(folder: Path, **entries: Any) -> None:
    """Weights whose header says of some tensors what is not so."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    head = json.loads(content[8 : 8 + length])
    for name, entry in entries.items():
        head[name] = head[name] | entry
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


@pytest.mark.parametrize(
    "entry",
    [
        {"shape": [10**12]},
        {"data_offsets": [0, 10**15]},
        {"data_offsets": [8, 0]},
        {"dtype": "X9"},
        {"shape": [2**40, 2**40]},
    ],
)
def test_headers_that_lie(folder: Path, entry: dict[str, Any]) -> None:
    header(folder, low=entry)
    assert "model.safetensors. " in refused(folder)


def test_a_header_longer_than_the_file(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}")
    refused(folder)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("low", torch.zeros(3)),
        ("high", torch.zeros(2, 1)),
        ("observation.mean", torch.zeros(4)),
        ("observation.std", torch.zeros(3, 3)),
        ("network.weights.0", torch.zeros(3, 4)),
        ("network.weights.0", torch.zeros(1, 3, 5)),
        ("network.weights.0", torch.zeros(1, 3, 4, dtype=torch.int32)),
        ("network.weights.1", torch.zeros(2, 4, 2)),
        ("network.biases.1", torch.zeros(1, 2)),
        ("network.biases.1", None),
        ("network.weights.0", None),
        ("low", None),
    ],
)
def test_tensors_that_do_not_fit(folder: Path, name: str, change: torch.Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(
        tensors | ({} if change is None else {name: change}), folder / "model.safetensors"
    )
    refused(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "[" * 10**5, '{"kind": ' + "9" * 5000 + "}", '{"kind": "policy"}']
)
def test_odd_settings(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    refused(folder)


def test_another_kind_is_named_in_short(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"kind": "x" * 10**6}))
    assert "Expected a checkpoint of kind 'policy'" in refused(folder)


def test_torchs_own_files_are_not_unpickled(folder: Path) -> None:
    called = folder / "called"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (called,))

    torch.save({"low": Bomb()}, folder / "model.safetensors")
    refused(folder)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    refused(folder)
    assert not called.exists()
