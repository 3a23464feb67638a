"""Processes of the tests' own cluster, by what Ray calls them (Linux: /proc); ports."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path


def below_this_process(title: str) -> list[int]:
    """Ids of the processes that this one started, at any depth, whose title begins so."""
    parents: dict[int, int] = {}
    titles: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended while we looked
            # the name, in parentheses, may hold spaces; the parent is second behind it
            after_name = (folder / "stat").read_text().rpartition(")")[2].split()
            titles[int(folder.name)] = (folder / "cmdline").read_text(errors="replace")
            parents[int(folder.name)] = int(after_name[1])
    return [
        pid
        for pid, found in titles.items()
        if found.startswith(title) and os.getpid() in _ancestors(pid, parents)
    ]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in held]
    for one in held:
        one.close()
    return ports


def _ancestors(pid: int, parents: dict[int, int]) -> set[int]:
    found: set[int] = set()
    while (pid := parents.get(pid, 0)) and pid not in found:
        found.add(pid)
    return found
