from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from evaluation.painted import SHADES
from tskd_ray.data.trajectories import EnvironmentSpec
from tskd_ray.evaluation import camera
from tskd_ray.evaluation.film import film_policies
from tskd_ray.evaluation.simulate import evaluate
from tskd_ray.types import FloatArray

HOPPER = EnvironmentSpec(id="Hopper-v5")


class Half:
    def act(self, observations: FloatArray) -> FloatArray:
        return np.full((len(observations), 1), 0.5, dtype=np.float32)


class Still:
    def act(self, observations: FloatArray) -> FloatArray:
        return np.zeros((len(observations), 3), dtype=np.float32)


def painted(trouble: str = "") -> EnvironmentSpec:
    return EnvironmentSpec(id="evaluation.painted:Painted-v0", kwargs={"trouble": trouble})


@pytest.fixture(autouse=True)
def _one_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """The camera finds `painted`, and is tried once."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("MUJOCO_GL", "egl")


def shades(picture: Image.Image) -> list[int]:
    """Steps that an 8 x 16 tile each shows, from left to right, row by row."""
    pixels = np.asarray(picture.convert("RGB"))[..., 0]
    tiles = pixels[4::8, 8::16].ravel()
    return [round(int(shade) / SHADES) for shade in tiles]


def test_a_film_shows_the_steps_it_says() -> None:
    done = film_policies({"half": Half()}, painted(), 3)
    assert done.trouble == ""
    film = done.films["half"]
    assert (film.steps, film.earned) == (10, 5.0)
    # Eight moments evenly from the reset to the end, four beside each other.
    strip = Image.open(io.BytesIO(film.strip))
    assert strip.size == (4 * 16, 2 * 8)
    assert shades(strip) == [0, 1, 3, 4, 6, 7, 9, 10]
    # 28 steps a second, of which every second is shown, 1/14 s each, the last one longer.
    motion = Image.open(io.BytesIO(film.motion))
    frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(motion)]
    assert [shades(frame)[0] for frame in frames] == [0, 2, 4, 6, 8, 10]
    motion.seek(0)
    assert motion.info["duration"] == 70
    motion.seek(5)
    assert motion.info["duration"] == 1000


@pytest.mark.parametrize(
    ("trouble", "told", "seconds"),
    [
        ("crash", "exit -6", 60.0),
        ("refuse", "egl: RuntimeError: no display here (exit 1)", 60.0),
        ("hang", "egl: no picture within 2 s", 2.0),
    ],
)
def test_what_fails_to_render_costs_a_film_and_nothing_else(
    trouble: str, told: str, seconds: float
) -> None:
    done = film_policies({"half": Half()}, painted(trouble), 3, timeout=seconds)
    assert not done.films
    assert told in done.trouble
    assert "\n" not in done.trouble


def test_the_last_backend_that_works_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def attempt(folder: Path, backend: str, timeout: float) -> str:
        tried.append(f"{backend} {timeout:g}")
        if backend == "egl":
            return "no device"
        for name in ("half.gif", "half.png"):
            (folder / name).write_bytes(b"picture")
        return ""

    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setattr("tskd_ray.evaluation.film._attempt", attempt)
    done = film_policies({"half": Half()}, painted(), 3, timeout=8.0)
    assert tried == ["egl 4", "osmesa 4"]
    assert done.films["half"].strip == b"picture"


@pytest.mark.slow
def test_a_robot_is_filmed_where_mujoco_renders() -> None:
    done = film_policies({"still": Still()}, HOPPER, 3, episode=1)
    if done.trouble:
        pytest.skip(done.trouble)
    film = done.films["still"]
    assert film.earned == evaluate([Still()], HOPPER, 1, 3, first=1)[0, 0]
    motion = Image.open(io.BytesIO(film.motion))
    assert motion.size == (camera.SIZE, camera.SIZE)
    frames = [np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(motion)]
    assert (frames[0] != frames[-1]).mean() > 0.05  # it falls
    # The camera follows: the orange robot stays in the middle third.
    orange = (frames[-1][..., 0] > 1.5 * frames[-1][..., 2].astype(int)) & (
        frames[-1][..., 0] > 60
    )
    columns = np.flatnonzero(orange.any(axis=0))
    assert camera.SIZE / 4 < columns.mean() < 3 * camera.SIZE / 4
    assert len(film.motion) < 120_000
