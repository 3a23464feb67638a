"""Generation spread over workers: what its trajectories are called, and which are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.tiny import tiny_config
from toy_world import toy_trajectories
from tskd_ray.data.arrays import load_arrays
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.diffusion.rollout import End
from tskd_ray.distributed.generate import Shard
from tskd_ray.errors import DataError
from tskd_ray.models.arithmetic import Arithmetic
from tskd_ray.pipeline import spread
from tskd_ray.pipeline.artifacts import ArtifactStore, artifact_key
from tskd_ray.pipeline.recorded import data_key, record_data
from tskd_ray.pipeline.spread import _first_id, run_generation
from tskd_ray.progress import silent

CUT = [End.LEFT_BOX, End.TIME_LIMIT, End.DISAGREEMENT, End.TERMINATED]


def test_generated_episodes_have_ids_that_no_recorded_step_comes_from(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)  # four trajectories per epoch
    recorded = toy_trajectories(5)
    assert [_first_id(recorded, config, epoch) for epoch in (1, 2)] == [5, 9]
    # An augmented dataset, recorded anew: episode 80 is gone, but for a step of it.
    source = np.where(np.arange(recorded.n_steps) == 3, 80, recorded.source_episode)
    augmented = replace(recorded, source_episode=source)
    assert [_first_id(augmented, config, epoch) for epoch in (1, 2)] == [81, 85]


def test_a_shard_is_of_its_numbers_its_epoch_and_the_runs_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path, seed=7)
    compute = config.compute.model_copy(update={"slots": 3})
    config = config.model_copy(update={"compute": compute})
    recorded = toy_trajectories(5)
    store = ArtifactStore(config.storage)
    data = data_key(recorded)
    record_data(store, data, recorded)
    asked: dict[str, Any] = {}

    def load(folders: Any, recorded: Trajectories, *arguments: Any) -> str:
        asked.update(folders=folders, recorded=recorded.n_episodes, arguments=arguments)
        return "teacher"

    def generate(*arguments: Any, **options: Any) -> Any:
        asked.update(options, generating=arguments)
        return SimpleNamespace(
            trajectories=recorded, ends=np.array([1]), disagreement=np.array([0.5])
        )

    monkeypatch.setattr("tskd_ray.diffusion.teacher.Teacher.load", load)
    monkeypatch.setattr("tskd_ray.diffusion.rollout.generate", generate)
    worker = spread.GenerationWorker(store, {"data": data}, config, epoch=2)
    made = worker.process(Shard(id=1, payload={"start": 3, "stop": 5}, items=2))
    assert asked.pop("folders").keys() == {"data"}
    assert asked.pop("arguments") == ("cpu", Arithmetic.of(compute))
    assert asked == {
        "recorded": 5,
        "generating": ("teacher", config.generate),
        "ids": range(3, 5),
        "seed": 7,
        "epoch": 2,
        "first_id": 9,  # after five recorded ones and the four of the first epoch
        "slots": 3,
    }
    assert made["episode_id"].tolist() == recorded.episode_id.tolist()
    assert (made["ends"].tolist(), made["disagreement"].tolist()) == ([1], [0.5])
    vitals: list[Any] = []

    def errors(*arguments: Any) -> dict[str, float]:
        vitals.extend(arguments)
        return {"first_step_error": 0.1}

    monkeypatch.setattr("tskd_ray.diffusion.vitals.plan_errors", errors)
    found, _ = spread.plan_vitals(store=store, config=config, inputs={"data": data})
    assert found == {"first_step_error": 0.1}
    assert (vitals[0], vitals[1].n_episodes) == ("teacher", 5)
    assert vitals[2:] == [config.generate, 7]


class Worker:
    """Makes toy episodes that end as it is told; reads no teacher."""

    recorded: Trajectories
    ends: tuple[End, ...]

    def __init__(self, *given: Any) -> None:
        self.made = toy_trajectories(4, seed=3)
        *_, config, self.epoch = given
        self.first = self.recorded.n_episodes + 4 * (self.epoch - 1)
        assert config.generate.trajectories == 4

    def process(self, shard: Shard) -> dict[str, np.ndarray]:
        number = shard.payload["start"]
        one = self.made.take([number])
        one = replace(one, episode_id=one.episode_id + self.first)
        return {
            **{name: getattr(one, name) for name in spread._COLUMNS},
            "ends": np.array([self.ends[number]], dtype=np.int8),
            "disagreement": np.array([float(number)]),
            "cpu_seconds": np.array(0.0),
        }


@pytest.mark.parametrize(
    ("earned", "ends", "kept"),
    [
        (-1.0, CUT, [1, 3]),
        (1.0, CUT, [0, 1, 2, 3]),
        (-1.0, [End.TIME_LIMIT] * 4, [0, 1, 2, 3]),
        (-1.0, [End.LEFT_BOX] * 4, []),
    ],
)
def test_where_steps_cost_episodes_that_were_cut_are_dropped(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    earned: float,
    ends: list[End],
    kept: list[int],
) -> None:
    config = tiny_config(tmp_path)
    recorded = toy_trajectories(5)
    recorded = replace(recorded, rewards=np.full_like(recorded.rewards, earned))
    monkeypatch.setattr(spread, "GenerationWorker", Worker)
    monkeypatch.setattr(Worker, "recorded", recorded, raising=False)
    monkeypatch.setattr(Worker, "ends", tuple(ends), raising=False)
    monkeypatch.setattr(spread, "_apart", lambda *_, **__: {"first_step_error": 0.1})
    store = ArtifactStore(config.storage)
    data = data_key(recorded)
    record_data(store, data, recorded)
    key = artifact_key("generate", code_version="1", config={}, inputs={"data": data}, seed=0)

    def generated() -> None:
        run_generation(store, key, {"data": data}, config, 2, silent, {})

    if not kept:
        with pytest.raises(DataError, match=r"one must be left\. All 4 left the data's box"):
            generated()
        return
    generated()
    artifact = store.find(key)
    assert artifact is not None
    folder = store.fetch(artifact)
    made = load_arrays(folder)
    assert made.episode_id.tolist() == [recorded.n_episodes + 4 + number for number in kept]
    assert np.load(folder / "ends.npy").tolist() == [ends[number] for number in kept]
    assert np.load(folder / "disagreement.npy").tolist() == kept
    vitals = json.loads((folder / "vitals.json").read_text())
    assert vitals["cut_share"] == sum(end in (2, 3) for end in ends) / 4
    assert vitals.get("dropped") == (4 - len(kept) if earned < 0 else None)
