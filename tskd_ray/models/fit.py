"""The one training loop: Adam, an exponential moving average of the weights, exact resume."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tskd_ray.config.schema import FitConfig
from tskd_ray.errors import StageError
from tskd_ray.progress import Progress, silent

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
    progress: Progress = silent,
) -> list[tuple[int, float]]:
    """Train `module` in place and leave the averaged weights in it.

    Args:
        module: Its parameters are trained. Its buffers belong to the training state: a loss may
            keep in them what must survive a kill, such as a target network.
        loss: Must not depend on anything but the step and the parameters, so that a resumed
            training ends with the same bytes as an undisturbed one.
        settings: Steps, rate, schedule and averaging.
        resume: Folder for the training state (weights, average, Adam's moments); what is there
            is continued. None: nothing is kept.
        progress: Told every `REPORT_EVERY_STEPS` steps.

    Returns:
        The learning curve: (step, mean loss since the last entry), about 100 entries.
    """
    parameters: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in parameters]
    device = parameters[0].device
    optimizer = torch.optim.Adam(
        parameters, lr=settings.learning_rate, fused=device.type in ("cpu", "cuda")
    )
    buffers = list(module.buffers())
    first, curve = 0, list[tuple[int, float]]()
    if resume is not None and (resume / "state.safetensors").exists():
        first, curve = _restore(resume, parameters, average, buffers, optimizer)
    every = max(1, settings.steps // 100)
    total = torch.zeros((), device=device)
    since = 0
    saved = time.monotonic()
    for step in range(first, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step)
        value = loss(step)
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # pyright: ignore[reportUnknownMemberType]
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1.0 - settings.ema_decay)  # pyright: ignore
        total += value.detach()
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
                _save(resume, done, curve, parameters, average, buffers, optimizer)
                saved = time.monotonic()
        if done % REPORT_EVERY_STEPS == 0 or done == settings.steps:
            latest = {"loss": curve[-1][1]} if curve else {}
            progress(done, settings.steps, **latest)
    with torch.no_grad():
        torch._foreach_copy_(parameters, average)  # pyright: ignore
    return curve


def learning_rate(settings: FitConfig, step: int) -> float:
    """Rate of a step: constant, or a cosine from the full rate to zero."""
    if settings.schedule == "constant":
        return settings.learning_rate
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / settings.steps))


def _save(
    folder: Path,
    step: int,
    curve: list[tuple[int, float]],
    parameters: list[Tensor],
    average: list[Tensor],
    buffers: list[Tensor],
    optimizer: torch.optim.Adam,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for number, parameter in enumerate(parameters):
        state = optimizer.state[parameter]
        tensors[f"parameter.{number}"] = parameter.detach().contiguous()
        tensors[f"average.{number}"] = average[number]
        tensors[f"mean.{number}"] = state["exp_avg"]
        tensors[f"square.{number}"] = state["exp_avg_sq"]
    for number, buffer in enumerate(buffers):
        tensors[f"buffer.{number}"] = buffer.contiguous()
    # One file holds everything, so that no kill can leave a mixed state behind.
    header = {"step": str(step), "curve": json.dumps(curve)}
    # A name of its own: another command may be training the same model.
    temporary = folder / f".state-{uuid.uuid4().hex}.safetensors"
    save_file(tensors, temporary, metadata=header)
    temporary.replace(folder / "state.safetensors")


def _restore(
    folder: Path,
    parameters: list[Tensor],
    average: list[Tensor],
    buffers: list[Tensor],
    optimizer: torch.optim.Adam,
) -> tuple[int, list[tuple[int, float]]]:
    from safetensors import safe_open

    path = folder / "state.safetensors"
    with safe_open(path, framework="pt") as handle:
        header = handle.metadata()
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    step = int(header["step"])
    with torch.no_grad():
        for number, buffer in enumerate(buffers):
            buffer.copy_(tensors[f"buffer.{number}"])
        for number, parameter in enumerate(parameters):
            parameter.copy_(tensors[f"parameter.{number}"])
            average[number].copy_(tensors[f"average.{number}"])
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step), device=parameter.device),
                "exp_avg": tensors[f"mean.{number}"].to(parameter.device),
                "exp_avg_sq": tensors[f"square.{number}"].to(parameter.device),
            }
    return step, [(int(at), float(value)) for at, value in json.loads(header["curve"])]
