"""Each reader of what others wrote, as a function of bytes: for Hypothesis and scripts/fuzz.py.

A target puts the bytes where its reader looks, beside valid files if it needs some, and calls
it. Only our own `InputError` may come out, in one line of bounded length.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tskd_ray.config.load import load_config
from tskd_ray.config.load_sweep import load_sweep
from tskd_ray.errors import InputError

ROOT = Path(__file__).parents[2]
LONGEST_MESSAGE = 2500  # characters; a few names of the user's own, cut


@dataclass(frozen=True, kw_only=True)
class Target:
    """A reader, and valid inputs to begin with."""

    read: Callable[[bytes, Path], object]
    """Given the bytes and an empty folder, or one that it filled before."""
    seeds: Callable[[Path], Sequence[bytes]]
    """Given a folder to work in."""


def attempt(target: Target, data: bytes, folder: Path) -> InputError | None:
    """What the reader said, if it refused; anything but an `InputError` is raised."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a warning of NumPy's tells of an unforeseen value
            target.read(data, folder)
    except InputError as error:
        message = str(error)
        if "\n" in message or not 20 < len(message) < LONGEST_MESSAGE:
            raise AssertionError(f"no line of bounded length: {message[:3000]!r}") from error
        return error
    return None


def _config(data: bytes, folder: Path) -> object:
    path = folder / "c.yaml"
    path.write_bytes(data)
    return load_config(path)


def _overrides(data: bytes, folder: Path) -> object:
    # as Python makes the bytes of a command line text
    return load_config("small", data.decode("utf-8", "surrogateescape").split("\n"))


def _sweep(data: bytes, folder: Path) -> object:
    path = folder / "s.yaml"
    path.write_bytes(data)
    return load_sweep(path)


def _files(*patterns: str) -> Callable[[Path], list[bytes]]:
    return lambda _: [
        path.read_bytes() for pattern in patterns for path in sorted(ROOT.glob(pattern))
    ]


OVERRIDES = (
    b"stitch.epochs=3\nname=a",
    b"stitch.radius.neighbours=9",
    b"data.environment_kwargs={xml_file: walker2d.xml, a: [1, 2.5e-3, null]}",
    b"data.reference_scores=[-20.3, 3234.3]\nselect.slack=20%",
    b"distill.hidden=[64, 32]\nseed=1e3",
)

TARGETS = {
    "config": Target(read=_config, seeds=_files("tskd_ray/presets/*.yaml")),
    "overrides": Target(read=_overrides, seeds=lambda _: OVERRIDES),
    "sweep": Target(read=_sweep, seeds=_files("tune_configs/*.yaml")),
}
