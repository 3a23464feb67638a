"""The pages' templates, and what they may say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def template(name: str, filters: Mapping[str, Any] | None = None) -> Template:
    """A template of this package; all text is escaped, an unknown name is an error.

    Args:
        name: Its file, such as "report.html.j2".
        filters: Functions that it may write a value with, by name.
    """
    environment = Environment(
        loader=PackageLoader("tskd_ray.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters or {})
    return environment.get_template(name)
