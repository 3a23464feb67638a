"""The stages that train a diffusion model, on one worker or on several together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tskd_ray.config.schema import Config
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.distributed.train import train_together
from tskd_ray.progress import Progress, silent

if TYPE_CHECKING:
    from tskd_ray.models.ranks import Ranks
    from tskd_ray.pipeline.stages import Work


def train_diffuser(work: Work) -> None:
    """DDR-I or DDR-II, whichever the stage is named after, by one process or by several."""
    compute = work.config.compute
    arguments: dict[str, Any] = {
        "kind": work.name,
        "config": work.config,
        "recorded": work.joined(),
        "resume": work.scratch.resolve(),
    }
    if compute.training_workers > 1:
        (diffuser, curve), spent = train_together(
            fit_diffuser, arguments, compute, folder=work.scratch, progress=work.progress
        )
        work.told["cpu_seconds"] = spent
    else:
        diffuser, curve = fit_diffuser(
            **arguments, device=compute.device, progress=work.progress
        )
    diffuser.save(work.out)
    work.write_json("curve", curve)
    work.told["flops_per_item"] = diffuser.training_flops()


def fit_diffuser(
    *,
    kind: str,
    config: Config,
    recorded: Trajectories,
    resume: Path,
    device: str,
    ranks: Ranks | None = None,
    progress: Progress = silent,
) -> tuple[Any, list[tuple[int, float]]]:
    """A diffuser trained in this process, perhaps with others, and its learning curve."""
    from tskd_ray.diffusion.ddr import RewardDiffuser, TrajectoryDiffuser
    from tskd_ray.models.arithmetic import Arithmetic

    made = {"ddr1": TrajectoryDiffuser, "ddr2": RewardDiffuser}[kind]
    diffuser = made(config.teacher, recorded.observation_dim)
    curve = diffuser.fit(
        recorded,
        config.seed,
        device=device,
        arithmetic=Arithmetic.of(config.compute),
        resume=resume,
        ranks=ranks,
        progress=progress,
    )
    diffuser.model.cpu()
    return diffuser, curve
