"""Runs of method mbts, rewards by other models, and the comparison of all three."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from pipeline.test_hops import config
from pipeline.tiny import tiny_config
from tskd_ray.config.schema import Config
from tskd_ray.data.arrays import load_arrays
from tskd_ray.data.trajectories import Origin, Trajectories
from tskd_ray.errors import ConfigError, DataError
from tskd_ray.models.action_vae import ActionVAE
from tskd_ray.models.reward_mlp import RewardMLP
from tskd_ray.models.reward_wgan import RewardWGAN
from tskd_ray.pipeline.artifacts import ArtifactStore
from tskd_ray.pipeline.explain import explain_run
from tskd_ray.pipeline.graph import build_graph, needed
from tskd_ray.pipeline.hop_models import true_rewards
from tskd_ray.pipeline.recorded import data_key, load_recorded
from tskd_ray.pipeline.run import RunResult, run
from tskd_ray.pipeline.runner import Runner


def folders_of(config: Config, *names: str, extras: tuple[str, ...] = ()) -> dict[str, Path]:
    store = ArtifactStore(config.storage)
    graph = build_graph(config, data_key(load_recorded(config)), extras)
    found = {name: store.find(graph[name].key) for name in names}
    return {name: store.fetch(artifact) for name, artifact in found.items() if artifact}


def plain(storage: Path, **stitch: Any) -> Config:
    """One epoch, nothing generated."""
    made = config(storage, **{"epochs": 1, "radius": 1.5, **stitch})
    return made.model_copy(
        update={"generate": made.generate.model_copy(update={"trajectories": 0})}
    )


@pytest.fixture(scope="module")
def storage(undisturbed: RunResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With all that a run of method tskd has left."""
    folder = tmp_path_factory.mktemp("mbts") / "storage"
    shutil.copytree(undisturbed.folder.parents[1], folder)
    return folder


def test_hops_are_acted_by_the_vae_and_priced_by_the_wgan(storage: Path) -> None:
    settings = plain(storage, method="mbts")
    names = set(build_graph(settings, data_key(load_recorded(settings))))
    assert {"action-vae", "reward-wgan"} <= names
    assert names.isdisjoint({"inverse-dynamics", "ddr2", "reward-mlp"})
    run(settings, until="stitch")
    folders = folders_of(settings, "stitch-1", "hops-1", "action-vae", "reward-wgan", "data")
    stitched, recorded = load_arrays(folders["stitch-1"]), load_arrays(folders["data"])
    assert stitched.n_episodes == recorded.n_episodes
    hops = np.flatnonzero(stitched.origin == 2)
    assert len(hops) > 5
    source = stitched.step_state[hops]
    s, s2 = stitched.observations[source], stitched.observations[source + 1]
    actions = ActionVAE.load(folders["action-vae"]).predict(s, s2)
    np.testing.assert_array_equal(stitched.actions[hops], actions)
    rewards = RewardWGAN.load(folders["reward-wgan"]).predict(s, actions, s2)
    np.testing.assert_array_equal(
        stitched.rewards[hops], rewards.astype(stitched.rewards.dtype)
    )


def test_hops_may_be_truly_rewarded_to_see_what_wrong_rewards_cost(storage: Path) -> None:
    settings = plain(storage, reward="simulator")
    result = run(settings, until="stitch")
    folders = folders_of(settings, "stitch-1", "data")
    stitched = load_arrays(folders["stitch-1"])
    (hop, *_) = np.flatnonzero(stitched.origin == Origin.STITCHED)
    simulator: Any = gymnasium.make("Hopper-v5").unwrapped
    simulator.reset(seed=3)
    before = stitched.observations[stitched.step_state[hop]].astype(np.float64)
    simulator.set_state(np.concatenate([[0.0], before[:5]]), before[5:])
    reward = simulator.step(stitched.actions[hop])[1]
    assert stitched.rewards[hop] == pytest.approx(reward, abs=1e-4)
    warnings = json.loads((result.folder / "metrics.json").read_text())["warnings"]
    assert any(one.startswith("reward: simulator stepped the simulator") for one in warnings)
    with pytest.raises(DataError, match=r"The data name none\. Set data\.environment"):
        true_rewards(None, lambda s, s2: s)


def test_more_hops_are_found_than_among_the_states_near_s2(storage: Path) -> None:
    counts = {}
    for method in ("tskd", "mbts"):
        settings = plain(storage, method=method, action="vae", reward="mlp")
        run(settings, until="stitch")
        folder = folders_of(settings, "stitch-1")["stitch-1"]
        counts[method] = json.loads((folder / "counts.json").read_text())["counts"]
    ours, theirs = counts["tskd"], counts["mbts"]
    assert theirs["hops_accepted"] > ours["hops_accepted"] > 0
    assert theirs["neighbours"] == ours["neighbours"]


def test_deciding_what_walks_reach_changes_no_trajectory(storage: Path) -> None:
    found: list[Trajectories] = []
    for decide in ("all", "reached"):
        settings = plain(storage, method="mbts", decide=decide)
        run(settings, until="stitch")
        found.append(load_arrays(folders_of(settings, "stitch-1")["stitch-1"]))
    np.testing.assert_array_equal(found[0].observations, found[1].observations)
    np.testing.assert_array_equal(found[0].rewards, found[1].rewards)


def test_a_larger_radius_does_not_serve_a_smaller_one(storage: Path) -> None:
    store = ArtifactStore(str(storage))
    for radius in (1.5, 1.0):
        runner = Runner(plain(storage, method="mbts", radius=radius))
        runner.complete(needed(runner.graph, ["hops-1"]))
        artifact = store.find(runner.graph["hops-1"].key)
        assert artifact is not None
        assert artifact.info["complete"]
        assert artifact.info["narrowed"] is False


def test_explaining_looks_at_tskd_only(storage: Path) -> None:
    for more in ({"method": "mbts"}, {"reward": "mlp"}):
        with pytest.raises(ConfigError, match=r"tskd's candidates and DDR-II's rewards\. Got"):
            explain_run(plain(storage, **more))


def test_reward_errors_are_measured_on_demand(storage: Path) -> None:
    settings = tiny_config(storage)
    runner = Runner(settings, extras=("reward-errors",))
    runner.complete(needed(runner.graph, ["reward-errors"]))
    folders = folders_of(
        settings, "reward-errors", "reward-mlp", "data", extras=("reward-errors",)
    )
    found = json.loads((folders["reward-errors"] / "reward-errors.json").read_text())
    inferred = {f"{name}, inferred action" for name in ("MLP", "WGAN")}
    assert set(found) == {"DDR-II", "MLP", "WGAN"} | inferred
    for row in found.values():
        assert {"fresh_mse", "fresh_bias", "recorded_mse", "recorded_mse_of_variance"} < set(
            row
        )
        assert all(math.isfinite(value) for value in row.values())
    for part in ("fresh_mse", "recorded_mse"):
        assert found["MLP"][part] != found["MLP, inferred action"][part]
    recorded = load_arrays(folders["data"])
    mlp = RewardMLP.load(folders["reward-mlp"])
    source = recorded.step_state
    s, s2 = recorded.observations[source], recorded.observations[source + 1]
    error = mlp.predict(s, recorded.actions, s2) - recorded.rewards
    # of a sample of the steps
    shown = found["MLP"]
    difference = abs(shown["recorded_mse"] - np.square(error).mean())
    assert difference < 5 * shown["recorded_mse_error"]
    assert "reward-errors" not in build_graph(settings, data_key(load_recorded(settings)))


def test_nothing_generated_leaves_nothing_fresh_to_compare_on(storage: Path) -> None:
    with pytest.raises(ConfigError, match="Rewards are compared on generated states"):
        run(plain(storage), extras=("reward-errors",))
