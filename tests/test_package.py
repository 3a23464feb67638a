"""The package as a whole: what it exports, what importing costs, how long its files are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import tskd_ray

PACKAGE = Path(tskd_ray.__file__).parent
SOURCES = sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.j2")])
HEAVY = {"ray", "torch", "faiss", "numba", "gymnasium", "minari", "matplotlib", "pandas"}


def loaded_by(code: str) -> set[str]:
    """Top-level modules that are loaded after `code` ran in a fresh interpreter."""
    script = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    return set(done.stdout.split())


def test_import_is_cheap() -> None:
    assert not loaded_by("import tskd_ray") & (HEAVY | {"numpy", "pydantic", "click"})


def test_the_command_line_is_cheap_to_load() -> None:
    assert not loaded_by("import tskd_ray.cli") & (HEAVY | {"numpy", "pydantic", "rich"})


def test_reading_a_configuration_needs_no_heavy_library() -> None:
    assert not loaded_by("import tskd_ray; tskd_ray.load_config()") & HEAVY


@pytest.mark.parametrize("name", tskd_ray.__all__)
def test_each_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(tskd_ray, name)
    assert value.__doc__
    assert value.__name__ == name


def test_public_names_are_the_contract() -> None:
    assert set(tskd_ray.__all__) == {
        "Config", "ConfigError", "DataError", "DistillConfig", "EnvironmentSpec", "FitConfig",
        "GenerateConfig", "InputError", "ResourceError", "SamplerConfig", "SelectConfig",
        "StageError", "StorageError", "Trajectories", "TskdError", "distill",
        "environment_spec", "evaluate", "generate", "load_config", "load_policy",
        "load_teacher", "load_trajectories", "run", "select", "stitch_epoch",
    }  # fmt: skip
    assert set(tskd_ray.__all__) < set(dir(tskd_ray))
    with pytest.raises(AttributeError, match="has no attribute 'stich_epoch'"):
        _ = tskd_ray.stich_epoch


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_passes_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()
