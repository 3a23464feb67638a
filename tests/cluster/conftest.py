"""A head that the tests of jobs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ray_head import Head, running_head


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """Its two CPUs are free between tests."""
    with running_head() as head:
        yield head
