"""What each stage hands to the algorithm behind it, and where it puts the answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.tiny import tiny_config
from toy_world import toy_trajectories
from tskd_ray.config.schema import Config, DistillConfig, EvaluateConfig, SelectConfig
from tskd_ray.data.arrays import load_arrays, save_arrays
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.evaluation import fidelity, offline, simulate
from tskd_ray.models import students
from tskd_ray.pipeline import stages
from tskd_ray.pipeline.stages import Work
from tskd_ray.stitching import epoch
from tskd_ray.training import distill


class _Stop(Exception):
    """Nothing after this point is looked at."""


def config(storage: Path, **sections: dict[str, Any]) -> Config:
    made = tiny_config(storage, seed=7)
    return made.model_copy(
        update={
            name: getattr(made, name).model_copy(update=changed)
            for name, changed in sections.items()
        }
    )


def numbered(episodes: int, first: int, **options: Any) -> Trajectories:
    """Toy episodes with ids from `first` on."""
    data = toy_trajectories(episodes, seed=first, **options)
    return replace(data, episode_id=np.arange(first, first + episodes))


def work(
    name: str, folder: Path, settings: Config, inputs: Mapping[str, Trajectories | None]
) -> Work:
    """A stage of inputs that lie in folders of their names."""
    for node, data in inputs.items():
        (folder / node).mkdir()
        if data is not None:
            save_arrays(data, folder / node)
    (folder / "out").mkdir()
    folders = {node: folder / node for node in inputs}
    return Work(
        name=name,
        config=settings,
        inputs=folders,
        out=folder / "out",
        scratch=folder / "scratch",
    )


# -- stitching ---------------------------------------------------------------------------------


@pytest.fixture
def stitched(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What an epoch is given."""
    given: dict[str, Any] = {}

    def finish(joined: Trajectories, decisions: Any, **options: Any) -> None:
        given.update(options, joined=joined, decisions=decisions)
        raise _Stop

    def model(name: str, folders: Any, *more: Any) -> Any:
        return name, sorted(folders), *more

    monkeypatch.setattr(epoch, "finish_epoch", finish)
    monkeypatch.setattr(stages, "action_model", model)
    monkeypatch.setattr(stages, "reward_model", model)
    return given


def decided(folder: Path) -> None:
    np.save(folder / "candidate.npy", np.array([5, -1, 9]))
    np.save(folder / "verdict.npy", np.array([0, 2, 0], dtype=np.int8))
    np.save(folder / "transitions.npy", np.array([2, 4, 7]))
    about = {"radius": 1.5, "neighbours": [1.0, 2.0, 3.0]}
    (folder / "hops.json").write_text(json.dumps(about))


SETTINGS = {
    "acceptance": 0.3,
    "improvement": "paper",
    "on_cycle": "cap",
    "action": "vae",
    "reward": "mlp",
}


def test_an_epoch_has_the_settings_the_models_and_the_decisions_of_its_run(
    tmp_path: Path, stitched: dict[str, Any]
) -> None:
    settings = config(tmp_path, stitch=SETTINGS)
    inputs = {
        "data": numbered(4, 0, limit=25),
        "generate-1": numbered(3, 10, limit=25),
        "hops-1": None,
    }
    one = work("stitch-1", tmp_path, settings, inputs)
    decided(one.inputs["hops-1"])
    with pytest.raises(_Stop):
        stages.stitch(one)
    joined, hops = stitched.pop("joined"), stitched.pop("decisions")
    assert joined.episode_id.tolist() == [0, 1, 2, 3, 10, 11, 12], "recorded ones first (D15)"
    assert hops.transitions.tolist() == [2, 4, 7]
    assert hops.candidate.tolist() == [5, -1, 9]
    assert hops.verdict.tolist() == [0, 2, 0]
    action = ("vae", ["data", "generate-1", "hops-1"])
    assert stitched == {
        "neighbours": [1.0, 2.0, 3.0],
        "action": action,
        "reward": ("mlp", action[1], settings, action),
        "acceptance": 0.3,
        "improvement": "paper",
        "on_cycle": "cap",
        "max_length": 40,  # the environment's limit
        "whole": False,
        "keep": 4,
    }


def test_later_epochs_keep_as_many_and_know_what_the_first_knew_of_the_data(
    tmp_path: Path, stitched: dict[str, Any]
) -> None:
    stitched_before = replace(numbered(4, 0, limit=6), environment=None)
    inputs = {
        "stitch-1": stitched_before,
        "generate-2": numbered(3, 10, limit=9),
        "hops-2": None,
    }
    one = work("stitch-2", tmp_path, config(tmp_path), inputs)
    decided(one.inputs["hops-2"])
    for whole in (True, False):
        (one.inputs["stitch-1"] / "counts.json").write_text(json.dumps({"whole": whole}))
        with pytest.raises(_Stop):
            stages.stitch(one)
        assert stitched["whole"] is whole
    assert stitched["keep"] == 4
    assert stitched["max_length"] == stitched["joined"].lengths.max(), "where none is known"


@dataclass
class Counts:
    replaced: int = 3


def test_where_steps_cost_the_first_epoch_takes_whole_walks_only_and_says_so(
    tmp_path: Path, stitched: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    paying = numbered(4, 0)
    costing = replace(paying, rewards=-paying.rewards)
    # Of the recorded data, whatever the generated ones claim.
    generated = replace(numbered(9, 10), rewards=np.full(numbered(9, 10).n_steps, 50.0))
    inputs = {"data": costing, "generate-1": generated, "hops-1": None}
    one = work("stitch-1", tmp_path, config(tmp_path), inputs)
    decided(one.inputs["hops-1"])
    with pytest.raises(_Stop):
        stages.stitch(one)
    assert stitched["whole"] is True
    result = SimpleNamespace(trajectories=paying, counts=Counts())
    monkeypatch.setattr(epoch, "finish_epoch", lambda *_, **__: result)
    stages.stitch(one)
    told = json.loads((one.out / "counts.json").read_text())
    assert told == {"radius": 1.5, "whole": True, "counts": {"replaced": 3}}
    assert load_arrays(one.out).episode_id.tolist() == paying.episode_id.tolist()


# -- students ----------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ["recorded", "filtered", "tskd"])
def test_students_learn_from_the_data_of_their_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: str
) -> None:
    fit = tiny_config(tmp_path).distill.fit
    distillation = DistillConfig(seeds=3, first_seed=4, fit=fit)
    settings = config(
        tmp_path,
        select={"best": "50%", "minimum_episodes": 1},
        evaluate={"checkpoints": 3},
    ).model_copy(update={"distill": distillation})
    given: dict[str, Any] = {}

    def no_training(datasets: Any, *arguments: Any, **options: Any) -> None:
        given.update(options, datasets=datasets, arguments=arguments)
        raise _Stop

    monkeypatch.setattr(distill, "distill", no_training)
    data = numbered(6, 0)
    source = "select" if row == "tskd" else "data"
    one = work(f"students-{row}", tmp_path, settings, {source: data})
    with pytest.raises(_Stop):
        stages.train_students(one)
    (learned,) = given["datasets"].values()
    best = sorted(range(6), key=lambda number: -data.returns[number])[:3]
    expected = sorted(best) if row == "filtered" else list(range(6))
    assert learned.episode_id.tolist() == expected
    # The same name for all rows: their first weights and batch numbers do not differ.
    assert list(given["datasets"]) == ["student"]
    assert given["arguments"] == (distillation, 7)
    assert (given["checkpoints"], given["resume"]) == (3, tmp_path / "scratch")


def test_each_student_lies_where_its_checkpoint_and_its_number_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass
    class Named:
        name: str

        def save(self, folder: Path) -> None:
            folder.mkdir(parents=True)
            (folder / "name").write_text(self.name)

    policies = tuple(tuple(Named(f"{step} {seed}") for seed in "abc") for step in (20, 40))
    made = distill.Students(steps=(20, 40), policies=policies)
    monkeypatch.setattr(distill, "distill", lambda *_, **__: {"student": made})
    distillation = DistillConfig(seeds=3, first_seed=7)
    settings = config(tmp_path).model_copy(update={"distill": distillation})
    data = numbered(6, 0)
    one = work("students-tskd", tmp_path, settings, {"select": data})
    stages.train_students(one)
    for step in (20, 40):
        for number, seed in enumerate("abc"):
            place = one.out / f"step-{step}" / f"seed-{number}" / "name"
            assert place.read_text() == f"{step} {seed}"
    told = json.loads((one.out / "students.json").read_text())
    expected = {"steps": [20, 40], "seeds": 3, "episodes": 6, "transitions": data.n_steps}
    assert told == expected


def test_what_selection_keeps_is_what_the_student_gets(tmp_path: Path) -> None:
    data = numbered(6, 0)
    slack = float(np.sort(data.returns)[-1] - np.sort(data.returns)[-3])
    chosen = SelectConfig(slack=slack + 1e-6, minimum_episodes=1)
    settings = config(tmp_path).model_copy(update={"select": chosen})
    one = work("select", tmp_path, settings, {"stitch-2": data})
    stages.select_trajectories(one)
    kept = load_arrays(one.out)
    expected = [
        number
        for number in range(6)
        if data.returns[number] >= data.returns.max() - slack - 1e-6
    ]
    assert kept.episode_id.tolist() == expected
    assert len(expected) == 3
    told = json.loads((one.out / "selection.json").read_text())
    assert told["survivors"] == {"recorded": [3, 6]}


def named_students(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two checkpoints of three seeds; a student is its folder's name."""
    about = {"steps": [20, 40], "seeds": 3, "episodes": 5, "transitions": 99}
    (folder / "students.json").write_text(json.dumps(about))

    def load(place: Path) -> str:
        return str(place.relative_to(folder))

    monkeypatch.setattr(students, "load_student", load)


def test_scores_are_of_checkpoint_seed_and_episode_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = EvaluateConfig(episodes=4, first_episode=9)
    settings = config(tmp_path).model_copy(update={"evaluate": scored})
    data = numbered(3, 0)
    one = work("scores-tskd", tmp_path, settings, {"students-tskd": None, "data": data})
    named_students(one.inputs["students-tskd"], monkeypatch)
    asked: list[Any] = []

    def evaluate(policies: list[str], *arguments: Any, **options: Any) -> Any:
        asked.append((arguments, options["first"]))
        step_seed = [[int(part.split("-")[1]) for part in name.split("/")] for name in policies]
        return np.array(
            [[step * 100 + seed * 10 + e for e in range(4)] for step, seed in step_seed]
        )

    monkeypatch.setattr(simulate, "evaluate", evaluate)
    stages.score_students(one)
    assert asked == [((data.environment, 4, 7), 9)]
    returns = np.load(one.out / "returns.npy")
    assert returns.tolist() == [
        [[step * 100 + seed * 10 + e for e in range(4)] for seed in range(3)]
        for step in (20, 40)
    ]


def test_who_is_shown_exported_and_filmed_is_the_final_first_student(tmp_path: Path) -> None:
    (tmp_path / "students.json").write_text(json.dumps({"steps": [20, 40], "seeds": 3}))
    assert stages.first_student(tmp_path) == tmp_path / "step-40" / "seed-0"


def test_only_final_students_are_estimated_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = numbered(3, 0)
    inputs = {"students-tskd": None, "data": data}
    one = work("offline-tskd", tmp_path, config(tmp_path), inputs)
    named_students(one.inputs["students-tskd"], monkeypatch)
    asked: dict[str, Any] = {}

    def estimate(policies: list[str], recorded: Trajectories, *, seed: int) -> Any:
        asked.update(policies=policies, episodes=recorded.n_episodes, seed=seed)
        found = SimpleNamespace(per_seed=np.arange(3.0), value=1.0)
        return type("Found", (SimpleNamespace,), {"share_of_best": 0.5})(**vars(found))

    monkeypatch.setattr(offline, "estimate_returns", estimate)
    stages.estimate_students(one)
    assert asked == {
        "policies": [f"step-40/seed-{number}" for number in range(3)],
        "episodes": 3,
        "seed": 7,
    }
    told = json.loads((one.out / "offline.json").read_text())
    assert told == {"per_seed": [0.0, 1.0, 2.0], "value": 1.0, "share_of_best": 0.5}


def test_claimed_returns_are_compared_with_the_replayed_ones_of_the_same_episodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded, generated = numbered(3, 0), numbered(45, 10)
    inputs = {"data": recorded, "generate-1": generated}
    one = work("fidelity", tmp_path, config(tmp_path), inputs)
    asked: dict[str, Any] = {}

    def steps(trajectories: Trajectories, environment: Any, seed: int, **options: Any) -> Any:
        asked.update(options, steps_of=trajectories.episode_id[0], seed=seed)
        return SimpleNamespace(summary=lambda: {"step_error_median": 0.25})

    def replay(trajectories: Trajectories, environment: Any, episodes: Any) -> Any:
        asked["replayed"] = episodes.tolist()
        return 3.0 * trajectories.returns[episodes]

    monkeypatch.setattr(fidelity, "one_step_fidelity", steps)
    monkeypatch.setattr(fidelity, "replay_returns", replay)
    stages.check_fidelity(one)
    assert (asked["steps_of"], asked["seed"]) == (10, 7)
    moves = np.concatenate(
        [np.diff(recorded.episode(number)["observations"], axis=0) for number in range(3)]
    )
    np.testing.assert_allclose(asked["step_std"], moves.std(axis=0), rtol=1e-4)
    chosen = asked["replayed"]
    assert (len(chosen), chosen[0], chosen[-1]) == (20, 0, 44)
    claimed = float(np.mean([generated.returns[number] for number in chosen]))
    told = json.loads((one.out / "fidelity.json").read_text())
    assert told["claimed_return"] == pytest.approx(claimed)
    assert told["replayed_return"] == pytest.approx(3 * claimed)
    assert told["reward_sd"] == pytest.approx(float(recorded.rewards.std()), rel=1e-5)
    assert told["step_error_median"] == 0.25
