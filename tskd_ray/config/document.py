"""YAML text as plain values and where each key was written, within bounds of memory and time.

A text may be hostile: a few aliases that stand for billions of values, nesting without end,
tags that make objects, numbers of a million digits. Real configurations are far below each
bound, and what comes out is what JSON knows: text, numbers, true, false, null, lists and
mappings of text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

from tskd_ray.errors import ConfigError

KeyPath = tuple[str, ...]
At = Callable[[int], str]
"""What a line of the text, from 1, is called in messages."""

MAX_DEPTH = 50
MAX_VALUES = 10_000  # keys and values, each alias counted as what it stands for
MAX_CHARACTERS = 1_000_000
_MAX_KEY = 100
_MAX_NUMBER = 400  # characters; the largest float has 309 digits
_TEXT = "tag:yaml.org,2002:str"
_NOT_JSON = ("binary", "omap", "pairs", "set", "timestamp")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML has it, but `1e6` and `2e-4` are numbers and dates stay text."""

    def __init__(self, text: str, at: At) -> None:
        super().__init__(text)
        self._at = at
        self._depth = self._values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        self._values += 1
        if self._depth > MAX_DEPTH or self._values > MAX_VALUES:
            raise too_large(self._at(self.line + 1))
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: Any, deep: Any = False) -> Any:
        scalar = isinstance(node, yaml.ScalarNode)
        if scalar and node.tag != _TEXT and len(node.value) > _MAX_NUMBER:
            raise _unreadable(node)  # PyYAML's sums in base 60 take quadratic time
        try:
            value = super().construct_object(node, deep=deep)
            if isinstance(value, str):
                value.encode()  # half of a surrogate pair is no text
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
            # what PyYAML does at `!!bool maybe`, `!!int x` and `0x_`
            raise _unreadable(node) from None
        return value


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.yaml_constructors = {
    tag: constructor
    for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] not in _NOT_JSON
}


def _exponent(loader: _Loader, node: yaml.ScalarNode) -> int | float:
    value = float(loader.construct_scalar(node))
    return int(value) if value.is_integer() else value


_Loader.add_implicit_resolver(
    "!exponent", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)
_Loader.add_constructor("!exponent", _exponent)


def read_document(text: str, at: At) -> tuple[Any, dict[KeyPath, str]]:
    """The value that a YAML text stands for, None if it is empty, and the place of each key.

    Raises:
        ConfigError: If a key is no text or given twice, or the text exceeds a bound.
        yaml.YAMLError: If it is no YAML, or has tags of other than JSON's values.
    """
    if len(text) > MAX_CHARACTERS:
        raise too_large(at(1))
    loader = _Loader(text, at)
    try:
        root = loader.get_single_node()
        if root is None:
            return None, {}
        keys = _Keys(at)
        keys.visit(root, ())
        return loader.construct_document(root), keys.places
    finally:
        loader.dispose()


def too_large(where: str) -> ConfigError:
    """Of a document beyond the bounds."""
    return ConfigError(
        f"A configuration has at most {MAX_CHARACTERS:,} characters, {MAX_VALUES:,} values and "
        f"{MAX_DEPTH} levels, aliases counted as what they stand for. Got more in {where}. "
        "Shorten it."
    )


class _Keys:
    """A walk over a document as aliases expand it: a loop of them is nesting without end."""

    def __init__(self, at: At) -> None:
        self.places: dict[KeyPath, str] = {}
        self._at = at
        self._values = 0

    def visit(self, node: yaml.Node, path: KeyPath | None, depth: int = 1) -> None:
        """Note the keys below `node`; `path` is None within a list, whose keys have no name."""
        self._values += 1
        if self._values > MAX_VALUES or depth > MAX_DEPTH:
            raise too_large(self._at(_line(node)))
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self.visit(item, None, depth + 1)
        elif isinstance(node, yaml.MappingNode):
            self._visit_mapping(node, path, depth)

    def _visit_mapping(
        self, mapping: yaml.MappingNode, path: KeyPath | None, depth: int
    ) -> None:
        seen: dict[str, int] = {}
        for key_node, value_node in mapping.value:
            key, line = self._key(key_node), _line(key_node)
            below = None if path is None else (*path, key)
            if key in seen:
                raise ConfigError(
                    f"A key may be given once. Got {'.'.join(below or (key,))} in "
                    f"{self._at(seen[key])} and again in line {line}. Remove one."
                )
            seen[key] = line
            if below is not None:
                self.places[below] = self._at(line)
            self.visit(value_node, below, depth + 1)

    def _key(self, node: yaml.Node) -> str:
        where = self._at(_line(node))
        if not isinstance(node, yaml.ScalarNode):
            raise ConfigError(
                f"Keys must be text. Got a {_kind(node)} in {where}. Check the key."
            )
        key = str(node.value)
        if len(key) > _MAX_KEY or not key.isprintable():
            raise ConfigError(
                f"Keys must be words of at most {_MAX_KEY} characters. Got {key[:40]!r} in "
                f"{where}. Check the key."
            )
        if node.tag != _TEXT:
            raise ConfigError(
                f"Keys must be text. Got {key} in {where}. Put it in quotes, or check the key."
            )
        return key


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _kind(node: yaml.Node) -> str:
    return "sequence" if isinstance(node, yaml.SequenceNode) else "mapping"


def _unreadable(node: yaml.Node) -> yaml.YAMLError:
    kind = node.tag.rpartition(":")[2]
    shown = repr(node.value)[:40] if isinstance(node, yaml.ScalarNode) else f"a {_kind(node)}"
    problem = f"cannot read {shown} as {kind[:40]!r}"
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
