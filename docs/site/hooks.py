"""What MkDocs cannot: pages that may be absent, links out of the docs, help of commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

DOCS = Path(__file__).parent.parent
MARK = "<!-- every command's help -->"


def on_config(config: Any, **_: Any) -> Any:
    """Leave out pages that are not there, list those of folders, name what nav does not."""
    config.nav = [entry for item in config.nav for entry in _present(item)]
    named = set(re.findall(r"'([^']+\.md)'", repr(config.nav)))
    rest = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.glob("*.md"))
    config.nav += [page for page in rest if page not in named]
    return config


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Links to files of the repository become their text; commands tell their help."""
    place = (DOCS / page.file.src_uri).parent

    def inside(link: re.Match[str]) -> str:
        text, target = link.groups()
        leaves = DOCS not in ((place / target).resolve(), *(place / target).resolve().parents)
        return text if leaves else link[0]

    markdown = re.sub(r"\[([^\]]*)\]\((?!https?:|#)([^)\s#]+)\)", inside, markdown)
    return markdown.replace(MARK, "\n".join(_help()))


def _present(item: Any) -> list[Any]:
    if isinstance(item, str):
        return [item] if (DOCS / item).is_file() else []
    ((title, below),) = item.items()
    if isinstance(below, list):
        return [{title: [entry for child in below for entry in _present(child)]}]
    if (DOCS / below).is_dir():
        pages = sorted(
            path.relative_to(DOCS).as_posix() for path in (DOCS / below).glob("*.md")
        )
        return [{title: pages}]
    return [item] if (DOCS / below).is_file() else []


def _help() -> list[str]:
    from tskd_ray.cli import cli

    lines: list[str] = []

    def tell(command: click.Command, name: str, above: click.Context | None) -> None:
        context = click.Context(command, info_name=name, parent=above, terminal_width=88)
        lines.extend(
            [f"## {context.command_path}", "", "```text", command.get_help(context), "```", ""]
        )
        if isinstance(command, click.Group):
            for below in command.list_commands(context):
                tell(command.commands[below], below, context)

    tell(cli, "tskd", None)
    return lines
