"""One random stream per (run seed, stage, item), whatever worker draws from it.

Reasons: docs/decisions/002.
Nothing in tskd_ray draws from a global generator: a stream is a pure function of its key, so
the same configuration gives the same bytes with any number of workers, killed or not.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def seed_sequence(seed: int, *key: str | int) -> np.random.SeedSequence:
    """The seed sequence of a key such as `(seed, "generate", epoch, trajectory_id)`.

    The key is hashed as text with separators, so ("a", 1) and ("a1",) differ.
    """
    digest = hashlib.sha256("\x1f".join(str(part) for part in key).encode()).digest()
    words = np.frombuffer(digest[:16], dtype="<u4")
    return np.random.SeedSequence(seed, spawn_key=tuple(int(word) for word in words))


def numpy_rng(seed: int, *key: str | int) -> np.random.Generator:
    """A counter-based (Philox) NumPy generator for the key."""
    return np.random.Generator(np.random.Philox(seed_sequence(seed, *key)))


def torch_rng(seed: int, *key: str | int) -> torch.Generator:
    """A CPU torch generator for the key."""
    import torch

    state = seed_sequence(seed, *key).generate_state(1, dtype=np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def seed_number(seed: int, *key: str | int) -> int:
    """A number below 2^32 for the key, for code that takes a seed and no generator."""
    return int(seed_sequence(seed, *key).generate_state(1)[0])
