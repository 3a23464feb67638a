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
from tskd_ray.diffusion.guidance import Predict, guided
from tskd_ray.diffusion.samplers import SAMPLERS
from tskd_ray.diffusion.schedule import cosine_alpha_bar, sampling_steps
from tskd_ray.models.arithmetic import Arithmetic, Inference
from tskd_ray.models.compiled_unet import CompiledUNet
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


@dataclass(frozen=True, kw_only=True)
class Guess:
    """Rows that the sample is expected to be near, such as what was planned before."""

    rows: Float32Array  # (B, H, C)
    steps: int  # how many of the visited steps are left to do, from the guess made that noisy


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
        """Untrained; predicted x̂₀ are clipped to ±`clip`."""
        super().__init__()
        self.network: nn.Module = TemporalUNet(channels + context_channels, channels, unet)
        self.alpha_bar = cosine_alpha_bar(diffusion_steps)
        self.prediction, self.channels = prediction, channels
        self.clip = torch.full((channels,), clip)  # of each channel
        self._compiled: tuple[tuple[int, ...], CompiledUNet] | None = None
        self._inference: Inference | None = None

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

    def infer_with(self, arithmetic: Arithmetic) -> None:
        """Have `sample` call the network so, where it is torch's: on a GPU."""
        self._inference = arithmetic.inference(self.network)

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
        guess: Guess | None = None,
    ) -> Float32Array:
        """Denoise one window per row of `known`, each under its own random stream.

        Args:
            known: Values of the clamped entries, (B, H, C).
            clamped: Which entries those are, (B, H, C) bool.
            context: (B, K).
            condition: Scaled return y, (B,).
            rngs: B generators; a window's noise does not depend on its neighbours in the batch.
            sampler: Which sampler, how many steps, guidance and temperature.
            guess: Where to begin instead of at noise.

        Returns:
            x̂₀, (B, H, C); clamped entries are bit-identical to `known`.
        """
        device = next(self.parameters()).device
        known_t = torch.from_numpy(known).to(device)
        clamped_t = torch.from_numpy(clamped).to(device)
        predict = self._predictor(context, condition)
        clip = self.clip.to(device)

        def noise() -> Tensor:
            drawn = np.empty(known.shape, dtype=np.float32)
            for row, rng in enumerate(rngs):
                rng.standard_normal(out=drawn[row], dtype=np.float32)
            return torch.from_numpy(drawn).to(device)

        def denoise(x: Tensor, i: int) -> Tensor:
            output = guided(predict, x, i, sampler.guidance)
            a = float(self.alpha_bar[i])
            if self.prediction == "noise":
                x0 = (x - math.sqrt(1 - a) * output) / math.sqrt(a)
            else:
                x0 = math.sqrt(a) * x - math.sqrt(1 - a) * output
            return x0.clamp(-clip, clip)

        scale = sampler.temperature
        std = math.sqrt(scale) if sampler.temperature_on == "variance" else scale
        visited = sampling_steps(len(self.alpha_bar), sampler.steps)
        x = noise() * std
        if guess is not None:
            visited = visited[-guess.steps :]
            a = float(self.alpha_bar[visited[0]])
            x = math.sqrt(a) * torch.from_numpy(guess.rows).to(device) + math.sqrt(1 - a) * x
        x0 = SAMPLERS[sampler.name](
            x,
            denoise,
            self.alpha_bar,
            visited,
            noise=noise,
            clamp=lambda x: torch.where(clamped_t, known_t, x),
            std=std,
        )
        return x0.cpu().numpy()

    def _predictor(self, context: Float32Array, condition: Float32Array) -> Predict:
        """The network as a function of (x, i, keep): on a CPU compiled by us, else torch's."""
        device = next(self.parameters()).device
        if device.type == "cpu" and isinstance(self.network, TemporalUNet):
            return self._compiled_predictor(self.network, context, condition)
        batch = len(condition)
        network, rows = self.network, batch
        if self._inference is not None:
            network, rows = self._inference.network, self._inference.rows(batch)
        context_t = _filled(torch.from_numpy(context).to(device), rows)
        condition_t = _filled(torch.from_numpy(condition).to(device), rows)

        def predict(x: Tensor, i: int, keep: tuple[bool, ...]) -> Tensor:
            kept = torch.tensor(keep, dtype=torch.float32, device=device)
            predicted = network(
                self._with_context(_filled(x, rows), context_t).repeat(len(keep), 1, 1),
                torch.full((len(keep) * rows,), i, device=device),
                condition_t.repeat(len(keep)),
                kept.repeat_interleave(rows),
            )
            return torch.cat([part[:batch] for part in predicted.split(rows)])

        return predict

    def _compiled_predictor(
        self, network: TemporalUNet, context: Float32Array, condition: Float32Array
    ) -> Predict:
        # torch counts the changes of each tensor: weights that changed are compiled anew.
        version = tuple(parameter._version for parameter in network.parameters())
        if self._compiled is None or self._compiled[0] != version:
            self._compiled = version, CompiledUNet(network)
        compiled = self._compiled[1]
        values, which = np.unique(condition, return_inverse=True)

        def predict(x: Tensor, i: int, keep: tuple[bool, ...]) -> Tensor:
            told = [compiled.embedding(i, float(y), kept) for kept in keep for y in values]
            rows = np.concatenate([which + copy * len(values) for copy in range(len(keep))])
            return torch.from_numpy(compiled(x.numpy(), context, told, rows))

        return predict

    def _with_context(self, x: Tensor, context: Tensor) -> Tensor:
        if not context.shape[1]:
            return x
        return torch.cat([x, context[:, None].expand(-1, x.shape[1], -1)], dim=-1)


def _filled(x: Tensor, rows: int) -> Tensor:
    """Rows (B, …), the first one repeated behind them until there are so many."""
    return x if len(x) == rows else torch.cat([x, x[:1].expand(rows - len(x), *x.shape[1:])])
