"""Films of a run's students, for its report: beside the artifacts, since no result needs them.

They depend on the machine's graphics, so they are no stage and have no key; a run without
graphics is as good as one with.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from tskd_ray.config.schema import Config
from tskd_ray.data.trajectories import EnvironmentSpec
from tskd_ray.evaluation.film import film_policies
from tskd_ray.models.students import load_student
from tskd_ray.pipeline.stages import first_student
from tskd_ray.pipeline.summary import row_name
from tskd_ray.report.films import FOLDER, FilmRecord, Films, read_films, save_films

FILMED = ("tskd", "recorded")


def write_films(
    config: Config,
    environment: EnvironmentSpec | None,
    folders: Mapping[str, Path],
    run_folder: Path,
) -> None:
    """Film the first student of each kind, as its first evaluation episode goes.

    What is there of the same students stays. Without `evaluate.film`, or an environment to
    evaluate in, there are no films.
    """
    target, fresh = run_folder / FOLDER, run_folder / f".{FOLDER}"
    wanted = config.evaluate.film and config.evaluate.episodes and environment is not None
    if not wanted or environment is None:
        shutil.rmtree(target, ignore_errors=True)
        return
    students = {name: first_student(folders[f"students-{name}"]) for name in FILMED}
    episode = config.evaluate.first_episode
    # An attempt's folder names its stage, key and writer.
    of = {name: f"{'/'.join(path.parts[-5:])}#{episode}" for name, path in students.items()}
    present = read_films(run_folder)
    if present is not None and present.of == of and not present.trouble:
        return
    done = film_policies(
        {name: load_student(path) for name, path in students.items()},
        environment,
        config.seed,
        episode=episode,
    )
    films = Films(
        films=tuple(
            FilmRecord(
                name=name,
                title=row_name(name, config.distill.method),
                steps=film.steps,
                earned=film.earned,
            )
            for name, film in done.films.items()
        ),
        trouble=done.trouble,
        of=of,
    )
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    pictures = {f"{name}.gif": film.motion for name, film in done.films.items()}
    pictures |= {f"{name}.png": film.strip for name, film in done.films.items()}
    save_films(films, pictures, fresh)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
