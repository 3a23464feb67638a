"""The file of d3rlpy's `ReplayBuffer.dump`, which its `ReplayBuffer.load` opens.

L steps of an episode · S observation dim · A action dim

d3rlpy keeps L observations for L actions: the state that an episode ends in has no place there,
so that the last step of an episode that did not terminate makes no transition.

Reference: d3rlpy.dataset.io, format 2.1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tskd_ray.data.trajectories import Trajectories
from tskd_ray.errors import StorageError, reason

COLUMNS = ("observations", "actions", "rewards", "terminated")
PROVENANCE = ("origin", "source_episode", "source_step")
"""Written beside, where d3rlpy does not look."""

VERSION = "2.1"


def write_d3rlpy(trajectories: Trajectories, path: str | Path) -> None:
    """Write one HDF5 file; dtypes are kept.

    Raises:
        StorageError: If the file exists or cannot be written.
    """
    import h5py

    try:
        with h5py.File(path, "x") as file:
            file.create_dataset("columns", data=list(COLUMNS))
            file.create_dataset("num_episodes", data=trajectories.n_episodes)
            file.create_dataset("version", data=VERSION)
            for number, episode in enumerate(trajectories.episodes()):
                arrays = {
                    "observations": episode["observations"][:-1],
                    "actions": episode["actions"],
                    "rewards": episode["rewards"][:, None],
                    "terminated": np.bool_(episode["terminated"]),
                    **{name: episode[name] for name in PROVENANCE},
                }
                for name, array in arrays.items():
                    file.create_dataset(f"{name}_{number}", data=array)
    except OSError as error:
        raise StorageError(
            f"The export needs a new file that can be written. {path} cannot: "
            f"{reason(error)} Choose another path."
        ) from error
