"""Temporal U-Net of Diffuser (Janner et al. 2022), in the size of the Decision Diffuser.

B batch · C channels · H horizon · E embedding
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tskd_ray.config.schema import UNetConfig

GROUPS = 8


class TemporalUNet(nn.Module):
    """Predicts noise (or velocity) for a window of rows, given diffusion step and return.

    Any horizon works: the network pads inside to a multiple of its total stride and crops (D2).

    Args:
        in_channels: Channels of a row of x, and of the context beside it.
        out_channels: Channels of a row of x.
        config: Widths.
    """

    def __init__(self, in_channels: int, out_channels: int, config: UNetConfig) -> None:
        super().__init__()
        width, kernel = config.embedding_width, config.kernel_size
        self.time_mlp = nn.Sequential(
            SinusoidalEmbedding(width), nn.Linear(width, 4 * width), nn.Mish(),
            nn.Linear(4 * width, width),
        )  # fmt: skip
        self.return_mlp = nn.Sequential(
            nn.Linear(1, width), nn.Mish(), nn.Linear(width, 4 * width), nn.Mish(),
            nn.Linear(4 * width, width),
        )  # fmt: skip
        widths = [in_channels, *(config.base_width * m for m in config.multipliers)]
        pairs = list(pairwise(widths))
        embedding = 2 * width

        self.downs = nn.ModuleList()
        for level, (before, after) in enumerate(pairs):
            last = level == len(pairs) - 1
            self.downs.append(
                nn.ModuleList([
                    ResidualBlock(before, after, embedding, kernel),
                    ResidualBlock(after, after, embedding, kernel),
                    nn.Identity() if last else nn.Conv1d(after, after, 3, stride=2, padding=1),
                ])
            )  # fmt: skip
        top = widths[-1]
        self.middle = nn.ModuleList(
            ResidualBlock(top, top, embedding, kernel) for _ in range(2)
        )
        self.ups = nn.ModuleList()
        for before, after in reversed(pairs[1:]):
            self.ups.append(
                nn.ModuleList([
                    ResidualBlock(2 * after, before, embedding, kernel),
                    ResidualBlock(before, before, embedding, kernel),
                    nn.ConvTranspose1d(before, before, 4, stride=2, padding=1),
                ])
            )  # fmt: skip
        first = widths[1]
        self.final = nn.Sequential(
            ConvBlock(first, first, kernel), nn.Conv1d(first, out_channels, 1)
        )
        self.stride = 2 ** (len(pairs) - 1)

    def embed(self, step: Tensor, condition: Tensor, keep: Tensor) -> Tensor:
        """What every block is told: diffusion step, return and whether to use it; (B, E)."""
        return torch.cat(
            [self.time_mlp(step), self.return_mlp(condition[:, None]) * keep[:, None]], dim=-1
        )

    def forward(self, x: Tensor, step: Tensor, condition: Tensor, keep: Tensor) -> Tensor:
        """One prediction.

        Args:
            x: Rows and their context, (B, H, in_channels).
            step: Diffusion step i, (B,) integers.
            condition: Scaled return y, (B,).
            keep: 1 to use the condition, 0 to drop it, (B,); dropping zeroes its embedding.

        Returns:
            (B, H, out_channels).
        """
        embedding_BE = self.embed(step, condition, keep)
        horizon = x.shape[1]
        x_BCH = F.pad(x.transpose(1, 2), (0, -horizon % self.stride))
        skips: list[Tensor] = []
        for first, second, shrink in self.downs:  # pyright: ignore[reportGeneralTypeIssues]
            x_BCH = second(first(x_BCH, embedding_BE), embedding_BE)
            skips.append(x_BCH)
            x_BCH = shrink(x_BCH)
        for block in self.middle:
            x_BCH = block(x_BCH, embedding_BE)
        for first, second, grow in self.ups:  # pyright: ignore[reportGeneralTypeIssues]
            x_BCH = torch.cat([x_BCH, skips.pop()], dim=1)
            x_BCH = grow(second(first(x_BCH, embedding_BE), embedding_BE))
        return self.final(x_BCH)[:, :, :horizon].transpose(1, 2)


class SinusoidalEmbedding(nn.Module):
    """Sines and cosines of the diffusion step at geometric frequencies."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.register_buffer(
            "frequencies",
            torch.exp(torch.arange(half) * (-math.log(10_000) / (half - 1))),
            persistent=False,
        )

    def forward(self, step: Tensor) -> Tensor:
        """(B,) to (B, width)."""
        angles = step[:, None].float() * self.frequencies[None]
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class ConvBlock(nn.Sequential):
    """Conv1d → GroupNorm → Mish."""

    def __init__(self, before: int, after: int, kernel: int) -> None:
        super().__init__(
            nn.Conv1d(before, after, kernel, padding=kernel // 2),
            nn.GroupNorm(GROUPS, after),
            nn.Mish(),
        )


class ResidualBlock(nn.Module):
    """Two blocks with the embedding added between them, and a shortcut."""

    def __init__(self, before: int, after: int, embedding: int, kernel: int) -> None:
        super().__init__()
        self.first = ConvBlock(before, after, kernel)
        self.second = ConvBlock(after, after, kernel)
        self.embed = nn.Sequential(nn.Mish(), nn.Linear(embedding, after))
        self.shortcut = nn.Conv1d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, before, H) to (B, after, H)."""
        hidden = self.first(x) + self.embed(embedding)[:, :, None]
        return self.second(hidden) + self.shortcut(x)
