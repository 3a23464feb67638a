"""Make the built-in dataset: every second episode of hopper-medium-replay, from the first.

    python scripts/make_builtin.py hopper-medium-replay.hdf5 tskd_ray/data/builtin

The rule is systematic over the whole replay, so the slice has the replay's mix of early and
late episodes; every second one is what fits into 2 MB. Nothing is rounded.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from tskd_ray.data.columnar import to_table, write_table
from tskd_ray.data.load import load_trajectories

STRIDE = 2
LIMIT = 2_000_000  # bytes


def main() -> int:
    """Write the slice; 1 if it is too large for the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    whole = load_trajectories(arguments.source)
    # Ids stay those of the whole replay, so a step can be traced to its source.
    part = whole.take(np.arange(0, whole.n_episodes, STRIDE))
    path = arguments.folder / f"{arguments.source.stem}.parquet"
    write_table(to_table(part), path, compression_level=19)
    size = path.stat().st_size
    sys.stdout.write(
        f"{path}: {part.n_episodes} of {whole.n_episodes} episodes, {part.n_steps} of "
        f"{whole.n_steps} steps, {size:,} bytes; return {part.returns.mean():.0f} ± "
        f"{part.returns.std():.0f}, max {part.returns.max():.0f}\n"
    )
    return int(size > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
