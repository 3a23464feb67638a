"""The teacher of a finished run, timed beside its student by `tskd export`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from tskd_ray.config.schema import GenerateConfig
from tskd_ray.data.arrays import load_arrays
from tskd_ray.diffusion.teacher import Teacher
from tskd_ray.errors import StorageError
from tskd_ray.evaluation.latency import planner
from tskd_ray.pipeline.artifacts import ArtifactStore
from tskd_ray.pipeline.graph import TEACHER
from tskd_ray.pipeline.manifest import ArtifactKey
from tskd_ray.report.data import RunRecord
from tskd_ray.types import Float32Array, FloatArray


def planner_of(
    run: RunRecord, folder: Path
) -> tuple[str, Callable[[FloatArray], Float32Array]]:
    """What to call the run's teacher, and the teacher as a policy.

    Its artifacts are found by the keys that the run noted: newer code gives other keys.

    Args:
        run: Of the run.
        folder: The run's, in its storage or not.

    Raises:
        InputError: If the storage does not hold it, or not whole.
    """
    try:
        settings = GenerateConfig.model_validate_json(json.dumps(run.config["generate"]))
    except (KeyError, ValidationError) as error:
        raise StorageError(
            "A run's record holds its settings of generation. Those of this one do not read as "
            "such. Its teacher can be loaded by the version that wrote it."
        ) from error
    store = ArtifactStore(_storage(run, folder))
    keys = {stage.name: stage.key for stage in run.stages}
    folders: dict[str, Path] = {}
    for name in ("data", *TEACHER):
        key = ArtifactKey(stage=name, digest=keys.get(name, ""))
        artifact = store.find(key) if key.digest else None
        if artifact is None:
            raise StorageError(
                f"The run's teacher must be in its storage. {store.storage.root} has no {name} "
                "of it. Run `tskd train` with the run's settings."
            )
        folders[name] = store.fetch(artifact)
    teacher = Teacher.load(folders, load_arrays(folders["data"]))
    sampler = settings.sampler
    name = f"teacher: one plan ({sampler.name}, {sampler.steps} steps) and inverse dynamics"
    return name, planner(teacher, settings)


def _storage(run: RunRecord, folder: Path) -> str:
    """The storage that the folder lies in, else the one that the run named."""
    root = folder.resolve().parent.parent
    return str(root if (root / "artifacts").is_dir() else run.config.get("storage", root))
