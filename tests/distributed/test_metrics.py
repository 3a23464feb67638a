"""Metrics of work that no cluster does."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from tskd_ray.distributed.metrics import count_lost_worker


def test_nothing_is_counted_while_another_thread_imports_ray(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    count_lost_worker(run="a", stage="generate-1")
