"""From YAML and `section.key=value` to a `Config`, or to one line that says what is wrong.

A configuration is made of layers, each laid over the one before: the schema's defaults, the
preset that `preset:` names, the file, the overrides. Every value remembers which file and line,
or which override, it came from, so that an error can point there.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, overload

import yaml
from pydantic import BaseModel, ValidationError

from tskd_ray.config.document import (
    MAX_CHARACTERS,
    MAX_DEPTH,
    KeyPath,
    read_document,
    too_large,
)
from tskd_ray.config.schema import Config
from tskd_ray.errors import ConfigError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

PRESETS = Path(__file__).parent.parent / "presets"
Root = TypeVar("Root", bound=BaseModel)
Places = dict[KeyPath, str]
"""Where each value was written: `file.yaml:12`, or the override itself."""

_DATASET = re.compile(r"^builtin:|\.(hdf5|h5|parquet)$|^([-\w]+/)+[-\w]+-v\d+$")  # by its name
_OVERRIDE = re.compile(r"[A-Za-z_]\w*(\.\w+)*=")


def load_config(source: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a run.

    Args:
        source: A YAML file, or the name of a preset; None: the quick start.
        overrides: `section.key=value`, the value being YAML. They win over the file.

    Raises:
        ConfigError: If a file, a key or a value is wrong. One line with the dotted path, the
            rule, what came, and where it was written.
    """
    return validate(*layers(source, *read_overrides(overrides)))


def layers(
    source: str | Path | None, own_tree: dict[str, Any], own_places: Places
) -> tuple[dict[str, Any], Places]:
    """All settings, unchecked, and where each was written: `own_tree` laid over `source`.

    Raises:
        ConfigError: If the file or the preset cannot be read.
    """
    file_tree, places = _read_source(source)
    own_tree = dict(own_tree)
    preset = own_tree.pop("preset", file_tree.pop("preset", None))
    # The whole tree of defaults lies lowest: `distill: {fit: {steps: 5}}` must keep the rest of
    # distill.fit's own defaults, where Pydantic would take those of any FitConfig.
    tree = Config().model_dump(mode="json")
    below: list[tuple[dict[str, Any], Places]] = []
    while preset is not None:  # a preset may be laid over another one
        below.append(read_yaml(_preset_path(preset, places | own_places)))
        preset = below[-1][0].pop("preset", None)
    for preset_tree, preset_places in reversed(below):
        tree = overlay(tree, preset_tree)
        places = preset_places | places
    return overlay(overlay(tree, file_tree), own_tree), places | own_places


def config_to_yaml(config: Config) -> str:
    """All settings as YAML; `load_config` of it gives the same configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def preset_names() -> list[str]:
    """Names of the shipped presets."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def is_override(argument: str) -> bool:
    """Whether a command-line argument reads `section.key=value`."""
    return _OVERRIDE.match(argument) is not None


# -- reading ---------------------------------------------------------------------------


def _read_source(source: str | Path | None) -> tuple[dict[str, Any], Places]:
    if source is None:
        source = "quickstart"
    if isinstance(source, str) and source in preset_names() and not is_file(Path(source)):
        return {"preset": source}, {}
    if _DATASET.search(str(source)):
        raise ConfigError(
            f"The configuration must be a YAML file or a preset ({', '.join(preset_names())}). "
            f"Got {_short(source)}. To use a dataset write data.source={str(source)[:200]}."
        )
    return read_yaml(Path(source))


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have is none's."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def read_yaml(path: Path) -> tuple[dict[str, Any], Places]:
    """A file's mapping, and the line of each key.

    Raises:
        ConfigError: If it does not exist, or is not YAML of unique text keys.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)  # of a device there is no end
    except FileNotFoundError:
        raise ConfigError(
            f"The configuration must be a YAML file or a preset ({', '.join(preset_names())}). "
            f"Got {_short(path)}, which does not exist."
            f"{_did_you_mean(str(path), preset_names()) or ' Check the path.'}"
        ) from None
    except (OSError, ValueError) as error:  # a name may hold what no file name can
        raise ConfigError(
            f"The configuration must be a readable text file. Got {_short(path)}: "
            f"{_flat(getattr(error, 'strerror', None) or error)}."
        ) from None
    return _parse(text, str(path))


def read_overrides(overrides: Sequence[str]) -> tuple[dict[str, Any], Places]:
    """What `section.key=value` arguments set.

    Raises:
        ConfigError: If one does not read so.
    """
    tree: dict[str, Any] = {}
    places: Places = {}
    for override in overrides:
        if not is_override(override):
            raise ConfigError(
                "An override must read section.key=value. "
                f"Got {_short(override)}. Write for example stitch.epochs=3."
            )
        dotted, _, text = override.partition("=")
        where = f"override {_short(override)}"
        branch = _parse_value(text, where)
        keys = tuple(dotted.split("."))
        if len(keys) > MAX_DEPTH:
            raise too_large(where)
        for key in reversed(keys):
            branch = {key: branch}
        tree = overlay(tree, branch)
        places[keys] = where
    return tree, places


def _parse(text: str, name: str) -> tuple[dict[str, Any], Places]:
    try:
        tree, places = read_document(text, lambda line: f"{name}:{line}")
    except yaml.YAMLError as error:
        raise ConfigError(
            f"A configuration must be valid YAML. Got {name}{_yaml_problem(error)}. "
            "Mend that line."
        ) from None
    if tree is None and not places:
        return {}, {}
    if not isinstance(tree, dict):
        kind = "sequence" if isinstance(tree, list) else "scalar"
        raise ConfigError(
            f"A configuration must be a mapping of sections. Got a {kind} in {name}. "
            "Write for example 'stitch: {epochs: 2}'."
        )
    return tree, places


def _parse_value(text: str, where: str) -> Any:
    try:
        return read_document(text, lambda _: where)[0]
    except yaml.YAMLError:
        raise ConfigError(
            f"The value of an override must be YAML. Got {where.removeprefix('override ')}. "
            "Check brackets and quotes."
        ) from None


def _yaml_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f":{error.problem_mark.line + 1}: {_flat(error.problem)}"
    return f": {_flat(error)}"


def _preset_path(preset: object, places: Places) -> Path:
    names = preset_names()
    if preset not in names:
        raise ConfigError(
            f"preset must be one of {', '.join(names)}. "
            f"Got {_short(preset)}{place(('preset',), places)}."
            f"{_did_you_mean(str(preset), names)}"
        )
    return PRESETS / f"{preset}.yaml"


def overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`; mappings merge, everything else replaces."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            value = overlay(old, value)
        merged[key] = value
    return merged


# -- checking --------------------------------------------------------------------------


@overload
def validate(tree: dict[str, Any], places: Places) -> Config: ...
@overload
def validate(tree: dict[str, Any], places: Places, root: type[Root]) -> Root: ...
def validate(tree: dict[str, Any], places: Places, root: type[BaseModel] = Config) -> BaseModel:
    """`tree` as a `root`, by default the settings of a run.

    Raises:
        ConfigError: If an unknown key or a value breaks a rule; says where it was written.
    """
    _check_finite(tree, places)
    try:
        # Through JSON, since strict validation of Python values refuses a list for a tuple.
        return root.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        details = error.errors(include_url=False)
    # A misspelt key can make others fail, so it is told first.
    found = (_problem(detail, root) for detail in details)
    problems = sorted(found, key=lambda problem: not problem.unknown)
    first = problems[0]
    alike = {problem.path for problem in problems if problem.unknown or not first.unknown}
    others = len(alike - {first.path})
    more = f" ({others} more in this configuration.)" if others else ""
    if first.unknown:
        raise ConfigError(_unknown_key(first, places, root) + more)
    rules = [problem.rule for problem in problems if problem.path == first.path]
    raise ConfigError(_bad_value(first, rules, places) + more)


def _check_finite(value: object, places: Places, path: KeyPath = ()) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_finite(item, places, (*path, str(key)))
    elif isinstance(value, list):
        for item in value:
            _check_finite(item, places, path)
    elif isinstance(value, int | float) and not abs(value) <= sys.float_info.max:
        raise ConfigError(
            f"{'.'.join(path)} must be a finite number. Got {str(value)[:60]}"
            f"{place(path, places)}."
        )


@dataclass(frozen=True)
class _Problem:
    """One complaint of Pydantic's, in the user's terms."""

    path: KeyPath
    rule: str
    value: object
    unknown: bool  # the key itself, not its value
    section: type[BaseModel]  # where the last key of the path was looked up


def _problem(details: ErrorDetails, root: type[BaseModel]) -> _Problem:
    """Pydantic's locations also name branches of unions and positions in tuples; drop those."""
    parts = [part for part in details["loc"] if isinstance(part, str)]
    unknown = details["type"] == "extra_forbidden"
    section = root
    path: list[str] = []
    chosen = False  # a key of the user's comes next, as in a mapping of sections
    for part in parts:
        if chosen:
            path.append(part)
            chosen = False
        elif part in section.model_fields:
            path.append(part)
            annotation = section.model_fields[part].annotation
            below = _section_of(annotation)
            if below is None:
                break
            section, chosen = below, get_origin(annotation) is dict
    if unknown:
        path.append(parts[-1])
    return _Problem(tuple(path), details["msg"], details["input"], unknown, section)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, alone or as one branch of a union."""
    for branch in (annotation, *get_args(annotation)):
        if isinstance(branch, type) and issubclass(branch, BaseModel):
            return branch
    return None


def _unknown_key(problem: _Problem, places: Places, root: type[BaseModel]) -> str:
    *above, key = problem.path
    siblings = list(problem.section.model_fields)
    near = get_close_matches(key, siblings, n=1)
    if near:
        suggestion = ".".join((*above, near[0]))
    else:
        # The right key in the wrong section is as common as a misspelling.
        everywhere = {path[-1]: ".".join(path) for path in all_paths(root)}
        elsewhere = get_close_matches(key, list(everywhere), n=1)
        suggestion = everywhere[elsewhere[0]] if elsewhere else ""
    hint = (
        f"Did you mean {suggestion}?" if suggestion else f"Valid here: {', '.join(siblings)}."
    )
    return f"Unknown key {'.'.join(problem.path)}{place(problem.path, places)}. {hint}"


def _bad_value(problem: _Problem, rules: Sequence[str], places: Places) -> str:
    if rules[0].startswith("Value error, "):  # a rule of ours, between fields
        rule = rules[0].removeprefix("Value error, ")
        if rule.endswith("."):
            return rule
        return f"{'.'.join(problem.path)} must {rule}{place(problem.path, places)}."
    # Pydantic writes "Input should be …", "String should match …", "Field required".
    musts = [_flat(rule).rpartition("should ")[2] for rule in dict.fromkeys(rules)]
    must = " or ".join(musts).replace("an object", "a mapping")
    must = must.replace("Field required", "have all its items")
    hint = " Put it in quotes." if must == "be a valid string" else ""
    return (
        f"{'.'.join(problem.path)} must {must}. "
        f"Got {_show(problem.value)}{place(problem.path, places)}.{hint}"
    )


def all_paths(section: type[BaseModel], above: KeyPath = ()) -> Iterator[KeyPath]:
    """Every key that a section may hold, with those of the sections in it."""
    for name, field in section.model_fields.items():
        yield (*above, name)
        below = _section_of(field.annotation)
        if below is not None:
            yield from all_paths(below, (*above, name))


def place(path: KeyPath, places: Places) -> str:
    """` in file.yaml:12`, of the longest known part of the path; empty if none is."""
    for length in range(len(path), 0, -1):
        if path[:length] in places:
            return f" in {places[path[:length]]}"
    return ""


def _did_you_mean(given: str, names: Sequence[str]) -> str:
    near = get_close_matches(given, names, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _show(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _short(value: object) -> str:
    """What the user wrote, in quotes, its middle left out if it is long."""
    text = str(value)
    return repr(text if len(text) <= 200 else f"{text[:150]}...{text[-40:]}")


def _flat(message: object) -> str:
    return " ".join(str(message).split()).rstrip(".")
