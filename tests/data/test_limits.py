from __future__ import annotations

import pytest

from tskd_ray.data.limits import check_size
from tskd_ray.errors import DataError


def test_plausible_sizes_pass() -> None:
    check_size(10**6, 10**6, what="a")
    check_size(10**6, 0, what="small and unwritten")
    check_size(10**9, 10**6, what="as dense as deflate gets")


def test_a_claim_beyond_any_compression() -> None:
    with pytest.raises(DataError, match="big declares 10,000,000,000 bytes and stores 1,000"):
        check_size(10**10, 1000, what="big")


def test_more_than_memory() -> None:
    with pytest.raises(DataError, match=r"fit into memory. huge takes"):
        check_size(10**16, 10**16, what="huge")
