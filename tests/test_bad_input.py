"""Every row of the README's table of bad input, provoked through the command line."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tskd_ray
from tskd_ray.cli import exit_code

ROOT = Path(tskd_ray.__file__).parent.parent
README = (ROOT / "README.md").read_text()
TABLE = dict(
    re.findall(
        r"^\| ([^|]+) \| `([^`]+)`.*\|$",
        README.partition("\n| input | message |")[2].partition("\n\n")[0],
        re.MULTILINE,
    )
)
"""Input to message, in which `…` stands for anything."""

IN_CLUSTER = {"no GPU in the cluster"}  # tests/distributed/test_session.py
LENGTH, EPISODES = 8, 5
Arrays = dict[str, np.ndarray]


def healthy() -> Arrays:
    """Five episodes of eight steps in Hopper's widths; every other one terminates."""
    rng = np.random.default_rng(0)
    n = LENGTH * EPISODES
    states = rng.normal(size=(EPISODES, LENGTH + 1, 11)).astype(np.float32)
    ends = np.arange(1, n + 1) % LENGTH == 0
    first = np.arange(n) // LENGTH % 2 == 0
    return {
        "observations": states[:, :-1].reshape(n, 11),
        "next_observations": states[:, 1:].reshape(n, 11),
        "actions": rng.uniform(-1, 1, size=(n, 3)).astype(np.float32),
        # returns of 8, 16, 24, 32 and 40
        "rewards": np.repeat(np.arange(1.0, EPISODES + 1), LENGTH).astype(np.float32),
        "terminals": ends & first,
        "timeouts": ends & ~first,
    }


def store(name: str, arrays: Arrays) -> None:
    with h5py.File(name, "w") as file:
        for key, array in arrays.items():
            file[key] = array


def damaged(name: str, array: str, row: int, column: int | None, value: float) -> None:
    arrays = healthy()
    arrays[array][row if column is None else (row, column)] = value
    if array == "observations" and row % LENGTH:
        arrays["next_observations"][row - 1] = arrays[array][row]
    store(name, arrays)


def changed(name: str, **arrays: np.ndarray) -> None:
    store(name, healthy() | arrays)


def without_rewards() -> None:
    arrays = healthy()
    del arrays["rewards"]
    store("missing.hdf5", arrays)


def one_step() -> None:
    arrays = healthy()
    arrays["timeouts"][LENGTH] = True  # episode 1 is its first step
    store("one.hdf5", arrays)


def empty_episode() -> None:
    """A Parquet folder, since D4RL's layout cannot express one."""
    Path("empty").mkdir()
    state, action = [0.0] * 11, [0.0] * 3
    table = {
        "observations": [[state] * 3, [state]],
        "actions": [[action] * 2, []],
        "rewards": [[1.0, 1.0], []],
        "terminated": [True, True],
        "truncated": [False, False],
    }
    types = {
        "observations": pa.list_(pa.list_(pa.float64())),
        "actions": pa.list_(pa.list_(pa.float64())),
        "rewards": pa.list_(pa.float64()),
        "terminated": pa.bool_(),
        "truncated": pa.bool_(),
    }
    pq.write_table(pa.table(table, schema=pa.schema(types)), "empty/part.parquet")


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)


def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def bomb() -> None:
    """A file of kilobytes with arrays of terabytes."""
    with h5py.File("bomb.hdf5", "w") as file:
        for name, array in healthy().items():
            shape = (10**12, *array.shape[1:])
            chunks = (1024, *array.shape[1:])
            file.create_dataset(name, shape, "f4", chunks=chunks, compression="gzip")


def link() -> None:
    store("link.hdf5", healthy())
    with h5py.File("link.hdf5", "a") as file:
        del file["rewards"]
        file["rewards"] = h5py.ExternalLink("/etc/hostname", "rewards")


def naming_code() -> None:
    store("code.hdf5", healthy())
    with h5py.File("code.hdf5", "a") as file:
        file.attrs["env_id"] = "evil:Env-v0"


def minari(name: str, **changes: object) -> None:
    """In Minari's format; `changes` to its metadata, None to leave out."""
    from tskd_ray.data.d4rl import read_d4rl
    from tskd_ray.data.minari_io import write_minari

    store(f"{name}.hdf5", healthy())
    data = write_minari(read_d4rl(f"{name}.hdf5"), name, dataset_id="a-v0")
    head = json.loads((data / "metadata.json").read_text()) | changes
    kept = {key: value for key, value in head.items() if value is not None}
    (data / "metadata.json").write_text(json.dumps(kept))


def linked_twice() -> None:
    minari("twice")
    with h5py.File("twice/data/main_data.hdf5", "a") as file:
        file["episode_5"] = file["episode_0"]


def cut_short() -> None:
    empty_episode()
    content = Path("empty/part.parquet").read_bytes()
    Path("cut.parquet").write_bytes(content[: len(content) // 2])


@dataclass(frozen=True)
class Case:
    """How to make the input, and what to say to the command line besides."""

    make: Callable[[], None] = lambda: None
    source: str = "good.hdf5"
    settings: tuple[str, ...] = ()
    yaml: str = "name: a"
    environment: str | None = "Hopper-v5"
    storage: str = "storage"
    patch: Callable[[pytest.MonkeyPatch], None] = field(default=lambda monkeypatch: None)


N = LENGTH * EPISODES
CASES = {
    "misspelt setting": Case(yaml="stitch:\n  epocs: 2"),
    "setting in the wrong section": Case(yaml="guidance: 1.4"),
    "wrong type": Case(yaml="stitch: {epochs: 2.5}"),
    "settings that contradict each other": Case(yaml="teacher: {context: 200}"),
    "unknown environment": Case(environment="Hoper-v5"),
    "environment not named": Case(
        lambda: store("unnamed.hdf5", healthy()), "unnamed.hdf5", environment=None
    ),
    "unknown file": Case(source="nofile.hdf5"),
    "unknown dataset id": Case(source="no/such-dataset-v0"),
    "not an HDF5 file": Case(
        lambda: void(Path("text.hdf5").write_text("observations: 3")), "text.hdf5"
    ),
    "array missing": Case(without_rewards, "missing.hdf5"),
    "ragged arrays": Case(
        lambda: changed("ragged.hdf5", actions=np.zeros((N - 1, 3))), "ragged.hdf5"
    ),
    "NaN": Case(
        lambda: damaged("nan.hdf5", "observations", 2 * LENGTH + 3, 4, np.nan), "nan.hdf5"
    ),
    "infinity": Case(
        lambda: damaged("inf.hdf5", "rewards", LENGTH + 2, None, np.inf), "inf.hdf5"
    ),
    "action outside its space": Case(
        lambda: damaged("act.hdf5", "actions", LENGTH + 5, 1, 7.0), "act.hdf5"
    ),
    "empty dataset": Case(
        lambda: store("nothing.hdf5", {key: array[:0] for key, array in healthy().items()}),
        "nothing.hdf5",
    ),
    "empty episode": Case(empty_episode, "empty"),
    "one-step episode": Case(one_step, "one.hdf5"),
    "no episode ends": Case(
        lambda: changed("none.hdf5", terminals=np.zeros(N, bool), timeouts=np.zeros(N, bool)),
        "none.hdf5",
    ),
    "selection keeps too few": Case(settings=("select.slack=0.5",)),
    "storage cannot be written": Case(
        lambda: void(Path("a-file").write_text("in the way")), storage="a-file"
    ),
    "storage is full": Case(patch=full_disk),
    "configuration without bounds": Case(
        yaml="data: {environment_kwargs: {a: &a [*a, *a, *a]}}"
    ),
    "tag that makes an object": Case(yaml="name: !!python/object/apply:os.system [touch x]"),
    "number that no float holds": Case(yaml="generate: {target_return: 1e400}"),
    "file that declares more than it holds": Case(bomb, "bomb.hdf5"),
    "array in another file": Case(link, "link.hdf5"),
    "one array under many names": Case(linked_twice, "twice"),
    "dataset that names a module to import": Case(naming_code, "code.hdf5", environment=None),
    "dataset that names a function to call": Case(
        lambda: minari("spaceless", observation_space=None, action_space=None), "spaceless"
    ),
    "episodes that are not there": Case(lambda: minari("lies", total_episodes=10**12), "lies"),
    "damaged file": Case(cut_short, "cut.parquet"),
    "no dimensions": Case(
        lambda: changed("flat.hdf5", actions=np.zeros((N, 0))), "flat.hdf5", environment=None
    ),
    "no GPU on this machine": Case(
        settings=("compute.device=cuda", "select.minimum_episodes=1"), patch=no_cuda
    ),
}


def void(_: object) -> None:
    """Nothing, whatever a call returned."""


def too_late(*_: object, **__: object) -> None:
    """In place of the first stage: a lost check must not train for hours."""
    raise AssertionError("work began")


def test_each_row_has_its_case() -> None:
    assert set(CASES) | IN_CLUSTER == set(TABLE)


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_one_line_before_any_work(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    case = CASES[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setattr("tskd_ray.pipeline.runner.run_tasks", too_late)
    case.patch(monkeypatch)
    store("good.hdf5", healthy())
    case.make()
    Path("c.yaml").write_text(case.yaml)
    settings = ["compute.mode=local", f"storage={case.storage}", f"data.source={case.source}"]
    if case.environment is not None:
        settings.append(f"data.environment={case.environment}")

    assert exit_code(["run", "c.yaml", *settings, *case.settings]) == 2

    out, err = capsys.readouterr()
    line, _, more = err.removesuffix("\n").partition("\n")
    expected = ".*".join(map(re.escape, TABLE[name].split("…")))
    assert re.fullmatch(f"tskd: {expected}", line)
    assert out == ""
    if name == "selection keeps too few":
        assert all("█" in row or row.endswith(" 0") for row in more.splitlines())
        assert more.count("\n") == 7
    else:
        assert more == ""
    assert not list(Path("storage").rglob("artifacts/*"))
