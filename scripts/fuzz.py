#!/usr/bin/env python
"""Look for inputs at which a reader raises anything but our own errors, guided by coverage.

    pip install 'tskd-ray[fuzz]'
    nice -n 19 python scripts/fuzz.py d4rl --seconds 300
    python scripts/fuzz.py d4rl --replay tskd_fuzz/d4rl/fail-1
    python scripts/fuzz.py all --seconds 60

Atheris (libFuzzer) mutates valid inputs and keeps those that reach new branches of the reader.
An input that fails is saved, each kind of failure once, and the search goes on; one that ends
the process, takes over ten seconds or four gigabytes is saved too, and another process goes on.
Exit code 1 if anything was found.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parent.parent
LONGEST_INPUT = 20_000  # bytes
SLOW, LARGE = 10, 4096  # seconds and MiB that one input may take
GUIDING = ["tskd_ray", "minari", "yaml"]
"""Packages whose branches guide the search; compiled ones cannot."""


def main() -> None:
    """Fuzz one target or all, or run one saved input."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", help="of tests/fuzzing/targets.py, or all")
    parser.add_argument("--seconds", type=int, default=60, help="per target")
    parser.add_argument("--output", type=Path, default=Path("tskd_fuzz"))
    parser.add_argument("--replay", type=Path, metavar="FILE", help="one input, unguided")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    if arguments.worker:
        _work(arguments.target, arguments.seconds, arguments.output)
        return
    from fuzzing.targets import TARGETS, attempt

    if arguments.target not in (*TARGETS, "all"):
        parser.error(f"the targets are {', '.join(TARGETS)} and all")
    if arguments.replay is not None:
        with tempfile.TemporaryDirectory() as folder:
            target = TARGETS[arguments.target]
            print(attempt(target, arguments.replay.read_bytes(), Path(folder)) or "read")
        return
    names = list(TARGETS) if arguments.target == "all" else [arguments.target]
    found = sum(_fuzz(name, arguments.seconds, arguments.output / name) for name in names)
    sys.exit(found > 0)


def _fuzz(name: str, seconds: int, output: Path) -> int:
    """Workers one after the other until the time is over; the number of failing inputs."""
    output.mkdir(parents=True, exist_ok=True)
    stop, executions, crashes = time.monotonic() + seconds, 0, 0
    before = set(output.glob("*-*"))
    while (left := int(stop - time.monotonic())) > 0:
        command = [sys.executable, __file__, name, "--worker", "--seconds", str(left)]
        done = subprocess.run(
            [*command, "--output", str(output)],
            check=False, capture_output=True, text=True, errors="replace",
        )  # fmt: skip
        counts = re.findall(r"(?:number_of_executed_units: |^#)(\d+)", done.stderr, re.M)
        executions += int(counts[-1]) if counts else 0
        crashes += done.returncode != 0
        if not counts:  # it never began
            print(done.stderr[-2000:], file=sys.stderr)
            return 1
    failures = sorted(set(output.glob("*-*")) - before)
    print(
        f"{name}: {executions:,} executions in {seconds} s, {len(failures)} failing inputs, "
        f"{crashes} of them ended the process",
        flush=True,
    )
    for path in failures:
        print(f"  {path}")
    return len(failures)


def _work(name: str, seconds: int, output: Path) -> None:
    """Atheris' own process: it never returns."""
    atheris = importlib.import_module("atheris")  # an extra
    with atheris.instrument_imports(include=GUIDING):
        from fuzzing.targets import TARGETS, attempt
    logging.disable(logging.CRITICAL)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="tskd-fuzz-", dir=memory))
    corpus, place = folder / "corpus", folder / "place"
    corpus.mkdir()
    place.mkdir()
    target = TARGETS[name]
    for number, seed in enumerate(target.seeds(folder)):
        (corpus / str(number)).write_bytes(seed)
    known = {path.read_text() for path in output.glob("*.txt")}

    def once(data: bytes) -> None:
        try:
            attempt(target, data, place)
        except Exception as error:  # noqa: BLE001  what we look for
            frames = traceback.extract_tb(error.__traceback__)[-3:]
            kind = "\n".join(
                [
                    type(error).__name__,
                    *(f"{frame.filename}:{frame.lineno}" for frame in frames),
                ]
            )
            if kind not in known:
                known.add(kind)
                path = output / f"fail-{len(known)}"
                path.write_bytes(data)
                path.with_suffix(".txt").write_text(kind)

    options = {
        "max_total_time": seconds, "max_len": LONGEST_INPUT, "timeout": SLOW,
        "rss_limit_mb": LARGE, "print_final_stats": 1, "artifact_prefix": f"{output}/",
        "detect_leaks": 0,
    }  # fmt: skip
    flags = [f"-{option}={value}" for option, value in options.items()]
    atheris.Setup([sys.argv[0], str(corpus), *flags], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
