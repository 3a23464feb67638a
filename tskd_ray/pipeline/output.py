"""The folder of a run, for people and other programs: dataset, policy, figures, report."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from tskd_ray.config.schema import Config
from tskd_ray.data.arrays import load_arrays
from tskd_ray.data.minari_io import write_minari
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.errors import StorageError
from tskd_ray.pipeline.films import write_films
from tskd_ray.pipeline.publish import OUTPUTS, PAGE, alone
from tskd_ray.pipeline.room import require_room, told_if_full
from tskd_ray.pipeline.summary import build_metrics, build_plots, reference
from tskd_ray.report.data import (
    Metrics,
    ReportData,
    RunRecord,
    StageCost,
    save_report_data,
)
from tskd_ray.report.documents import read_document
from tskd_ray.report.films import FOLDER

PACKAGES = (
    "tskd_ray",
    "ray",
    "torch",
    "numpy",
    "faiss-cpu",
    "gymnasium",
    "mujoco",
    "minari",
    "pyarrow",
)

_MADE_OF = {
    "dataset": ("data", "generate-", "stitch-"),
    "policy": ("students-tskd",),
    FOLDER: ("students-tskd", "students-recorded"),
}
"""Stages that an output shows, by how their names begin."""


def write_run(
    config: Config,
    recorded: Trajectories,
    folders: Mapping[str, Path],
    costs: Sequence[StageCost],
    folder: Path,
    *,
    complete: bool,
    wall_seconds: float,
) -> tuple[Metrics, Path | None]:
    """Write what the finished stages allow; one command at a time.

    The report is removed first and written last, and so is what the new record does not tell
    of: after a kill at any moment no output lies beside the record of another one.

    Args:
        config: Of the run.
        recorded: The recorded data.
        folders: Finished nodes.
        costs: What each took.
        folder: The run's.
        complete: Whether every stage is done, so that dataset, policy and report are due.
        wall_seconds: What this command has taken.

    Returns:
        The figures, and the report's path if it was written.
    """
    metrics = build_metrics(config, folders, _warnings(config))
    data = ReportData(
        run=RunRecord(
            name=config.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            source=config.data.source,
            environment=recorded.environment.id if recorded.environment else None,
            rollout=config.generate.mode,
            seed=config.seed,
            config=config.model_dump(mode="json"),
            versions=library_versions(),
            stages=tuple(costs),
            compute=_compute(config),
            wall_seconds=round(wall_seconds, 3),
            environment_kwargs=recorded.environment.kwargs if recorded.environment else None,
        ),
        metrics=metrics,
        plots=build_plots(folders, config.distill.method),
    )
    with alone(folder), told_if_full(folder, str(folder), "The run"):
        for name in (PAGE, *(_outdated(folder, data.run) if complete else OUTPUTS)):
            _remove(folder / name)
        save_report_data(data, folder)
        if not complete:
            return metrics, None
        _write_dataset(config, recorded, folders, folder)
        _write_policy(folders, folder, data.run)
        write_films(config, recorded.environment, folders, folder)
        from tskd_ray.report.html import write_report

        return metrics, write_report(folder)


def _bytes_in_hdf5(trajectories: Trajectories) -> int:
    columns = (getattr(trajectories, column.name) for column in fields(trajectories))
    arrays = sum(column.nbytes for column in columns if isinstance(column, np.ndarray))
    return arrays + trajectories.n_episodes * _BYTES_OF_AN_EPISODE


_BYTES_OF_AN_EPISODE = 32 << 10
"""Of HDF5's own, measured as 23 KiB."""


def _write_dataset(
    config: Config, recorded: Trajectories, folders: Mapping[str, Path], folder: Path
) -> None:
    """D_K as a Minari dataset, best episode first; replaced as a whole."""
    last = [name for name in folders if name.startswith("stitch-")]
    if last:
        newest = max(last, key=lambda name: int(name.split("-")[1]))
        augmented = load_arrays(folders[newest])
    else:
        new = [
            load_arrays(path) for name, path in folders.items() if name.startswith("generate-")
        ]
        augmented = Trajectories.concatenate([recorded, *new])
    generate = config.generate
    how = f"{generate.mode} {generate.method}" if generate.extended else generate.mode
    target, fresh = folder / "dataset", folder / ".dataset"
    shutil.rmtree(fresh, ignore_errors=True)
    require_room(folder, _bytes_in_hdf5(augmented), "The dataset")  # else HDF5 crashes
    write_minari(
        augmented,
        fresh,
        dataset_id=f"tskd/{config.name.lower().replace('.', '-')}-v0",
        description=f"{config.data.source}, augmented; rollout {how}",
        scores=reference(config, recorded),
    )
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def _outdated(folder: Path, run: RunRecord) -> list[str]:
    """Outputs in the folder that show other artifacts than `run`, or it is not known which."""
    try:
        before: RunRecord = read_document(folder / "run.json", RunRecord)
    except StorageError:
        return list(OUTPUTS)

    def keys(record: RunRecord, stages: tuple[str, ...]) -> dict[str, str]:
        return {one.name: one.key for one in record.stages if one.name.startswith(stages)}

    return [name for name, made in _MADE_OF.items() if keys(before, made) != keys(run, made)]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_policy(folders: Mapping[str, Path], folder: Path, run: RunRecord) -> None:
    """The TSKD student of the first seed, final weights: not the luckiest, the first."""
    from tskd_ray.export.description import Description
    from tskd_ray.export.onnx_graph import float_onnx
    from tskd_ray.models.policy import Policy
    from tskd_ray.models.students import load_student
    from tskd_ray.pipeline.stages import first_student

    policy = load_student(first_student(folders["students-tskd"]))
    target, fresh = folder / "policy", folder / ".policy"
    shutil.rmtree(fresh, ignore_errors=True)
    policy.save(fresh)
    if isinstance(policy, Policy):  # others are no graph of ours
        (fresh / "policy.onnx").write_bytes(float_onnx(policy, Description.of(run, policy)))
    if all(_same(path, target / path.name) for path in fresh.iterdir()):
        shutil.rmtree(fresh)  # what `tskd export` put beside it stays true
        return
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and one.read_bytes() == other.read_bytes()


def _warnings(config: Config) -> list[str]:
    stepped: list[str] = []
    if config.generate.mode == "environment":
        stepped.append("rollout: environment")
    if config.stitch.epochs and config.stitch.reward_model == "simulator":
        stepped.append("reward: simulator")
    return [
        f"{one} stepped the simulator; its students are not purely offline" for one in stepped
    ]


def library_versions() -> dict[str, str]:
    """Of Python and the packages that results depend on."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _compute(config: Config) -> str:
    compute = config.compute
    where = "Ray" if compute.mode == "ray" else "one process"
    return f"{where}, {os.cpu_count()} CPUs, {compute.threads} per worker, {compute.device}"
