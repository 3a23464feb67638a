"""Processes that train the same weights, each on its part of every batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Ranks:
    """This process among those of the default `torch.distributed` group."""

    rank: int
    size: int

    @classmethod
    def joined(cls) -> Ranks:
        """Of the group that has been initialised."""
        return cls(distributed.get_rank(), distributed.get_world_size())

    def part(self, rows: int) -> slice:
        """This process's rows of a batch; all parts together are the batch, in order."""
        return slice(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Sums over all processes, in one message of one layout, so that bits are the same."""
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        pieces = flat.split([tensor.numel() for tensor in tensors])
        return [piece.view(tensor.shape) for piece, tensor in zip(pieces, tensors, strict=True)]

    def take_first(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite these by those of the first process."""
        for tensor in tensors:
            distributed.broadcast(tensor, 0)
