"""Which data and which settings each small network is fitted with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.tiny import tiny_config
from toy_world import toy_trajectories
from tskd_ray.config.schema import Config, FitConfig
from tskd_ray.data.arrays import save_arrays
from tskd_ray.models.action_vae import ActionVAE
from tskd_ray.models.cross_fit_value import CrossFitValue
from tskd_ray.models.forward_dynamics import ForwardDynamics
from tskd_ray.models.inverse_dynamics import InverseDynamics
from tskd_ray.models.reward_mlp import RewardMLP
from tskd_ray.models.reward_wgan import RewardWGAN
from tskd_ray.models.termination import Termination
from tskd_ray.models.transition import Transition
from tskd_ray.models.value import TwinValue
from tskd_ray.pipeline.stages import TASKS, Work


class _FittedNothing(Exception):
    pass


def config(storage: Path) -> Config:
    """No two fits take as many steps, and nothing else is at its default."""
    plain = tiny_config(storage, seed=7)
    advantage = plain.teacher.advantage.model_copy(
        update={"discount": 0.6, "fit": FitConfig(steps=1)}
    )
    teacher = plain.teacher.model_copy(
        update={
            "discount": 0.5,
            "advantage": advantage,
            "inverse_dynamics": FitConfig(steps=2),
            "transition": FitConfig(steps=3),
        }
    )
    fits = {"dynamics": 4, "value": 5, "action_fit": 6, "reward_fit": 7}
    stitch = plain.stitch.model_copy(
        update={
            "members": 5,
            "best_members": 2,
            **{name: FitConfig(steps=steps) for name, steps in fits.items()},
        }
    )
    return plain.model_copy(update={"teacher": teacher, "stitch": stitch})


@pytest.mark.parametrize(
    ("stage", "model", "steps", "options"),
    [
        ("advantage", CrossFitValue, 1, {"discount": 0.6}),
        ("inverse-dynamics", InverseDynamics, 2, {}),
        ("transition", Transition, 3, {}),
        ("termination", Termination, 3, {}),
        ("dynamics", ForwardDynamics, 4, {"members": 5, "best": 2}),
        ("value", TwinValue, 5, {"discount": 0.5}),
        ("action-vae", ActionVAE, 6, {}),
        ("reward-mlp", RewardMLP, 7, {}),
        ("reward-wgan", RewardWGAN, 7, {}),
    ],
)
def test_each_network_is_fitted_on_all_it_reads_as_its_own_settings_say(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    model: Any,
    steps: int,
    options: dict[str, float],
) -> None:
    inputs = {name: tmp_path / name for name in ("stitch-1", "generate-2")}
    for number, folder in enumerate(inputs.values()):
        data = toy_trajectories(2 + number, seed=number)
        save_arrays(replace(data, episode_id=data.episode_id + 10 * number), folder)
    seen: dict[str, Any] = {}

    def fit(trajectories: Any, **given: Any) -> None:
        seen.update(given, episodes=trajectories.episode_id.tolist())
        raise _FittedNothing

    monkeypatch.setattr(model, "fit", fit)
    work = Work(
        name=stage, config=config(tmp_path), inputs=inputs, out=tmp_path, scratch=tmp_path / "s"
    )
    with pytest.raises(_FittedNothing):
        TASKS[stage](work)
    assert seen.pop("episodes") == [0, 1, 10, 11, 12]
    assert seen.pop("settings") == FitConfig(steps=steps)
    assert (seen.pop("seed"), seen.pop("resume")) == (7, tmp_path / "s")
    del seen["progress"]
    assert seen == options
