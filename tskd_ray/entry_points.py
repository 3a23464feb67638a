"""Extensions found by name: entry points of installed packages (docs/extending.md).

Nothing else is looked at. No setting, checkpoint or dataset can name a module to import.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeVar

from pydantic import AfterValidator

from tskd_ray.errors import ConfigError, reason

Group = Literal["generators", "stitchers", "reward_models", "selectors", "students", "formats"]
BUILT_IN: dict[Group, tuple[str, ...]] = {
    "generators": ("ddr",),
    "stitchers": ("tskd", "mbts"),
    "reward_models": ("ddr2", "mlp", "wgan", "simulator"),
    "selectors": ("return",),
    "students": ("bc", "awr", "td3bc", "iql", "cql", "dt"),
    "formats": ("builtin",),
}
"""Names of ours, which no extension can take."""

Extension = TypeVar("Extension")


def installed(group: Group) -> list[str]:
    """Names of the extensions of a group, sorted."""
    return sorted({point.name for point in _points(group)})


def nearest(name: str, names: list[str]) -> str:
    """`; the nearest is …`, or nothing if none is near."""
    near = get_close_matches(name, names, n=1)
    return f"; the nearest is {near[0]}" if near else ""


def choice(group: Group) -> AfterValidator:
    """Of a setting: one of ours, or an installed extension of that name."""

    def known(name: str) -> str:
        names = [*BUILT_IN[group], *installed(group)]
        if name in names:
            return name
        # `config.load` sets the setting's name before it, and the place behind.
        raise ValueError(
            f"be one of {', '.join(names)}, or an extension that is installed"
            f"{nearest(name, names)}. Got {name[:60]!r}"
        )

    return AfterValidator(known)


def load(
    group: Group, name: str, protocol: type[Extension], settings: Mapping[str, Any]
) -> Extension:
    """The extension `name`, made of its settings.

    Args:
        group: Where it is declared: `tskd_ray.` and this.
        name: As the configuration has it.
        protocol: What it must be, a runtime-checkable one.
        settings: Its keyword arguments.

    Raises:
        ConfigError: If it is not installed, or twice, cannot be imported, refuses the settings
            by a TypeError or ValueError, or lacks something of the protocol.
    """
    points = _points(group)
    found = [point for point in points if point.name == name]
    what = f"extension {name} of tskd_ray.{group}"
    if not found:
        raise ConfigError(
            f"An extension must be installed, on each machine. Got {what}, which is not"
            f"{nearest(name, [point.name for point in points])}. Install its package."
        )
    if len(found) > 1:
        raise ConfigError(
            f"An extension's name must be one package's. Got {what} from "
            f"{', '.join(sorted(point.value for point in found))}. Uninstall all but one."
        )
    try:
        made_by = found[0].load()
    except Exception as error:  # whatever its module raises
        raise ConfigError(
            f"An extension must be importable. Got {what}, {found[0].value}: {reason(error)} "
            "Mend or uninstall its package."
        ) from error
    try:
        made = made_by(**settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"Settings of an extension must be such as it takes. Got {dict(settings)} for "
            f"{what}: {reason(error)} Correct them."
        ) from error
    if not isinstance(made, protocol):
        raise ConfigError(
            f"An extension must have what docs/extending.md lists. Got {what}, which is no "
            f"{protocol.__name__}. Mend its package."
        )
    return made


def _points(group: Group) -> list[EntryPoint]:
    return list(entry_points(group=f"tskd_ray.{group}"))
