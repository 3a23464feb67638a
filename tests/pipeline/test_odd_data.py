"""A whole run on data unlike Hopper: no terminations, negative returns, no reference scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from pipeline.tiny import tiny_config
from tskd_ray.config.schema import Config
from tskd_ray.data.columnar import write_parquet
from tskd_ray.data.environments import environment_spec
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.errors import ConfigError
from tskd_ray.pipeline.artifacts import ArtifactStore
from tskd_ray.pipeline.graph import build_graph
from tskd_ray.pipeline.recorded import data_key, load_recorded
from tskd_ray.pipeline.run import load_teacher, run


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight time-limited episodes of a random policy on Pendulum-v1."""
    environment = gymnasium.make("Pendulum-v1", disable_env_checker=True)
    rng = np.random.default_rng(0)
    episodes = []
    for number in range(8):
        states, actions, rewards = [environment.reset(seed=number)[0]], [], []
        for _ in range(60):
            action = rng.uniform(-2, 2, size=1).astype(np.float32)
            state, reward, *_ = environment.step(action)
            states.append(state)
            actions.append(action)
            rewards.append(float(reward))
        episodes.append(
            {
                "observations": np.stack(states),
                "actions": np.stack(actions),
                "rewards": np.array(rewards),
                "terminated": False,
            }
        )
    environment.close()
    folder = tmp_path_factory.mktemp("pendulum")
    spec = environment_spec("Pendulum-v1")
    write_parquet(Trajectories.from_episodes(episodes, environment=spec), folder)
    return folder


def part(config: Config, name: str, document: str) -> dict[str, Any]:
    """A JSON part of a finished stage."""
    store = ArtifactStore(config.storage)
    graph = build_graph(config, data_key(load_recorded(config)))
    artifact = store.find(graph[name].key)
    assert artifact is not None
    return json.loads((store.fetch(artifact) / f"{document}.json").read_text())


def test_negative_returns_need_a_target_that_says_so(pendulum: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, data={"source": str(pendulum)})
    with pytest.raises(
        ConfigError, match=r"no return of .* is positive. Got 1; the best is -0"
    ):
        run(config)


def test_a_run_without_terminations_or_reference_scores(pendulum: Path, tmp_path: Path) -> None:
    generate = {
        "trajectories": 4,
        "sampler": {"name": "ddim", "steps": 3},
        "target_return": -0.1,
        "replan_every": 8,
        "shard_size": 2,
        "max_steps": 24,
    }
    config = tiny_config(
        tmp_path,
        data={"source": str(pendulum)},
        generate=generate,
        select={"slack": "60%", "minimum_episodes": 1},
    )
    with pytest.raises(Exception, match="Run `tskd train`"):
        load_teacher(config)
    result = run(config)
    assert result.report is not None
    metrics = json.loads((result.folder / "metrics.json").read_text())
    student = metrics["scores"][-1]
    assert student["final"]["normalized"] is None
    assert student["final"]["mean_return"] < 0
    for stage in ("stitch-1", "stitch-2"):  # D24: a step costs on average
        assert part(config, stage, "counts")["whole"]
    vitals = part(config, "generate-1", "vitals")
    assert vitals["dropped"] == vitals["ends_left_box"] + vitals["ends_disagreement"]
    made = load_teacher(config)
    assert not made.termination.exists
    assert made.max_steps == 200
