"""From a sweep's YAML to a `Sweep`, every value of its space tried on the configuration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tskd_ray.config.load import (
    Places,
    all_paths,
    is_file,
    layers,
    overlay,
    place,
    preset_names,
    read_overrides,
    read_yaml,
    validate,
)
from tskd_ray.config.schema import Config
from tskd_ray.config.sweep import MOST_TRIALS, Domain, SweepConfig
from tskd_ray.errors import ConfigError

Point = dict[str, Any]
"""One trial's settings: value by dotted key, without the keys whose condition does not hold."""

_FIXED = ("name", "storage", "data", "compute")
"""Sections that trials share: what differs there is another sweep, or no other result."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep's settings, checked, and the configuration that they vary."""

    settings: SweepConfig
    tree: dict[str, Any]  # the base configuration, complete
    places: Places  # where its values, and those of the space, were written

    @property
    def base(self) -> Config:
        """The configuration that trials start from."""
        return self.config({})

    def config(self, point: Mapping[str, Any]) -> Config:
        """The configuration of one trial.

        Raises:
            ConfigError: If its settings contradict each other; names the point.
        """
        tree, places = self.tree, dict(self.places)
        for key, value in point.items():
            tree = overlay(tree, _nested(key, value))
            path = tuple(key.split("."))
            for length in range(2, len(path) + 1):  # a complaint may be of what holds the key
                places[path[:length]] = self._where(key)
        try:
            return validate(tree, places)
        except ConfigError as error:
            if not point or any(where in str(error) for where in self.places.values()):
                raise
            shown = ", ".join(
                f"{key} {value!r} in {self._where(key)}" for key, value in point.items()
            )
            raise ConfigError(f"{error} (With {shown}.)") from None

    def _where(self, key: str) -> str:
        return self.places.get(("space", key)) or place(tuple(key.split(".")), self.places)

    def base_value(self, key: str) -> Any:
        """The base configuration's value of a dotted key; None where it has none."""
        value: Any = self.tree
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def applies(self, key: str, point: Mapping[str, Any]) -> bool:
        """Whether the condition of `key`, if any, holds at `point`."""
        domain = self.settings.space[key]
        return all(
            point.get(other, self.base_value(other)) in _wanted(domain, other)
            for other in domain.when
        )


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read and check a sweep.

    Args:
        path: The YAML file.
        overrides: `key=value`, of the sweep (`search.trials=8`) or of the base configuration
            (`distill.seeds=2`). They win over the file.

    Raises:
        ConfigError: If a key, a value, a condition or a base does not fit. One line that says
            where it was written.
    """
    path = Path(path)
    if not is_file(path):
        raise ConfigError(
            f"A sweep must be a YAML file. Got {str(path)!r}, which does not exist. "
            "tune_configs/ has some to start from."
        )
    tree, places = read_yaml(path)
    own_tree, own_places = read_overrides(overrides)
    for key, value in own_tree.items():
        # A key that is not the sweep's is the run's: `distill.seeds=2`.
        branch = {key: value} if key in SweepConfig.model_fields else {"config": {key: value}}
        tree = overlay(tree, branch)
    for keys, where in own_places.items():
        inside = () if keys[0] in SweepConfig.model_fields else ("config",)
        places[(*inside, *keys)] = where
    if isinstance(tree.get("objective"), dict):
        tree["objective"] = [tree["objective"]]
    settings = validate(tree, places, SweepConfig)
    base_tree, base_places = layers(
        _base(settings, path, places),
        overlay(settings.config, {"name": settings.name}),
        {keys[1:]: where for keys, where in places.items() if keys[0] == "config" and keys[1:]},
    )
    sweep = Sweep(settings=settings, tree=base_tree, places=base_places | places)
    _check(sweep)
    return sweep


def _base(settings: SweepConfig, path: Path, places: Places) -> str | Path:
    beside = path.parent / settings.base
    if settings.base in preset_names() and not is_file(beside):
        return settings.base
    if not is_file(beside):
        near = get_close_matches(settings.base, preset_names(), n=1)
        hint = f"Did you mean {near[0]}?" if near else "Check the path."
        raise ConfigError(
            f"base must be a preset ({', '.join(preset_names())}) or a file beside the sweep. "
            f"Got {settings.base!r}{place(('base',), places)}. {hint}"
        )
    return beside


# -- checking --------------------------------------------------------------------------


def _check(sweep: Sweep) -> None:
    known = {".".join(path) for path in all_paths(Config)}
    for key, domain in sweep.settings.space.items():
        where = place(("space", key), sweep.places)
        _check_key(key, known, where)
        if sweep.settings.search.method == "grid" and domain.values() is None:
            raise ConfigError(
                f"A grid needs values that can be listed. Got {_kind(domain)} for "
                f"{key}{where}. Use grid, choice, quniform or randint, or another method."
            )
        for other in domain.when:
            _check_key(other, known, place(("space", key, "when", other), sweep.places))
            for value in _wanted(domain, other):
                here = {("space", other): sweep.places[("space", key)]}
                replace(sweep, places=sweep.places | here).config({other: value})
    _check_grid(sweep)
    sweep.base  # noqa: B018  raises if the base itself is wrong
    in_order(sweep)
    for key in sweep.settings.space:
        for value in _samples(sweep.settings.space[key]):
            sweep.config({**_condition(sweep, key), key: value})
    _check_objectives(sweep)


def _check_grid(sweep: Sweep) -> None:
    listed = (domain.values() for domain in sweep.settings.space.values())
    points = math.prod(len(values) for values in listed if values is not None)
    if sweep.settings.search.method == "grid" and points > MOST_TRIALS:
        raise ConfigError(
            f"A grid has at most {MOST_TRIALS:,} points. Got {points:,}"
            f"{place(('space',), sweep.places)}. List fewer values, or search at random."
        )


def _check_key(key: str, known: set[str], where: str) -> None:
    if key.split(".")[0] in _FIXED:
        raise ConfigError(
            f"A sweep cannot vary {', '.join(_FIXED)}, which its trials share. "
            f"Got {key}{where}. Set it under config, and make a sweep for each value."
        )
    if key not in known:
        near = get_close_matches(key, sorted(known), n=1)
        last = key.rpartition(".")[2]
        elsewhere = sorted(name for name in known if name.rpartition(".")[2] == last)
        hint = f" Did you mean {(elsewhere or near)[0]}?" if elsewhere or near else ""
        raise ConfigError(f"Unknown key {key}{where}.{hint}")


def in_order(sweep: Sweep) -> list[str]:
    """The keys of the space, each after those that its condition names.

    Raises:
        ConfigError: If conditions go in a circle.
    """
    space = sweep.settings.space
    done: list[str] = []
    left = list(space)
    while left:
        ready = [
            key for key in left if all(o in done or o not in space for o in space[key].when)
        ]
        if not ready:
            raise ConfigError(
                "Conditions must not go in a circle. Got "
                f"{' and '.join(left)}{place(('space', left[0]), sweep.places)}. Remove one."
            )
        done += ready
        left = [key for key in left if key not in done]
    return done


def _condition(sweep: Sweep, key: str) -> Point:
    """Settings under which `key` is varied."""
    point: Point = {}
    domain = sweep.settings.space[key]
    for other in domain.when:
        if other in sweep.settings.space:
            point |= {**_condition(sweep, other), other: _wanted(domain, other)[0]}
    return point


def _wanted(domain: Domain, other: str) -> list[Any]:
    """The values of `other` under which a setting is varied."""
    value = domain.when[other]
    return value if isinstance(value, list) else [value]


def _samples(domain: Domain) -> Iterator[Any]:
    """Every listed value; of a continuum both ends and one between, which is not whole."""
    values = domain.values()
    if values is not None:
        yield from values
        return
    bounds = domain.uniform or domain.loguniform
    assert bounds is not None
    low, high = bounds
    yield from (low, high, low + 0.618034 * (high - low))


def _check_objectives(sweep: Sweep) -> None:
    metrics = [objective.metric for objective in sweep.settings.objective]
    where = place(("objective",), sweep.places)
    if "score" in metrics and not sweep.base.evaluate.episodes:
        raise ConfigError(
            f"objective: score needs evaluate.episodes. Got 0{where}. Raise it, or use the "
            "metric offline."
        )
    if "offline" in metrics and sweep.base_value("evaluate.offline") is False:
        raise ConfigError(
            f"objective: offline needs evaluate.offline. Got false{where}. Set it to true."
        )
    if metrics == ["cpu_seconds"]:
        raise ConfigError(
            f"cpu_seconds alone would name the cheapest setting{where}. Put score or offline "
            "before it."
        )


def _kind(domain: Domain) -> str:
    return next(iter(domain.model_dump(exclude_none=True, exclude_defaults=True)))


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value
