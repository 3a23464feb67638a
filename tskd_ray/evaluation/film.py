"""Films of policies in the environment: a short GIF and a film strip each.

The policies act here, and a process of its own plays their actions again and renders them
(`camera.py`): what a graphics library does to it, crash or hang, costs a film and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tskd_ray.data.environments import make_environment
from tskd_ray.data.observations import flatten_observation
from tskd_ray.data.trajectories import EnvironmentSpec
from tskd_ray.evaluation.camera import SCRIPT
from tskd_ray.evaluation.simulate import Decides, deciding, reset_seed

TIMEOUT = 60.0
"""Seconds for all attempts; a film takes about five."""


@dataclass(frozen=True, kw_only=True)
class Film:
    """One episode of one policy, as pictures."""

    steps: int
    earned: float  # undiscounted return
    motion: bytes  # GIF: the first seconds
    strip: bytes  # PNG: the whole episode


@dataclass(frozen=True, kw_only=True)
class Filming:
    """What came of it."""

    films: Mapping[str, Film]  # by the policy's name; empty if it could not be done
    trouble: str = ""  # why not, one line


def film_policies(
    policies: Mapping[str, Decides],
    environment: EnvironmentSpec,
    seed: int,
    *,
    episode: int = 0,
    timeout: float = TIMEOUT,
) -> Filming:
    """One episode of each policy, from the reset of that number that `evaluate` uses.

    Renders with what MUJOCO_GL names, else on Linux with EGL, else OSMesa. Takes about five
    seconds on a CPU; never fails for want of graphics.

    Args:
        policies: By names that may be file names.
        environment: Where they act.
        seed: As `evaluate` takes it.
        episode: Which reset.
        timeout: Seconds, over all attempts.

    Raises:
        DataError: If the environment does not exist.
    """
    reset = reset_seed(seed, episode)
    with tempfile.TemporaryDirectory(prefix="tskd-film-") as name:
        folder = Path(name)
        played: dict[str, tuple[int, float]] = {}
        for policy, acts in policies.items():
            actions, earned = _play(acts, environment, reset)
            np.save(folder / f"{policy}.npy", actions)
            played[policy] = len(actions), earned
        script = {
            "environment": environment.id,
            "kwargs": dict(environment.kwargs),
            "reset": reset,
            "films": list(policies),
        }
        (folder / SCRIPT).write_text(json.dumps(script), encoding="utf-8")
        trouble = _render(folder, timeout)
        if trouble:
            return Filming(films={}, trouble=trouble)
        return Filming(
            films={
                policy: Film(
                    steps=steps,
                    earned=earned,
                    motion=(folder / f"{policy}.gif").read_bytes(),
                    strip=(folder / f"{policy}.png").read_bytes(),
                )
                for policy, (steps, earned) in played.items()
            }
        )


def _play(
    policy: Decides, environment: EnvironmentSpec, reset: int
) -> tuple[np.ndarray, float]:
    """Actions (L, A) of one episode, and its return."""
    simulator = make_environment(environment)
    try:
        observation, _ = simulator.reset(seed=reset)
        actions: list[np.ndarray] = []
        earned, ended, reward = 0.0, False, 0.0
        decide, episode = deciding(policy, 1), np.zeros(1, dtype=np.int64)
        while not ended:
            state = flatten_observation(observation)[None]
            actions.append(decide(state, np.array([float(reward)]), episode)[0])
            observation, reward, terminated, truncated, _ = simulator.step(actions[-1])
            earned += float(reward)
            ended = terminated or truncated
        return np.array(actions), earned
    finally:
        simulator.close()


def _render(folder: Path, timeout: float) -> str:
    """Have it rendered; why it could not be, or nothing."""
    troubles: list[str] = []
    backends = _backends()
    for number, backend in enumerate(backends):
        share = timeout / (len(backends) - number)
        trouble = _attempt(folder, backend, share)
        if not trouble:
            return ""
        troubles.append(f"{backend or 'default'}: {trouble}")
        timeout -= share
    return "; ".join(troubles)


def _backends() -> Sequence[str]:
    """Values of MUJOCO_GL worth trying; environments without MuJoCo do not mind."""
    chosen = os.environ.get("MUJOCO_GL")
    if chosen is not None or not sys.platform.startswith("linux"):
        return (chosen or "",)
    return ("egl", "osmesa")


def _attempt(folder: Path, backend: str, timeout: float) -> str:
    package = Path(__file__).parents[2]
    search = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH", "")]))
    settings = os.environ | {"PYTHONPATH": search, "SDL_VIDEODRIVER": "dummy"}
    if backend:
        settings["MUJOCO_GL"] = backend
    command = [sys.executable, "-m", f"{__package__}.camera", str(folder)]
    try:
        done = subprocess.run(
            command,
            env=settings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no picture within {timeout:.0f} s"
    except OSError as error:
        return str(error)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing said"]
        # The first error is the cause; what fails while it is cleaned up comes after.
        said = next((line for line in lines if _ERROR.match(line)), lines[-1])
        return f"{said.strip()[:200]} (exit {done.returncode})"
    return ""


_ERROR = re.compile(r"[\w.]*(Error|Exception)\b")
