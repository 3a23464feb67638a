"""Renders episodes off-screen: `python -m tskd_ray.evaluation.camera FOLDER`.

A process of its own, since a graphics library may crash or hang; `film.py` starts it, and says
what FOLDER holds. Imports neither torch nor Ray.

F frames · H, W pixels · L steps · A action dim
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tskd_ray.data.environments import register
from tskd_ray.types import FloatArray

if TYPE_CHECKING:
    import gymnasium as gym

SIZE = 128
"""Pixels of a frame's longer side."""

COLORS = 32
"""Of a picture's palette: a GIF's size is mostly its colours."""

STRIP = (4, 2)
"""Columns and rows of a film strip, whose frames are spread over the whole episode."""

MOTION_FRAMES = 48
"""Of the GIF, which shows the first seconds, at the speed at which they would pass."""

MOTION_HERTZ = 14.0

STEP_HERTZ = 30.0
"""Steps per second where the environment does not tell."""

SCRIPT = "script.json"

_METHOD = Image.Quantize.MAXCOVERAGE  # keeps a small robot's colours, as MEDIANCUT does not

_FOLLOWS = 2
"""MuJoCo's mjCAMLIGHT_TRACKCOM: a camera that moves with the robot's centre of mass."""


def main(folder: Path) -> None:
    """Render what `folder/script.json` asks for."""
    script = json.loads((folder / SCRIPT).read_text(encoding="utf-8"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        environment = _with_camera(script["environment"], script["kwargs"])
        for name in script["films"]:
            actions = np.load(folder / f"{name}.npy", allow_pickle=False)
            film(environment, actions, script["reset"], folder / name)
        environment.close()


def film(environment: gym.Env[Any, Any], actions: FloatArray, reset: int, path: Path) -> None:
    """Play `actions` (L, A) from a reset and write `path` with `.gif` and `.png` appended."""
    hertz = float(environment.metadata.get("render_fps") or STEP_HERTZ)
    every = max(1, round(hertz / MOTION_HERTZ))
    motion = list(range(0, len(actions) + 1, every))[:MOTION_FRAMES]
    columns, rows = STRIP
    strip = [round(x) for x in np.linspace(0, len(actions), columns * rows)]
    frames = _frames(environment, actions, reset, {*motion, *strip})
    moving = [frames[step] for step in motion]
    moving = _shared_palette(moving)
    pause = round(100 * every / hertz) * 10  # ms, in the hundredths that a GIF knows
    moving[0].save(
        path.with_name(f"{path.name}.gif"),
        save_all=True,
        append_images=moving[1:],
        duration=[*[pause] * (len(moving) - 1), 1000],
        loop=0,
    )
    _tiled([frames[step] for step in strip], columns).quantize(2 * COLORS, _METHOD).save(
        path.with_name(f"{path.name}.png"), optimize=True
    )


def _frames(
    environment: gym.Env[Any, Any], actions: FloatArray, reset: int, steps: set[int]
) -> dict[int, Image.Image]:
    """Pictures of the states after `steps` actions."""
    environment.reset(seed=reset)
    frames = {0: _picture(environment)}
    for number, action in enumerate(actions, start=1):
        environment.step(action)
        if number in steps:
            frames[number] = _picture(environment)
    return frames


def _picture(environment: gym.Env[Any, Any]) -> Image.Image:
    pixels = environment.render()
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 3:
        raise TypeError("The environment renders no pictures.")
    picture = Image.fromarray(np.asarray(pixels[..., :3], dtype=np.uint8))
    picture.thumbnail((SIZE, SIZE))
    return picture


def _with_camera(name: str, kwargs: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """The environment, small and plain where it has MuJoCo's renderer."""
    import gymnasium as gym

    register(name)
    options: dict[str, Any] = {
        **kwargs,
        "render_mode": "rgb_array",
        "disable_env_checker": True,
    }
    try:
        environment = gym.make(name, **options, width=SIZE, height=SIZE)
    except TypeError:  # not one of MuJoCo's: as large as it likes
        return gym.make(name, **options)
    inside: Any = environment.unwrapped
    if hasattr(inside, "model") and hasattr(inside, "mujoco_renderer"):
        # Before the first picture: shadows cost 3x where no GPU helps.
        inside.model.vis.quality.shadowsize = 0
        followers = np.flatnonzero(np.asarray(inside.model.cam_mode) == _FOLLOWS)
        if len(followers):  # else Gymnasium's, which the robot leaves
            inside.mujoco_renderer.camera_id = int(followers[0])
    return environment


def _shared_palette(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """All frames in one palette, so that what stands still need not be told again."""
    palette = _tiled(frames, columns=8).quantize(COLORS, _METHOD)
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


def _tiled(frames: Sequence[Image.Image], columns: int) -> Image.Image:
    width, height = frames[0].size
    rows = -(-len(frames) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height))
    for number, frame in enumerate(frames):
        sheet.paste(frame, (number % columns * width, number // columns * height))
    return sheet


if __name__ == "__main__":
    main(Path(sys.argv[1]))
