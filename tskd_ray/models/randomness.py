"""Libraries that draw from torch's global generator, made functions of a seed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch


@contextmanager
def own_generator(seed: int) -> Generator[None]:
    """Torch's global generator begins at `seed` inside; outside, nothing changes."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
