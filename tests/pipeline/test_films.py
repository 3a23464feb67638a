"""Films lie in a run's folder, of its students, and are not made twice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from export.small_policy import small_policy
from pipeline.tiny import tiny_config
from tskd_ray.config.schema import Config, EvaluateConfig
from tskd_ray.data.trajectories import EnvironmentSpec
from tskd_ray.evaluation.film import Film, Filming
from tskd_ray.pipeline.films import write_films
from tskd_ray.report.films import picture_uri, read_films
from tskd_ray.report.html import load_films

HOPPER = EnvironmentSpec(id="Hopper-v5")


class Camera:
    """Counts what it is asked for."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.trouble = ""

    def __call__(
        self, policies: Mapping[str, Any], environment: Any, seed: int, *, episode: int
    ) -> Filming:
        self.calls.append({"policies": sorted(policies), "seed": seed, "episode": episode})
        film = Film(steps=9, earned=4.5, motion=b"GIF", strip=b"PNG")
        films = {} if self.trouble else dict.fromkeys(policies, film)
        return Filming(films=films, trouble=self.trouble)


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Camera:
    camera = Camera()
    monkeypatch.setattr("tskd_ray.pipeline.films.film_policies", camera)
    return camera


@pytest.fixture
def students(tmp_path: Path) -> dict[str, Path]:
    folders = {f"students-{name}": tmp_path / name / "a" for name in ("tskd", "recorded")}
    for folder in folders.values():
        small_policy().save(folder / "step-40" / "seed-0")
        (folder / "students.json").write_text('{"steps": [20, 40]}')
    return folders


def settings(tmp_path: Path, **evaluate: Any) -> Config:
    config = tiny_config(tmp_path)
    evaluation = EvaluateConfig(episodes=2, first_episode=7, **evaluate)
    return config.model_copy(update={"evaluate": evaluation})


def test_the_first_student_of_each_kind_is_filmed_once(
    camera: Camera, students: dict[str, Path], tmp_path: Path
) -> None:
    config = settings(tmp_path)
    for _ in range(2):
        write_films(config, HOPPER, students, tmp_path)
    assert camera.calls == [{"policies": ["recorded", "tskd"], "seed": 0, "episode": 7}]
    films = read_films(tmp_path)
    assert films is not None
    assert [(film.title, film.steps, film.earned) for film in films.films] == [
        ("TSKD student", 9, 4.5),
        ("BC, all recorded", 9, 4.5),
    ]
    assert picture_uri(tmp_path, "tskd.gif") == "data:image/gif;base64,R0lG"
    assert picture_uri(tmp_path, "tskd.png") == "data:image/png;base64,UE5H"


def test_other_students_are_filmed_anew(
    camera: Camera, students: dict[str, Path], tmp_path: Path
) -> None:
    write_films(settings(tmp_path), HOPPER, students, tmp_path)
    other = tmp_path / "tskd" / "b"
    students["students-tskd"].rename(other)
    write_films(settings(tmp_path), HOPPER, students | {"students-tskd": other}, tmp_path)
    assert len(camera.calls) == 2


def test_where_nothing_renders_one_line_says_so_and_it_is_tried_again(
    camera: Camera, students: dict[str, Path], tmp_path: Path
) -> None:
    camera.trouble = "egl: no device"
    write_films(settings(tmp_path), HOPPER, students, tmp_path)
    shown = load_films(tmp_path)
    assert shown is not None
    assert (shown.shown, shown.trouble) == ((), "egl: no device")
    camera.trouble = ""
    write_films(settings(tmp_path), HOPPER, students, tmp_path)
    shown = load_films(tmp_path)
    assert shown is not None
    assert len(shown.shown) == 2


def test_no_film_is_left_of_a_run_that_asks_for_none(
    camera: Camera, students: dict[str, Path], tmp_path: Path
) -> None:
    write_films(settings(tmp_path), HOPPER, students, tmp_path)
    write_films(settings(tmp_path, film=False), HOPPER, students, tmp_path)
    assert not (tmp_path / "films").exists()
    write_films(settings(tmp_path), None, students, tmp_path)
    assert load_films(tmp_path) is None
    assert len(camera.calls) == 1
