"""Checkpoints: `model.safetensors` and `config.json` in one versioned folder. Never pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tskd_ray.data.hostile import json_file, reading
from tskd_ray.errors import DataError

if TYPE_CHECKING:
    import torch

FORMAT_VERSION = 1
_RULE = "A checkpoint is a folder with config.json and model.safetensors."
_REMEDY = "Train again, or give another folder."


def save_model(
    folder: Path,
    tensors: Mapping[str, torch.Tensor | np.ndarray[Any, Any]],
    config: dict[str, Any],
) -> None:
    """Write a checkpoint; `config` must be JSON and hold a `kind`.

    Both files are replaced atomically, weights first: a reader sees the old pair, the new pair
    or new weights under an equal configuration, never half a file.
    """
    import torch
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    plain = {
        name: torch.as_tensor(value).detach().cpu().contiguous().clone()
        for name, value in tensors.items()
    }
    document = {"format_version": FORMAT_VERSION, **config}
    text = json.dumps(document, indent=2, sort_keys=True)
    _replace(folder / "model.safetensors", save(plain))
    _replace(folder / "config.json", (text + "\n").encode())


@contextmanager
def open_model(
    folder: Path, kind: str
) -> Generator[tuple[dict[str, torch.Tensor], dict[str, Any]]]:
    """A checkpoint's tensors and configuration, to make the model of within the block.

    Raises:
        DataError: If the folder holds no checkpoint of this kind and version, or the block
            fails: for want of a tensor or a setting, or at one of another shape or type.
    """
    from safetensors.torch import load_file

    with reading(_RULE, folder, _REMEDY):
        config = json_file(folder / "config.json")
        found = (config.get("kind"), config.get("format_version"))
        if found != (kind, FORMAT_VERSION):
            shown = [repr(value)[:40] for value in found]
            raise DataError(
                f"Expected a checkpoint of kind {kind!r}, format {FORMAT_VERSION}. {folder} "
                f"holds kind {shown[0]}, format {shown[1]}. Give the folder of a {kind} "
                "checkpoint."
            )
        yield load_file(folder / "model.safetensors"), config


def kind_of(folder: Path) -> str:
    """What a checkpoint folder says that it holds.

    Raises:
        DataError: If it is none.
    """
    with reading(_RULE, folder, _REMEDY):
        return str(json_file(folder / "config.json").get("kind"))[:40]


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
