"""How many threads torch computes on."""

from __future__ import annotations

import contextlib
from collections.abc import Generator


@contextlib.contextmanager
def torch_threads(threads: int) -> Generator[None]:
    """Exactly that many inside, as before outside: they change the last bits of results."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
