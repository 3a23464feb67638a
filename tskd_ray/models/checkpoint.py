"""Checkpoints: `model.safetensors` and `config.json` in one versioned folder. Never pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tskd_ray.errors import DataError

if TYPE_CHECKING:
    import torch

FORMAT_VERSION = 1


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


def load_model(folder: Path, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a checkpoint's tensors and configuration.

    Raises:
        DataError: If the folder holds no checkpoint of this kind and version.
    """
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "config.json").read_text())
        tensors = load_file(folder / "model.safetensors")
    except (OSError, ValueError) as error:
        raise DataError(
            f"A checkpoint is a folder with config.json and model.safetensors. {folder} cannot "
            f"be read: {error}. Train again, or give another folder."
        ) from error
    found = (config.get("kind"), config.get("format_version"))
    if found != (kind, FORMAT_VERSION):
        raise DataError(
            f"Expected a checkpoint of kind {kind!r}, format {FORMAT_VERSION}. {folder} holds "
            f"kind {found[0]!r}, format {found[1]!r}. Give the folder of a {kind} checkpoint."
        )
    return tensors, config


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
