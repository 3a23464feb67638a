"""The stages that train a diffusion model, on one worker or on several together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tskd_ray.config.schema import Config
from tskd_ray.data.returns import shares_below, window_advantages
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.distributed.train import train_together
from tskd_ray.progress import Progress, silent
from tskd_ray.types import Float64Array

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
    if "advantage" in work.inputs:
        arguments["conditions"] = _advantage_ranks(work, arguments["recorded"])
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


def _advantage_ranks(work: Work, recorded: Trajectories) -> Float64Array:
    """The condition of each step's window by D25, (N,)."""
    from tskd_ray.models.cross_fit_value import CrossFitValue

    teacher = work.config.teacher
    values = CrossFitValue.load(work.inputs["advantage"]).of_recorded(recorded)
    ahead = teacher.trajectory.horizon - teacher.context
    return shares_below(window_advantages(recorded, values, teacher.advantage.discount, ahead))


def fit_diffuser(
    *,
    kind: str,
    config: Config,
    recorded: Trajectories,
    resume: Path,
    device: str,
    conditions: Float64Array | None = None,
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
        conditions=conditions,
        device=device,
        arithmetic=Arithmetic.of(config.compute),
        resume=resume,
        ranks=ranks,
        progress=progress,
    )
    diffuser.model.cpu()
    return diffuser, curve
