"""Uploads through Minari's own client, to a remote that is a folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from minari.storage import get_dataset_path
from minari.storage.remotes import _registry
from minari.storage.remotes.cloud_storage import CloudStorage

from tskd_ray.cli import cli
from tskd_ray.data.columnar import write_parquet
from tskd_ray.data.commands import data_upload
from tskd_ray.data.minari_io import read_minari_id
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.errors import ConfigError, DataError, StorageError

Make = Callable[..., Trajectories]
Same = Callable[[Trajectories, Trajectories], None]
ID = "tskd-test/hopper/stitched-v0"


class FolderStorage(CloudStorage):
    """A remote named by its folder; takes the token "good" only."""

    def __init__(self, name: str, token: str | None) -> None:
        self.root, self.token = Path(name), token

    def upload_dataset(self, dataset_id: str) -> None:
        self._check()
        shutil.copytree(get_dataset_path(dataset_id), self.root / dataset_id)

    def upload_namespace(self, namespace: str) -> None:
        self._check()
        (self.root / namespace).mkdir(parents=True, exist_ok=True)
        name = "namespace_metadata.json"
        shutil.copy(get_dataset_path(namespace) / name, self.root / namespace / name)

    def list_datasets(self, prefix: str | None = None) -> Iterator[str]:
        for found in self.root.rglob("data/metadata.json"):
            name = found.parents[1].relative_to(self.root).as_posix()
            if name.startswith(prefix or ""):
                yield name

    def get_dataset_metadata(self, dataset_id: str) -> dict[str, str]:
        return json.loads((self.root / dataset_id / "data" / "metadata.json").read_text())

    def download_dataset(self, dataset_id: str, path: Path) -> None:
        shutil.copytree(self.root / dataset_id, path / dataset_id)

    def list_namespaces(self) -> Iterator[str]:
        for found in self.root.rglob("namespace_metadata.json"):
            yield found.parent.relative_to(self.root).as_posix()

    def download_namespace_metadata(self, namespace: str, path: Path) -> None:
        shutil.copy(self.root / namespace / "namespace_metadata.json", path)

    def _check(self) -> None:
        if self.token != "good":
            raise PermissionError("403: no right to write\nwith this token")


@pytest.fixture
def source(
    tmp_path: Path, make_trajectories: Make, monkeypatch: pytest.MonkeyPatch
) -> Trajectories:
    """In `tmp_path / "source"`; the remote is `tmp_path / "remote"`."""
    monkeypatch.setitem(_registry, "folder", lambda: FolderStorage)
    monkeypatch.setenv("MINARI_REMOTE", f"folder://{tmp_path / 'remote'}")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "mine"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("MINARI_TOKEN", "good")
    (tmp_path / "remote").mkdir()
    data = make_trajectories()
    write_parquet(data, tmp_path / "source")
    return data


def test_what_is_uploaded_can_be_downloaded(
    source: Trajectories, tmp_path: Path, assert_same: Same
) -> None:
    arguments = ["data", "export", "source", "out", "--to", "minari", "--dataset-id", ID]
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        done = CliRunner().invoke(
            cli, [*arguments, "--upload", "--json"], catch_exceptions=False
        )
    finally:
        os.chdir(before)
    assert done.exit_code == 0
    values = json.loads(done.stdout.splitlines()[-1])["values"]
    assert values == {
        "path": "out",
        "dataset_id": ID,
        "remote": f"folder://{tmp_path / 'remote'}",
    }
    # The user's own collection was not touched, and nothing but the dataset went up.
    assert not (tmp_path / "mine").exists()
    assert os.environ["MINARI_DATASETS_PATH"] == str(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "remote").iterdir()] == ["tskd-test"]
    assert_same(read_minari_id(ID), source)  # downloaded by Minari


def test_a_dataset_that_is_there_is_not_replaced(source: Trajectories, tmp_path: Path) -> None:
    data_upload(tmp_path / "source", tmp_path / "one", dataset_id=ID)
    with pytest.raises(DataError, match=rf"has {ID}. Raise the version in --dataset-id"):
        data_upload(tmp_path / "source", tmp_path / "two", dataset_id=ID)
    data_upload(tmp_path / "source", tmp_path / "three", dataset_id=ID[:-1] + "1")


def test_a_refusal_is_one_line(
    source: Trajectories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_TOKEN", "bad")
    with pytest.raises(StorageError, match=r"PermissionError: 403: no right to write\. Check"):
        data_upload(tmp_path / "source", tmp_path / "out", dataset_id=ID)
    assert "MINARI_DATASETS_PATH" in os.environ


def test_without_a_credential_nothing_is_written(
    source: Trajectories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MINARI_TOKEN")
    with pytest.raises(ConfigError, match=r"MINARI_TOKEN or HF_TOKEN\. Neither is set"):
        data_upload(tmp_path / "source", tmp_path / "out", dataset_id=ID)
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("HF_TOKEN", "good")
    data_upload(tmp_path / "source", tmp_path / "out", dataset_id=ID)


@pytest.mark.parametrize(
    ("options", "got"),
    [({"dataset_id": None}, "--to minari and no id"), ({"to": "d4rl"}, "--to d4rl")],
)
def test_an_upload_is_of_a_minari_dataset_with_an_id(
    source: Trajectories, tmp_path: Path, options: dict[str, str], got: str
) -> None:
    with pytest.raises(ConfigError, match=rf"Got {got}\. Give both"):
        data_upload(tmp_path / "source", tmp_path / "out", **{"dataset_id": ID} | options)  # pyright: ignore[reportArgumentType]
