"""Uploads by Minari's own client, to the remote that it would use (`MINARI_REMOTE`)."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Generator
from pathlib import Path

from tskd_ray.errors import ConfigError, DataError, StorageError, reason

TOKENS = ("MINARI_TOKEN", "HF_TOKEN")
"""Environment variables that may hold the credential, in order."""

_ROOT = "MINARI_DATASETS_PATH"


def require_token() -> str:
    """The credential for an upload: of Hugging Face a token, of Google Cloud a key file's path.

    Raises:
        ConfigError: If the environment has none.
    """
    token = next(filter(None, (os.environ.get(name) for name in TOKENS)), None)
    if token is None:
        raise ConfigError(
            f"An upload needs a credential in the environment, {' or '.join(TOKENS)}. Neither "
            "is set. Export the token of the account that may write there."
        )
    return token


def upload_minari(folder: Path, dataset_id: str) -> str:
    """Upload what `write_minari` wrote into `folder`, and its namespace if the remote has none.

    Returns:
        The remote, such as `hf://farama-minari`.

    Raises:
        ConfigError: If the environment has no credential.
        DataError: If the remote has a dataset of that id.
        StorageError: If the remote cannot be reached, or refuses.
    """
    import minari
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.namespace import create_namespace
    from minari.storage.remotes import DEFAULT_REMOTE

    token = require_token()
    remote = os.environ.get("MINARI_REMOTE", DEFAULT_REMOTE)
    with _root_of_its_own() as root, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        namespace, _, _ = parse_dataset_id(dataset_id)
        if namespace is not None:
            create_namespace(namespace)
        place = root / dataset_id
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(folder.absolute(), target_is_directory=True)
        try:
            with contextlib.redirect_stdout(sys.stderr):  # its progress is not our output
                minari.upload_dataset(dataset_id, token)
        except Exception as error:  # each remote's library raises its own
            raise StorageError(
                f"An upload needs a remote that answers and lets you write. {remote} did not: "
                f"{type(error).__name__}: {reason(error)} Check MINARI_REMOTE and the "
                f"credential; the dataset is in {folder}."
            ) from error
    if any("already in remote" in str(warning.message) for warning in caught):
        raise DataError(
            f"A dataset that is uploaded is never replaced. {remote} has {dataset_id}. Raise "
            "the version in --dataset-id."
        )
    return remote


@contextlib.contextmanager
def _root_of_its_own() -> Generator[Path]:
    """A collection of datasets that holds nothing else; the user's is not touched."""
    before = os.environ.get(_ROOT)
    with tempfile.TemporaryDirectory(prefix="tskd-upload-") as name:
        os.environ[_ROOT] = name
        try:
            yield Path(name)
        finally:
            if before is None:
                del os.environ[_ROOT]
            else:
                os.environ[_ROOT] = before
