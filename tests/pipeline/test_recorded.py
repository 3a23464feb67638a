"""The recorded data as a run takes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box

from pipeline.tiny import tiny_config
from toy_world import toy_trajectories
from tskd_ray.data.columnar import write_parquet
from tskd_ray.data.environments import environment_spec
from tskd_ray.data.trajectories import EnvironmentSpec
from tskd_ray.evaluation.film import _play
from tskd_ray.evaluation.simulate import evaluate
from tskd_ray.pipeline.recorded import data_key, load_recorded
from tskd_ray.types import FloatArray


class Endless(gymnasium.Env[Any, Any]):
    """Nothing ever happens, and a step pays 1."""

    observation_space = Box(-1, 1, (2,))
    action_space = Box(-2, 2, (1,))
    most = 100  # steps that a test has patience for

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        self.count = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        assert self.count <= self.most, "it goes on and on"
        return np.zeros(2, np.float32), 1.0, False, False, {}


class Still:
    def act(self, observations: FloatArray) -> FloatArray:
        return np.zeros((len(observations), 1), dtype=np.float32)


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> EnvironmentSpec:
    make: Any = Endless
    spec = EnvSpec("Endless-v0", entry_point=make)
    monkeypatch.setitem(gymnasium.registry, "Endless-v0", spec)
    return environment_spec("Endless-v0")


def test_where_nobody_knows_a_time_limit_it_is_the_longest_episode(
    tmp_path: Path, endless: EnvironmentSpec
) -> None:
    assert endless.max_episode_steps is None
    data = replace(toy_trajectories(4, limit=23, wall=9.0), environment=endless)
    write_parquet(data, tmp_path / "data")
    recorded = load_recorded(tiny_config(tmp_path, data={"source": str(tmp_path / "data")}))
    environment = recorded.environment
    assert environment is not None
    assert environment == replace(endless, max_episode_steps=23)
    assert evaluate([Still()], environment, 2, 0).tolist() == [[23.0, 23.0]]
    assert len(_play(Still(), environment, 0)[0]) == 23


@pytest.mark.parametrize(("own", "kept"), [(None, None), (40, 40)])
def test_a_limit_of_the_data_or_of_gymnasium_is_left_alone(
    tmp_path: Path, own: int | None, kept: int | None
) -> None:
    hopper = EnvironmentSpec(id="Hopper-v5", max_episode_steps=own)
    write_parquet(replace(toy_trajectories(4), environment=hopper), tmp_path / "data")
    config = tiny_config(tmp_path, data={"source": str(tmp_path / "data")})
    environment = load_recorded(config).environment
    assert environment is not None
    assert environment.max_episode_steps == kept


def test_a_run_may_name_another_environment_than_the_data(
    tmp_path: Path, endless: EnvironmentSpec
) -> None:
    write_parquet(replace(toy_trajectories(4), environment=None), tmp_path / "data")
    data = {"source": str(tmp_path / "data"), "environment": endless.id}
    environment = load_recorded(tiny_config(tmp_path, data=data)).environment
    assert environment is not None
    assert environment.id == endless.id


@pytest.mark.parametrize(
    "column",
    [
        "observations", "actions", "rewards", "terminated", "truncated", "origin",
        "source_episode", "source_step", "episode_id", "episode_origin",
    ],
)  # fmt: skip
def test_data_that_differ_in_one_number_have_another_key(column: str) -> None:
    data = toy_trajectories(4)
    values = getattr(data, column)
    edited = values.copy()
    edited[-1] = ~edited[-1] if values.dtype == bool else edited[-1] + 1
    other = replace(data, **{column: edited})
    assert data_key(toy_trajectories(4)) == data_key(data)
    assert data_key(other) != data_key(data)


def test_data_cut_into_other_episodes_or_of_another_environment_have_another_key() -> None:
    data = toy_trajectories(4, limit=9, wall=99.0)
    offsets = data.offsets + np.array([0, 1, 0, 0, 0])
    assert data_key(replace(data, offsets=offsets)) != data_key(data)
    for changed in ({"max_episode_steps": 7}, {"kwargs": {"g": 1}}, {"id": "Toy-v1"}):
        other = replace(data.environment or EnvironmentSpec(id=""), **changed)
        assert data_key(replace(data, environment=other)) != data_key(data)
    assert data_key(replace(data, environment=None)) != data_key(data)
