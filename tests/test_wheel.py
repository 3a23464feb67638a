"""The package without its repository: built, installed into an environment of its own, run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import tskd_ray
from pipeline.tiny import tiny_config

ROOT = Path(tskd_ray.__file__).parent.parent
pytestmark = pytest.mark.slow


def backend(call: str, source: Path, out: Path) -> Path:
    """What setuptools, the build backend that pyproject.toml names, makes of `source`."""
    code = f"from setuptools.build_meta import *; print({call}({str(out)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, check=True, capture_output=True, text=True
    )
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tskd_ray", source / "tskd_ray", ignore=ignored)
    return backend("build_sdist", source, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, so that what either lacks shows."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder := tmp_path_factory.mktemp("unpacked"), filter="data")
    (source,) = folder.iterdir()
    return backend("build_wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel alone; what it depends on is lent by this one."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin/python"
    subprocess.run(
        [
            sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet",
            "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel),
        ],
        check=True,
    )  # fmt: skip
    (packages,) = folder.glob("lib/python*/site-packages")
    # A line in a .pth lends modules, and leaves the editable install's own .pth unread.
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def run(command: list[object], cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, check=False, capture_output=True, text=True,
        env=environment, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_all_that_the_package_reads_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    read = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tskd_ray").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert read <= names
    assert not {name for name in names if name.startswith(("tests/", "docs/"))}


def test_the_installed_command_knows_its_data(bin_folder: Path, tmp_path: Path) -> None:
    code = "import tskd_ray; print(tskd_ray.__file__)"
    assert str(bin_folder.parent) in run([bin_folder / "python", "-c", code], tmp_path)
    assert "quick start" in run([bin_folder / "tskd", "--help"], tmp_path)
    for preset in ("quickstart", "small", "paper"):
        assert "trajectories:" in run([bin_folder / "tskd", "config", preset], tmp_path)
    told = run(
        [bin_folder / "tskd", "data", "info", "builtin:hopper-medium-replay", "--json"],
        tmp_path,
    )
    assert json.loads(told.splitlines()[-1])["values"]["environment"]["id"] == "Hopper-v5"


def test_the_installed_command_runs_everything(bin_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "storage")
    (tmp_path / "tiny.yaml").write_text(config.model_dump_json())  # JSON is YAML
    run([bin_folder / "tskd", "run", "tiny.yaml", "--quiet"], tmp_path)
    folder = tmp_path / "storage/runs/tiny"
    assert "Stitched trajectories, step by step" in (folder / "report.html").read_text()
    assert (folder / "policy/policy.onnx").is_file()
