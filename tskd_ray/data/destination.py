"""Where a dataset of several files is written: a folder that holds nothing else."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tskd_ray.errors import StorageError, reason


@contextmanager
def new_folder(folder: Path, what: str) -> Generator[None]:
    """Make a folder, or take an empty one, and write into it in the block.

    A reader takes along whatever lies in a dataset's folder, and who removes the dataset
    removes the folder: so nothing of others may be in it.

    Args:
        folder: Made if absent.
        what: Needs it, such as "A Minari dataset".

    Raises:
        StorageError: If the folder holds anything, or it or its files cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = min((entry.name for entry in folder.iterdir()), default=None)
        if present is not None:
            raise StorageError(
                f"{what} needs a folder of its own. {folder} holds {present}. Choose another "
                "folder or empty this one."
            )
        yield
    except OSError as error:
        raise StorageError(
            f"The export needs a folder that can be written. {folder} cannot: "
            f"{reason(error)} Choose another folder."
        ) from error
