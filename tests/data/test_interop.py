"""Our datasets in the libraries that people train with: the real ones, where installed.

Each has a process of its own, since their imports warn, patch and log. See
tests/requirements-interop.lock.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest

import tskd_ray
from toy_world import toy_trajectories
from tskd_ray.data.columnar import write_parquet
from tskd_ray.data.commands import write_dataset
from tskd_ray.data.minari_io import write_minari
from tskd_ray.data.trajectories import Origin, Trajectories


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [name for name in modules if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"without {', '.join(missing)}")


@pytest.fixture(scope="module")
def augmented() -> Trajectories:
    """Recorded, generated and stitched episodes together."""
    recorded = toy_trajectories(20, gain=0.2)
    generated = Trajectories.from_episodes(
        toy_trajectories(8, seed=1).episodes(), origin=Origin.GENERATED, first_id=20
    )
    stitched = tskd_ray.stitch_epoch(
        Trajectories.concatenate([recorded, generated]),
        value=lambda s: -np.abs(s[:, 0].astype(np.float64) - 0.5),
        log_density=lambda s, s2: np.zeros((1, len(s))),
        action=lambda s, s2: np.zeros((len(s), 1), dtype=np.float32),
        reward=lambda s, s2: np.full(len(s), 2.0, dtype=np.float32),
        radius=0.02,
    ).trajectories
    assert {0, 1, 2} == set(stitched.episode_origin.tolist())
    return stitched


def in_library(code: str, *arguments: object, **environment: str) -> dict[str, Any]:
    """What a script prints last, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        check=False, capture_output=True, text=True, timeout=240, env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_minaris_own_filter_tells_episodes_by_where_they_came_from(
    augmented: Trajectories, tmp_path: Path
) -> None:
    dataset = minari.MinariDataset(write_minari(augmented, tmp_path, dataset_id="a-v0"))
    filters = {
        Origin.RECORDED: lambda episode: (episode.infos["origin"] == 0).all(),
        Origin.GENERATED: lambda episode: (episode.infos["origin"] == 1).all(),
        Origin.STITCHED: lambda episode: (episode.infos["origin"] == 2).any(),
    }
    for origin, condition in filters.items():
        kept = dataset.filter_episodes(lambda episode, test=condition: bool(test(episode)))
        expected = np.flatnonzero(augmented.episode_origin == origin)
        np.testing.assert_array_equal(kept.episode_indices, expected)


TORCHRL = """
import json, sys
from torchrl.data.datasets.minari_data import MinariExperienceReplay
replay = MinariExperienceReplay(
    "tskd/toy-v0", batch_size=64, root=sys.argv[1], download=False, load_from_local_minari=True)
steps = replay[:]
print(json.dumps({
    "n": len(replay),
    "sample": list(replay.sample()["observation"].shape),
    "observation": steps["observation"].tolist(),
    "after": steps["next", "observation"].tolist(),
    "action": steps["action"].tolist(),
    "reward": steps["next", "reward"].squeeze(-1).tolist(),
    "terminated": steps["next", "terminated"].squeeze(-1).tolist(),
    "truncated": steps["next", "truncated"].squeeze(-1).tolist(),
    "episode": steps["episode"].tolist(),
    "origin": steps["next", "info", "origin"].tolist(),
}))
"""


@needs("torchrl")
def test_torchrls_minari_buffer_holds_every_step(
    augmented: Trajectories, tmp_path: Path
) -> None:
    write_minari(augmented, tmp_path / "minari/tskd/toy-v0", dataset_id="tskd/toy-v0")
    root = str(tmp_path / "minari")
    found = in_library(TORCHRL, tmp_path / "torchrl", MINARI_DATASETS_PATH=root)
    state, last = augmented.step_state, augmented.offsets[1:] - 1
    assert found["n"] == augmented.n_steps
    assert found["sample"] == [64, 2]
    same = np.testing.assert_array_equal
    same(np.float32(found["observation"]), augmented.observations[state])
    same(np.float32(found["after"]), augmented.observations[state + 1])
    same(np.float32(found["action"]), augmented.actions)
    same(np.float32(found["reward"]), augmented.rewards)
    same(found["episode"], augmented.step_episode)
    same(np.array(found["terminated"])[last], augmented.terminated)
    same(np.array(found["truncated"])[last], augmented.truncated)
    assert sum(found["terminated"]) + sum(found["truncated"]) == augmented.n_episodes
    # Infos begin with the reset there, so that a step's own are those "next" to it.
    same(found["origin"], augmented.origin)


D3RLPY = """
import json, sys
import d3rlpy
from d3rlpy.dataset import InfiniteBuffer, ReplayBuffer
buffer = ReplayBuffer.load(sys.argv[1], InfiniteBuffer())
algorithm = d3rlpy.algos.BCConfig(batch_size=16).create(device=False)
algorithm.fit(buffer, n_steps=3, n_steps_per_epoch=3, show_progress=False,
    logger_adapter=d3rlpy.logging.NoopAdapterFactory())
batch = buffer.sample_transition_batch(8)
print(json.dumps({
    "episodes": [
        [e.observations.tolist(), e.actions.tolist(), e.rewards.tolist(), bool(e.terminated)]
        for e in buffer.episodes],
    "transitions": buffer.transition_count,
    "acted": list(algorithm.predict(batch.observations).shape),
}))
"""


@needs("d3rlpy", "gym")
def test_d3rlpy_loads_the_file_and_trains_on_it(
    augmented: Trajectories, tmp_path: Path
) -> None:
    write_dataset(augmented, tmp_path / "a.h5", to="d3rlpy")
    found = in_library(D3RLPY, tmp_path / "a.h5")
    assert len(found["episodes"]) == augmented.n_episodes
    for (states, actions, rewards, terminated), episode in zip(
        found["episodes"], augmented.episodes(), strict=True
    ):
        same = np.testing.assert_array_equal
        same(np.float32(states), episode["observations"][:-1])
        same(np.float32(actions), episode["actions"])
        same(np.array(rewards, dtype=np.float32)[:, 0], episode["rewards"])
        assert terminated == episode["terminated"]
    # An episode that did not terminate is one transition short, as its docstring says.
    assert found["transitions"] == augmented.n_steps - (~augmented.terminated).sum()
    assert found["acted"] == [8, 1]


RLLIB = """
import json, sys
import gymnasium as gym
import numpy as np
import ray
from ray.rllib.algorithms.bc import BCConfig
from ray.rllib.offline.offline_prelearner import OfflinePreLearner
ray.init(num_cpus=6, include_dashboard=False, log_to_driver=False)
box = lambda size: gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)
config = (
    BCConfig()
    .environment(observation_space=box(2), action_space=box(1))
    .offline_data(input_=[sys.argv[1]], dataset_num_iters_per_learner=1)
    .training(train_batch_size_per_learner=64)
    .learners(num_learners=0))
algorithm = config.build_algo()
batch = algorithm.offline_data.data.take_batch(10**6)  # before training maps it
result = algorithm.train()["learners"]["default_policy"]
reader = object.__new__(OfflinePreLearner)
reader.config = config
episodes = reader._map_to_episodes(batch)["episodes"]
print(json.dumps({
    "loss": float(result["policy_loss"]),
    "steps": [
        [e.id_, e.observations[0].tolist(), e.observations[1].tolist(), e.actions[0].tolist(),
         float(e.rewards[0]), bool(e.is_terminated), bool(e.is_truncated),
         int(e.infos[1]["origin"])]
        for e in episodes],
}))
"""


@pytest.mark.slow
@needs("tree", "lz4", "ormsgpack")
def test_rllib_reads_the_files_and_trains_on_them(
    augmented: Trajectories, tmp_path: Path
) -> None:
    write_parquet(augmented, tmp_path / "source")
    write_dataset(augmented, tmp_path / "steps", to="rllib")
    quiet = {"RAY_ADDRESS": "", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    found = in_library(RLLIB, tmp_path / "steps", **quiet)
    assert np.isfinite(found["loss"])
    assert len(found["steps"]) == augmented.n_steps
    last = set((augmented.offsets[1:] - 1).tolist())
    for step, (name, before, after, action, reward, terminated, truncated, origin) in enumerate(
        found["steps"]
    ):
        episode, state = augmented.step_episode[step], augmented.step_state[step]
        assert name == str(augmented.episode_id[episode])
        np.testing.assert_array_equal(np.float32(before), augmented.observations[state])
        np.testing.assert_array_equal(np.float32(after), augmented.observations[state + 1])
        np.testing.assert_array_equal(np.float32(action), augmented.actions[step])
        assert np.float32(reward) == augmented.rewards[step]
        assert terminated == (step in last and augmented.terminated[episode])
        assert truncated == (step in last and not augmented.terminated[episode])
        assert origin == augmented.origin[step]
