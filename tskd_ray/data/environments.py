"""Environments that datasets came from, and what a random and an expert policy earn there."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from tskd_ray.data.trajectories import EnvironmentSpec
from tskd_ray.errors import DataError, reason
from tskd_ray.types import Float64Array, FloatArray

if TYPE_CHECKING:
    import gymnasium

_log = logging.getLogger(__name__)

_PLUGINS = (
    # Package, extra of tskd-ray that installs it, ids that it registers.
    (
        "gymnasium_robotics",
        "robotics",
        re.compile(
            r"(Fetch(Slide|PickAndPlace|Reach|Push)|Hand(Reach|Manipulate)|AdroitHand"
            r"|FrankaKitchen|PointMaze_|AntMaze_)\w*-v\d+"
        ),
    ),
)
"""Packages whose environments are registered when one is asked for: a dataset may name these,
since which module an id imports is said here and not by the dataset."""


def register(environment_id: str) -> None:
    """Register the environments of the known package that `environment_id` is one of.

    What is registered already, and ids of other packages, are left alone.

    Raises:
        DataError: If the package is not installed.
    """
    import gymnasium

    plugin = _plugin(environment_id)
    if plugin is None or environment_id in gymnasium.registry:
        return
    package, extra = plugin
    try:
        # Its notices to those who import it would be lines of ours in every worker.
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = import_module(package)
            gymnasium.register_envs(module)
    except ModuleNotFoundError as error:
        raise DataError(
            f"{environment_id} is an environment of {package}. It cannot be imported: "
            f"{reason(error)} pip install 'tskd-ray[{extra}]'."
        ) from error


def check_available(environment: EnvironmentSpec) -> None:
    """Make an environment of a known package once, before hours of work that need it.

    Gymnasium's own are there; a package may be missing, or not fit the MuJoCo installed.

    Raises:
        DataError: If it cannot be made.
    """
    if _plugin(environment.id) is not None:
        make_environment(environment).close()


def environment_spec(
    environment_id: str, kwargs: Mapping[str, Any] | None = None
) -> EnvironmentSpec:
    """Describe a Gymnasium environment by making it once (about a second for MuJoCo's).

    Args:
        environment_id: As `gymnasium.make` takes it; `module:Id` imports the module first,
            ids of Gymnasium-Robotics need none.
        kwargs: Keyword arguments of the environment, part of a dataset's identity: Walker2d-v5
            has other physics than v2-v4 unless `xml_file="walker2d.xml"`.

    Raises:
        DataError: If there is no such environment (names the nearest), it cannot be made here,
            or its actions are not a vector of real numbers.
    """
    import gymnasium

    kwargs = dict(kwargs or {})
    register(environment_id)
    try:
        with warnings.catch_warnings():
            # That a newer version exists is no news: the dataset chose this one.
            warnings.simplefilter("ignore")
            environment = gymnasium.make(environment_id, **kwargs)
            space, made = environment.action_space, environment.spec
            width = _width(environment.observation_space)
            environment.close()
    except (
        gymnasium.error.UnregisteredEnv,
        gymnasium.error.DeprecatedEnv,
        ModuleNotFoundError,
    ) as error:
        raise DataError(
            f"The environment must be one that Gymnasium knows. Got {environment_id!r}. "
            f"{_suggestion(environment_id, list(gymnasium.registry))}"
        ) from error
    except Exception as error:  # an environment raises what it likes at arguments of others
        arguments = f" with {str(kwargs)[:200]}" if kwargs else ""
        raise DataError(
            f"The environment must be makeable here. {environment_id[:200]!r}{arguments} is "
            f"not: {reason(error)} {_remedy(environment_id)} or correct its keyword arguments."
        ) from error
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        raise DataError(
            "Actions must be vectors of real numbers (a one-dimensional Box). "
            f"{environment_id} has {space}. Choose a continuous-control environment."
        )
    return EnvironmentSpec(
        id=environment_id,
        kwargs=kwargs,
        action_low=_floats(space.low),
        action_high=_floats(space.high),
        max_episode_steps=made.max_episode_steps if made is not None else None,
        observation_dim=width,
    )


def check_declared(environment_id: str, path: object) -> None:
    """Refuse an environment of a dataset's own choice that imports a module.

    Gymnasium imports `module` of `module:Id`: no file that was downloaded may ask for that.

    Raises:
        DataError: If the dataset at `path` names such an id, or one that is no line of text.
    """
    if ":" in environment_id or not environment_id.isprintable() or len(environment_id) > 200:
        raise DataError(
            "A dataset names an environment that is registered, and imports nothing. "
            f"{path} names {environment_id[:200]!r}. If you trust it, name it yourself: "
            "data.environment=ID."
        )


def tell_other_physics(environment: EnvironmentSpec, path: object) -> None:
    """Warn where a user's choice for data that name no environment is likely another one's.

    Of the robots that D4RL recorded, Walker2d alone moves otherwise in v5 (by its feet's
    friction), unless it is given the file of v2 to v4.
    """
    name = environment.id.rsplit(":", maxsplit=1)[-1]
    if name == "Walker2d-v5" and "xml_file" not in environment.kwargs:
        _log.warning(
            "%s names no environment, and Walker2d-v5 has other physics than v2 to v4, which "
            "D4RL recorded with. For those set data.environment_kwargs={xml_file: "
            "walker2d.xml} (of `tskd data`: --environment-kwargs); for v5's own, {xml_file: "
            "walker2d_v5.xml}.",
            path,
        )


def make_environment(environment: EnvironmentSpec) -> gymnasium.Env[Any, Any]:
    """Make the Gymnasium environment, with its own time limit or else Gymnasium's.

    Raises:
        DataError: If Gymnasium does not know it or refuses its keyword arguments, or it is of
            a known package that is not installed.
    """
    import gymnasium

    register(environment.id)
    limit = {"max_episode_steps": environment.max_episode_steps}  # None: Gymnasium's
    try:
        # The passive checker looks at every step and doubles the cost of a cheap one.
        return gymnasium.make(
            environment.id, disable_env_checker=True, **(limit | dict(environment.kwargs))
        )
    except Exception as error:  # an environment raises what it likes at arguments of others
        raise DataError(
            f"The environment must be one that Gymnasium can make. {environment.id!r} with "
            f"{dict(environment.kwargs)} fails: {reason(error)} {_remedy(environment.id)} or "
            "correct data.environment."
        ) from error


def with_time_limit(environment: EnvironmentSpec, steps: int) -> EnvironmentSpec:
    """The environment with a limit of so many steps, where it and Gymnasium have none.

    A policy that never fails would be evaluated for ever.
    """
    import gymnasium

    if environment.max_episode_steps is not None:
        return environment
    with contextlib.suppress(DataError):  # what is not installed is told where it is needed
        register(environment.id)
    known = gymnasium.registry.get(environment.id.rsplit(":", maxsplit=1)[-1])
    if known is None or known.max_episode_steps is not None:
        return environment
    return replace(environment, max_episode_steps=steps)


def reference_scores(
    environment_id: str, kwargs: Mapping[str, Any] | None = None
) -> tuple[float, float] | None:
    """Returns of D4RL's (random, expert) policies, or None if the table lacks the environment.

    Source: D4RL's published scores, by environment instead of by dataset; see the table's
    `source`. Any version of an environment has the scores of its D4RL version.

    Args:
        environment_id: Of Gymnasium, with its `module:` or without.
        kwargs: Keyword arguments of the environment, if known: D4RL's Kitchen has four tasks
            and pays for each once. Minari's datasets of it name an environment that pays for
            all finished tasks at every step, where the expert's 4 means nothing.
    """
    name = environment_id.rsplit(":", maxsplit=1)[-1]
    if name.startswith("FrankaKitchen-") and kwargs is not None and not _d4rl_kitchen(kwargs):
        return None
    scores = _table().get(name)
    return None if scores is None else (float(scores[0]), float(scores[1]))


def normalized_score(returns: FloatArray, reference: tuple[float, float]) -> Float64Array:
    """D4RL's 100 · (R − R_random) / (R_expert − R_random), elementwise.

    Args:
        returns: Any shape.
        reference: (random, expert) returns of the environment.
    """
    low, high = reference
    return 100.0 * (np.asarray(returns, dtype=np.float64) - low) / (high - low)


def _d4rl_kitchen(kwargs: Mapping[str, Any]) -> bool:
    tasks = kwargs.get("tasks_to_complete", ())  # by default all seven
    once = kwargs.get("remove_task_when_completed", True)
    return bool(once) and isinstance(tasks, list | tuple) and len(set(map(str, tasks))) == 4


def _plugin(environment_id: str) -> tuple[str, str] | None:
    """Package and extra that an id belongs to."""
    for package, extra, ids in _PLUGINS:
        if ids.fullmatch(environment_id.removeprefix(f"{package}:")):
            return package, extra
    return None


def _remedy(environment_id: str) -> str:
    """How to get what the environment needs; no full stop."""
    plugin = _plugin(environment_id)
    if plugin is None:
        return "Install what it needs"
    return f"Install what it needs (pip install 'tskd-ray[{plugin[1]}]')"


@cache
def _table() -> dict[str, tuple[float, float]]:
    text = files("tskd_ray.data").joinpath("reference_scores.json").read_text(encoding="utf-8")
    return json.loads(text)["scores"]


def _width(space: gymnasium.Space[Any]) -> int | None:
    """Width of a flattened observation; None where flattening is not ours to define."""
    from gymnasium.spaces import Box, Dict, flatdim

    return flatdim(space) if isinstance(space, Box | Dict) else None


def _suggestion(environment_id: str, known: list[str]) -> str:
    name = environment_id.rsplit(":", maxsplit=1)[-1]
    folded = {other.lower(): other for other in known}
    nearest = [
        folded[match] for match in get_close_matches(name.lower(), folded, n=4, cutoff=0.5)
    ]
    if not nearest:
        return "Install the package that registers it and write module:Id."
    return f"Nearest: {', '.join(nearest)}."


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in np.asarray(values).ravel())
