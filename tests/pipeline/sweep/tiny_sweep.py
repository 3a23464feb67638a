"""The smallest sweep whose trials share something at every stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.tiny import tiny_config
from tskd_ray.config.load_sweep import Sweep, load_sweep

SPACE = {
    "stitch.epochs": {"grid": [1, 2]},
    "select.slack": {"grid": ["75%", "90%"]},
}


def tiny_sweep(storage: Path, folder: Path, **settings: Any) -> Path:
    """A file: four trials on the tiny configuration, no final run; `settings` replace."""
    config = tiny_config(storage).model_dump(mode="json")
    del config["name"]
    config["compute"]["mode"] = "ray"
    document = {
        "name": "tiny-sweep",
        "base": "quickstart",
        "config": config,
        "space": SPACE,
        "search": {"method": "grid"},
        "final": None,
        "concurrent": 2,
        **settings,
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def load_tiny(storage: Path, folder: Path, **settings: Any) -> Sweep:
    return load_sweep(tiny_sweep(storage, folder, **settings))
