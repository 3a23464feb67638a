#!/usr/bin/env python
"""Measure tskd_ray against what one would otherwise run, side by side in one process.

    python scripts/benchmark.py stitch
    python scripts/benchmark.py stitch --dataset gait-hopper-1m
    python scripts/benchmark.py epoch --dataset gait-hopper-1m
    python scripts/benchmark.py distill
    python scripts/benchmark.py train
    python scripts/benchmark.py generate
    python scripts/benchmark.py generate --actors --steps 400

Ratios within one run are what counts; absolute times belong to the machine.
"""

from __future__ import annotations

import argparse
import os

from benchmarks import distill, epoch, generate, stitch, train

SUBJECTS = {
    "stitch": stitch,
    "epoch": epoch,
    "distill": distill,
    "train": train,
    "generate": generate,
}
"""One file per subject under scripts/benchmarks, with `add_arguments` and `run`."""


def main() -> None:
    """Parse the command line and run one subject."""
    parser = argparse.ArgumentParser(description=_first_line(__doc__))
    subjects = parser.add_subparsers(dest="subject", required=True)
    for name, module in SUBJECTS.items():
        subject = subjects.add_parser(name, help=_first_line(module.__doc__))
        subject.add_argument("--threads", type=int, default=1, help="for every contestant")
        module.add_arguments(subject)
    arguments = parser.parse_args()
    # Before numpy, FAISS and torch are loaded: they read these once.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(arguments.threads)
    SUBJECTS[arguments.subject].run(arguments)


def _first_line(doc: str | None) -> str:
    return (doc or "").split("\n")[0]


if __name__ == "__main__":
    main()
