"""A conditional diffusion model over windows of rows: network, noise schedule, loss, sampling.

B batch · H horizon · C channels of a row · K channels of context
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tskd_ray.config.schema import SamplerConfig, UNetConfig
from tskd_ray.diffusion.guidance import guided
from tskd_ray.diffusion.samplers import SAMPLERS
from tskd_ray.diffusion.schedule import cosine_alpha_bar
from tskd_ray.models.temporal_unet import TemporalUNet
from tskd_ray.types import Float32Array


@dataclass(frozen=True, kw_only=True)
class Example:
    """Training windows."""

    rows: Float32Array  # (B, H, C) clean x
    clamped: Tensor | np.ndarray  # (B, H, C) bool: known entries, given clean at every step
    weight: Float32Array  # (B, H, C) of the loss; 0 where clamped or padded
    context: Float32Array  # (B, K)
    condition: Float32Array  # (B,) scaled return y


class ConditionalDiffusion(nn.Module):
    """ε- or v-prediction with classifier-free guidance dropout (eq. 6)."""

    def __init__(
        self,
        *,
        channels: int,
        context_channels: int,
        unet: UNetConfig,
        diffusion_steps: int,
        prediction: str,
        clip: float,
    ) -> None:
        super().__init__()
        self.network = TemporalUNet(channels + context_channels, channels, unet)
        self.alpha_bar = cosine_alpha_bar(diffusion_steps)
        self.prediction, self.clip, self.channels = prediction, clip, channels

    def loss(
        self,
        example: Example,
        dropout: float,
        rng: torch.Generator,
        network: Callable[..., Tensor] | None = None,
        part: slice = slice(None),
    ) -> Tensor:
        """Weighted mean squared error of the prediction (eq. 6), a scalar.

        Args:
            example: B windows.
            dropout: Probability that a window's condition is left out.
            rng: Draws noise levels, noise and dropout.
            network: How to call the network; default: as it is. See `Arithmetic.forward`.
            part: Windows to compute the loss of. The losses of parts that make up the batch
                add up to that of the batch: noise and total weight are the batch's.
        """
        network = network or self.network
        device = next(self.parameters()).device

        def there(tensor: Tensor) -> Tensor:
            tensor = tensor[part]
            # From pinned memory the copy waits for nothing that the device has yet to do.
            return (
                tensor.pin_memory().to(device, non_blocking=True)
                if device.type == "cuda"
                else tensor
            )

        x0 = torch.from_numpy(example.rows)
        batch = len(x0)
        i = torch.randint(len(self.alpha_bar), (batch,), generator=rng)
        epsilon = torch.randn(x0.shape, generator=rng)
        keep = (torch.rand(batch, generator=rng) >= dropout).float()
        a = torch.from_numpy(self.alpha_bar.astype(np.float32))[i][:, None, None]
        signal, noise = a.sqrt(), (1 - a).sqrt()
        x = signal * x0 + noise * epsilon
        x = torch.where(torch.as_tensor(example.clamped), x0, x)
        target = epsilon if self.prediction == "noise" else signal * epsilon - noise * x0
        predicted = network(
            there(self._with_context(x, torch.from_numpy(example.context))),
            there(i),
            there(torch.from_numpy(example.condition)),
            there(keep),
        )
        weight = torch.from_numpy(example.weight)
        return (there(weight) * (predicted - there(target)) ** 2).sum() / weight.sum()

    @torch.no_grad()
    def sample(
        self,
        *,
        known: Float32Array,
        clamped: np.ndarray,
        context: Float32Array,
        condition: Float32Array,
        rngs: list[np.random.Generator],
        sampler: SamplerConfig,
    ) -> Float32Array:
        """Denoise one window per row of `known`, each under its own random stream.

        Args:
            known: Values of the clamped entries, (B, H, C).
            clamped: Which entries those are, (B, H, C) bool.
            context: (B, K).
            condition: Scaled return y, (B,).
            rngs: B generators; a window's noise does not depend on its neighbours in the batch.
            sampler: Which sampler, how many steps, guidance and temperature.

        Returns:
            x̂₀, (B, H, C); clamped entries are bit-identical to `known`.
        """
        device = next(self.parameters()).device
        known_t = torch.from_numpy(known).to(device)
        clamped_t = torch.from_numpy(clamped).to(device)
        context_t = torch.from_numpy(context).to(device)
        condition_t = torch.from_numpy(condition).to(device)
        shape = known.shape[1:]

        def noise() -> Tensor:
            drawn = np.empty(known.shape, dtype=np.float32)
            for row, rng in enumerate(rngs):
                rng.standard_normal(out=drawn[row], dtype=np.float32)
            return torch.from_numpy(drawn).to(device)

        def predict(x: Tensor, step: Tensor, y: Tensor, keep: Tensor) -> Tensor:
            repeat = len(x) // len(context_t)
            return self.network(
                self._with_context(x, context_t.repeat(repeat, 1)), step, y, keep
            )

        def denoise(x: Tensor, i: int) -> Tensor:
            output = guided(predict, x, i, condition_t, sampler.guidance)
            a = float(self.alpha_bar[i])
            if self.prediction == "noise":
                x0 = (x - math.sqrt(1 - a) * output) / math.sqrt(a)
            else:
                x0 = math.sqrt(a) * x - math.sqrt(1 - a) * output
            return x0.clamp(-self.clip, self.clip)

        assert len(shape) == 2
        scale = sampler.temperature
        x0 = SAMPLERS[sampler.name](
            denoise,
            self.alpha_bar,
            sampler.steps,
            noise=noise,
            clamp=lambda x: torch.where(clamped_t, known_t, x),
            std=math.sqrt(scale) if sampler.temperature_on == "variance" else scale,
        )
        return x0.cpu().numpy()

    def _with_context(self, x: Tensor, context: Tensor) -> Tensor:
        if not context.shape[1]:
            return x
        return torch.cat([x, context[:, None].expand(-1, x.shape[1], -1)], dim=-1)
