"""Each reader of what others wrote, as a function of bytes: for Hypothesis and scripts/fuzz.py.

A target puts the bytes where its reader looks, beside valid files if it needs some, and calls
it. Only our own `InputError` may come out, in one line of bounded length.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from tskd_ray.config.load import load_config
from tskd_ray.config.load_sweep import load_sweep
from tskd_ray.data.arrays import load_arrays, save_arrays
from tskd_ray.data.columnar import write_parquet
from tskd_ray.data.d4rl import write_d4rl
from tskd_ray.data.load import load_trajectories
from tskd_ray.data.minari_io import write_minari
from tskd_ray.data.trajectories import EnvironmentSpec, Trajectories
from tskd_ray.errors import InputError
from tskd_ray.models.mlp import BatchedMLP
from tskd_ray.models.policy import Policy
from tskd_ray.models.standardizer import Standardizer
from tskd_ray.pipeline.manifest import ArtifactKey, Manifest, Part

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

# -- datasets --------------------------------------------------------------------------


def recorded() -> Trajectories:
    """Three short episodes of 3-d states and 2-d actions, with an environment nobody knows."""
    rng = np.random.default_rng(0)
    episodes = [
        {
            "observations": rng.normal(size=(length + 1, 3)).astype(np.float32),
            "actions": rng.uniform(-1, 1, size=(length, 2)).astype(np.float32),
            "rewards": rng.normal(size=length).astype(np.float32),
            "terminated": length == 2,
        }
        for length in (3, 2, 4)
    ]
    environment = EnvironmentSpec(
        id="Toy-v0", action_low=(-1.0, -1.0), action_high=(1.0, 1.0), observation_dim=3
    )
    return Trajectories.from_episodes(episodes, environment=environment)


def _one_file(name: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        path = folder / name
        path.write_bytes(data)
        return load_trajectories(path)

    return read


def _d4rl(folder: Path) -> list[bytes]:
    path = folder / "seed.hdf5"
    write_d4rl(replace(recorded(), environment=None), path)
    plain = folder / "plain.hdf5"
    with h5py.File(path) as packed, h5py.File(plain, "w") as file:
        for name, array in packed.items():
            file[name] = np.array(array)
    return [path.read_bytes(), plain.read_bytes()]


def _parquet(folder: Path) -> list[bytes]:
    (path,) = write_parquet(recorded(), folder / "seed")
    return [path.read_bytes()]


def _within(
    make: Callable[[Path], object], name: str, read: Callable[[Path], object]
) -> Target:
    """Of one file among several valid ones."""

    def read_with(data: bytes, folder: Path) -> object:
        whole = folder / "whole"
        if not whole.exists():
            make(whole)
        (whole / name).write_bytes(data)
        return read(whole)

    def seeds(folder: Path) -> list[bytes]:
        make(folder / "seed")
        return [(folder / "seed" / name).read_bytes()]

    return Target(read=read_with, seeds=seeds)


def _minari(folder: Path) -> None:
    write_minari(recorded(), folder, dataset_id="toy-v0")


def _arrays(folder: Path) -> None:
    save_arrays(recorded(), folder)


def small_policy(folder: Path) -> None:
    network = BatchedMLP(3, 2, [4], seed=0, keys=[("fuzz",)])
    state = Standardizer(np.zeros(3), np.ones(3))
    bounds = np.ones(2, dtype=np.float32)
    Policy(network, state, -bounds, bounds).save(folder)


def _manifest(data: bytes, _: Path) -> object:
    return Manifest.from_bytes(data, key=KEY)


KEY = ArtifactKey(stage="data", digest="0" * 64)
MANIFEST = Manifest(
    stage=KEY.stage,
    key=KEY.digest,
    attempt=f"attempt-{'0' * 32}",
    parts=(Part(name="a/b.npy", bytes=3, sha256="0" * 64),),
    ids=((0, 3),),
    info={"seconds": 1.5},
)

TARGETS = {
    "config": Target(read=_config, seeds=_files("tskd_ray/presets/*.yaml")),
    "overrides": Target(read=_overrides, seeds=lambda _: OVERRIDES),
    "sweep": Target(read=_sweep, seeds=_files("tune_configs/*.yaml")),
    "d4rl": Target(read=_one_file("d.hdf5"), seeds=_d4rl),
    "parquet": Target(read=_one_file("d.parquet"), seeds=_parquet),
    "minari-hdf5": _within(_minari, "data/main_data.hdf5", load_trajectories),
    "minari-json": _within(_minari, "data/metadata.json", load_trajectories),
    "arrays-npy": _within(_arrays, "observations.npy", load_arrays),
    "arrays-offsets": _within(_arrays, "offsets.npy", load_arrays),
    "arrays-json": _within(_arrays, "trajectories.json", load_arrays),
    "checkpoint-tensors": _within(small_policy, "model.safetensors", Policy.load),
    "checkpoint-json": _within(small_policy, "config.json", Policy.load),
    "manifest": Target(read=_manifest, seeds=lambda _: [MANIFEST.to_bytes()]),
}
