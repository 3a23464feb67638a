"""How the diffusion networks compute: number format and compilation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tskd_ray.config.schema import ComputeConfig


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """Of a network's passes; weights, sums over them and what comes out stay float32."""

    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False

    @classmethod
    def of(cls, compute: ComputeConfig) -> Arithmetic:
        """As configured."""
        return cls(precision=compute.precision, compile=compute.compile)

    def forward(self, network: nn.Module) -> Callable[..., Tensor]:
        """`network` as a function of tensors on its device; make it once, call it often."""
        call: Any = torch.compile(network) if self.compile else network
        if self.precision == "float32":
            return call
        device = next(network.parameters()).device.type

        def run(*inputs: Tensor) -> Tensor:
            with torch.autocast(device, torch.bfloat16):
                return call(*inputs).float()

        return run
