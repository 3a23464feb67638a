"""How the diffusion networks compute: number format and compilation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tskd_ray.config.schema import ComputeConfig


@dataclass(frozen=True)
class Inference:
    """A network to call without gradients, and the batch sizes it is to be called with."""

    network: Callable[..., Tensor]
    few_shapes: bool

    def rows(self, batch: int) -> int:
        """Size to fill a batch up to: each new size is compiled and captured anew."""
        return 1 << (batch - 1).bit_length() if self.few_shapes else batch


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
        return self._cast(network, torch.compile(network) if self.compile else network)

    def inference(self, network: nn.Module) -> Inference:
        """The same without gradients; what is compiled is also captured, as CUDA graphs."""
        if not self.compile:
            return Inference(self._cast(network, network), few_shapes=False)
        call = torch.compile(network, mode="reduce-overhead", dynamic=False)
        return Inference(self._cast(network, call), few_shapes=True)

    def _cast(self, network: nn.Module, call: Any) -> Callable[..., Tensor]:
        if self.precision == "float32":
            return call
        device = next(network.parameters()).device.type

        def run(*inputs: Tensor) -> Tensor:
            with torch.autocast(device, torch.bfloat16):
                return call(*inputs).float()

        return run
