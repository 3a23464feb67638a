"""What DDR-I is told of each recorded window when plans are labelled by their advantage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.tiny import tiny_config
from toy_world import toy_trajectories
from tskd_ray.config.schema import FitConfig
from tskd_ray.data.arrays import save_arrays
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.diffusion.ddr import RewardDiffuser, TrajectoryDiffuser
from tskd_ray.models.arithmetic import Arithmetic
from tskd_ray.models.cross_fit_value import CrossFitValue
from tskd_ray.pipeline import diffusers
from tskd_ray.pipeline.stages import Work

DISCOUNT = 0.9
VALUE = FitConfig(steps=5, batch_size=16, learning_rate=3e-3)


class _TrainedNothing(Exception):
    pass


def handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **inputs: Path) -> Any:
    """The conditions that training would begin with."""
    config = tiny_config(tmp_path)
    teacher = config.teacher.model_copy(
        update={
            "context": 2,
            "advantage": config.teacher.advantage.model_copy(update={"discount": DISCOUNT}),
        }
    )
    config = config.model_copy(update={"teacher": teacher})
    seen: dict[str, Any] = {}

    def no_training(**arguments: Any) -> None:
        seen.update(arguments)
        raise _TrainedNothing

    monkeypatch.setattr(diffusers, "fit_diffuser", no_training)
    work = Work(name="ddr1", config=config, inputs=inputs, out=tmp_path, scratch=tmp_path)
    with pytest.raises(_TrainedNothing):
        diffusers.train_diffuser(work)
    return seen.get("conditions")


def plain_advantages(data: Trajectories, values: Any, ahead: int) -> list[float]:
    """By the definition (D25), one window after the other."""
    advantages = list[float]()
    for number in range(data.n_episodes):
        rewards = data.episode(number)["rewards"]
        of_states = values[data.offsets[number] + number :]
        for t in range(len(rewards)):
            end = min(t + ahead, len(rewards))
            brought = sum(DISCOUNT ** (k - t) * float(rewards[k]) for k in range(t, end))
            if end < len(rewards) or not data.terminated[number]:
                brought += DISCOUNT ** (end - t) * float(of_states[end])
            advantages.append(brought - float(of_states[t]))
    return advantages


def test_a_plan_is_told_the_rank_of_its_windows_advantage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = toy_trajectories(8)
    values = CrossFitValue.fit(data, VALUE, 0, discount=DISCOUNT)
    folders = {name: tmp_path / name for name in ("data", "advantage")}
    save_arrays(data, folders["data"])
    values.save(folders["advantage"])
    given = handed_over(tmp_path, monkeypatch, **folders)
    # Horizon 16, of which 2 states are known: the plan has 14 steps to be judged by.
    advantages = plain_advantages(data, values.of_recorded(data), 14)
    expected = [
        (sum(other < one for other in advantages) + 0.5) / len(advantages) for one in advantages
    ]
    assert len(set(expected)) == data.n_steps
    np.testing.assert_allclose(given, expected, rtol=1e-9)
    assert given[np.argmax(advantages)] > 0.99


def test_without_advantages_the_teacher_is_left_to_label_by_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_arrays(toy_trajectories(3), tmp_path / "data")
    assert handed_over(tmp_path, monkeypatch, data=tmp_path / "data") is None


@pytest.mark.parametrize(
    ("kind", "made"), [("ddr1", TrajectoryDiffuser), ("ddr2", RewardDiffuser)]
)
def test_what_a_diffuser_is_fitted_with_is_what_the_stage_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, made: Any
) -> None:
    config, data = tiny_config(tmp_path, seed=7), toy_trajectories(3)
    compute = config.compute.model_copy(update={"precision": "bfloat16"})
    given: dict[str, Any] = {}

    def fit(self: Any, *arguments: Any, **options: Any) -> list[tuple[int, float]]:
        given.update(options, arguments=arguments, made=type(self), teacher=self.config)
        return [(1, 0.5)]

    monkeypatch.setattr(made, "fit", fit)
    conditions = np.linspace(0, 1, data.n_steps)
    diffuser, curve = diffusers.fit_diffuser(
        kind=kind,
        config=config.model_copy(update={"compute": compute}),
        recorded=data,
        resume=tmp_path,
        device="cpu",
        conditions=conditions,
    )
    assert isinstance(diffuser, made)
    assert curve == [(1, 0.5)]
    assert given.pop("arguments") == (data, 7)
    assert given.pop("teacher") == config.teacher
    assert given.pop("conditions") is conditions, "else it would learn returns"
    del given["progress"]
    assert given == {
        "made": made,
        "device": "cpu",
        "arithmetic": Arithmetic.of(compute),
        "resume": tmp_path,
        "ranks": None,
    }
