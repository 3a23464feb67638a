"""The one training loop: Adam, an exponential moving average of the weights, exact resume."""

from __future__ import annotations

import json
import logging
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.adam import adam

from tskd_ray.config.schema import FitConfig
from tskd_ray.errors import StageError
from tskd_ray.models.ranks import Ranks
from tskd_ray.progress import Progress, silent

log = logging.getLogger(__name__)

Loss = Callable[[int], Tensor]
"""Loss of training step i, a scalar; draws its batch as a pure function of i."""

SAVE_EVERY_SECONDS = 60.0
REPORT_EVERY_STEPS = 25


def fit(
    module: nn.Module,
    loss: Loss,
    settings: FitConfig,
    *,
    resume: Path | None = None,
    ranks: Ranks | None = None,
    progress: Progress = silent,
) -> list[tuple[int, float]]:
    """Train `module` in place and leave the averaged weights in it.

    Args:
        module: Its parameters are trained. Its buffers belong to the training state: a loss may
            keep in them what must survive a kill, such as a target network.
        loss: Must not depend on anything but the step and the parameters, so that a resumed
            training ends with the same bytes as an undisturbed one. What it does not touch in
            a step stays as it is, moments included.
        settings: Steps, rate, schedule and averaging.
        resume: Folder for the training state (weights, average, Adam's moments); what is there
            is continued, unless it is damaged: training then begins anew. None: nothing is
            kept. With ranks the first one keeps it.
        ranks: Processes that train these weights together: `loss` then is this one's share,
            and the loss is their sum.
        progress: Told every `REPORT_EVERY_STEPS` steps.

    Returns:
        The learning curve: (step, mean loss since the last entry), about 100 entries.
    """
    parameters: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
    device = parameters[0].device
    state = _State(parameters, list(module.buffers()))
    if ranks is not None and ranks.rank:
        resume = None
    first, curve = 0, list[tuple[int, float]]()
    if resume is not None and (resume / "state.safetensors").exists():
        first, curve = state.restore(resume)
    if ranks is not None:
        first = state.take_first(ranks, first)
    every = max(1, settings.steps // 100)
    total = torch.zeros((), device=device)
    since = 0
    saved = time.monotonic()
    for step in range(first, settings.steps):
        value = loss(step)
        if ranks is None:
            gradients = torch.autograd.grad(value, parameters, allow_unused=True)
            value = value.detach()
        else:
            gradients = torch.autograd.grad(value, parameters)
            *gradients, value = ranks.sum([*gradients, value.detach()])
        state.update(gradients, learning_rate(settings, step), settings.ema_decay)
        total += value
        since += 1
        done = step + 1
        if done % every == 0 or done == settings.steps:
            curve.append((done, float(total) / since))
            if not math.isfinite(curve[-1][1]):
                raise StageError(
                    f"The training loss must stay finite. It is {curve[-1][1]} after {done} "
                    f"steps at learning rate {settings.learning_rate:g}. Lower the rate."
                )
            total.zero_()
            since = 0
            # Only here is no half-summed curve entry pending, so a resume is exact.
            if resume is not None and time.monotonic() - saved > SAVE_EVERY_SECONDS:
                state.save(resume, done, curve)
                saved = time.monotonic()
        if done % REPORT_EVERY_STEPS == 0 or done == settings.steps:
            latest = {"loss": curve[-1][1]} if curve else {}
            progress(done, settings.steps, **latest)
    with torch.no_grad():
        torch._foreach_copy_(parameters, state.average)  # pyright: ignore
    return curve


def learning_rate(settings: FitConfig, step: int) -> float:
    """Rate of a step: constant, or a cosine from the full rate to zero."""
    if settings.schedule == "constant":
        return settings.learning_rate
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / settings.steps))


class _State:
    """What training changes: weights, their average, Adam's moments, and the module's buffers.

    `torch.optim.Adam` sorts its parameters anew at each step, a tenth of a small network's
    time; the function behind it is given the same lists each time.
    """

    def __init__(self, parameters: list[Tensor], buffers: list[Tensor]) -> None:
        self.parameters, self.buffers = parameters, buffers
        self.average = [p.detach().clone() for p in parameters]
        self._means = [torch.zeros_like(p) for p in parameters]
        self._squares = [torch.zeros_like(p) for p in parameters]
        self._updates = [torch.zeros((), device=p.device) for p in parameters]

    @torch.no_grad()
    def update(self, gradients: Sequence[Tensor | None], rate: float, decay: float) -> None:
        """One step of Adam, for the parameters that have a gradient, and of the average."""
        touched = [number for number, one in enumerate(gradients) if one is not None]

        def of(tensors: Sequence[Any]) -> list[Tensor]:
            return [tensors[number] for number in touched]

        adam(
            of(self.parameters),
            of(gradients),
            of(self._means),
            of(self._squares),
            [],
            of(self._updates),
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )
        torch._foreach_lerp_(self.average, self.parameters, 1.0 - decay)  # pyright: ignore

    def save(self, folder: Path, step: int, curve: list[tuple[int, float]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: part.detach().contiguous() for name, part in self._named()}
        # One file holds everything, so that no kill can leave a mixed state behind.
        header = {"step": str(step), "curve": json.dumps(curve)}
        # A name of its own: another command may be training the same model.
        temporary = folder / f".state-{uuid.uuid4().hex}.safetensors"
        try:
            save_file(tensors, temporary, metadata=header)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())  # else a power cut leaves the name without the content
            temporary.replace(folder / "state.safetensors")
        finally:
            temporary.unlink(missing_ok=True)

    @torch.no_grad()
    def restore(self, folder: Path) -> tuple[int, list[tuple[int, float]]]:
        """What `save` kept there; of a damaged file nothing, and the state stays as it is."""
        from safetensors import SafetensorError, safe_open

        path = folder / "state.safetensors"
        try:
            with safe_open(path, framework="pt") as handle:
                header = handle.metadata()
                step = int(header["step"])
                curve = [(int(at), float(value)) for at, value in json.loads(header["curve"])]
                kept = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
            older = "updates.0" not in kept  # every parameter had one per step
            if older:
                kept |= {
                    name: torch.full_like(part, step)
                    for name, part in self._named()
                    if name.startswith("updates.")
                }
            pairs = [(part, kept[name]) for name, part in self._named()]
            if any(part.shape != saved.shape for part, saved in pairs):
                raise ValueError("another model's")
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s cannot be read (%s); training begins anew.", path, error)
            return 0, []
        for part, saved in pairs:
            part.copy_(saved)
        return step, curve

    @torch.no_grad()
    def take_first(self, ranks: Ranks, step: int) -> int:
        """Go on from the state of the first of all processes; its step."""
        at = torch.tensor(step, device=self.parameters[0].device)
        ranks.take_first([at, *(part for _, part in self._named())])
        return int(at)

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        groups = {
            "parameter": self.parameters,
            "average": self.average,
            "mean": self._means,
            "square": self._squares,
            "updates": self._updates,
            "buffer": self.buffers,
        }
        for name, tensors in groups.items():
            for number, tensor in enumerate(tensors):
                yield f"{name}.{number}", tensor
