"""Which tasks a place has data for, and what is mixed of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tskd_ray.config.load import load_config
from tskd_ray.data import tasks
from tskd_ray.data.columnar import write_parquet
from tskd_ray.data.d4rl import write_d4rl
from tskd_ray.data.environments import reference_scores
from tskd_ray.data.load import load_trajectories
from tskd_ray.data.tasks import find_tasks
from tskd_ray.data.trajectories import EnvironmentSpec, Trajectories
from tskd_ray.errors import ConfigError
from tskd_ray.pipeline.recorded import data_key


@pytest.fixture(scope="module")
def episodes() -> Trajectories:
    return load_trajectories("builtin:hopper-medium-replay").take(np.arange(8))


def test_a_folder_has_the_tasks_whose_files_it_holds(
    episodes: Trajectories, tmp_path: Path
) -> None:
    write_d4rl(episodes, tmp_path / "hopper-medium.hdf5")
    write_parquet(episodes, tmp_path / "hopper-medium-replay")
    (tmp_path / "notes.txt").write_text("no task")
    found = find_tasks([str(tmp_path)], [], tmp_path / "mixes")
    assert [task.name for task in found] == ["hopper-medium", "hopper-medium-replay"]
    assert found[0].overrides == [
        f"data.source={tmp_path}/hopper-medium.hdf5",
        "data.environment=Hopper-v5",
    ]
    assert found[1].overrides == [f"data.source={tmp_path}/hopper-medium-replay"]
    (only,) = find_tasks([str(tmp_path)], ["hopper-medium-replay"], tmp_path / "mixes")
    assert only == found[1]


def test_medium_expert_is_mixed_once_of_its_parts(
    episodes: Trajectories, tmp_path: Path
) -> None:
    walker = EnvironmentSpec(id="Hopper-v5")
    for level, part in (("medium", np.arange(5)), ("expert", np.arange(5, 8))):
        data = replace(episodes.take(part), environment=walker)
        write_d4rl(data, tmp_path / f"hopper-{level}.hdf5")
    mixes = tmp_path / "mixes"
    names = ["hopper-medium-expert"]
    (task,) = find_tasks([str(tmp_path)], names, mixes)
    mixed = load_trajectories(task.source)
    assert np.array_equal(mixed.observations, episodes.observations)
    assert task.environment is None, "it says so itself"
    before = (Path(task.source) / "mix.json").stat().st_mtime_ns
    assert find_tasks([str(tmp_path)], names, mixes) == [task]
    assert (Path(task.source) / "mix.json").stat().st_mtime_ns == before
    assert list(mixes.iterdir()) == [Path(task.source)]


def test_changed_parts_are_mixed_anew_and_equal_ones_have_the_same_key(
    episodes: Trajectories, tmp_path: Path
) -> None:
    def mixed(folder: str, medium: float) -> Trajectories:
        (tmp_path / folder).mkdir(exist_ok=True)
        for level, reward in (("medium", medium), ("expert", 2.0)):
            priced = replace(episodes, rewards=np.full_like(episodes.rewards, reward))
            (tmp_path / folder / f"hopper-{level}.hdf5").unlink(missing_ok=True)
            write_d4rl(priced, tmp_path / folder / f"hopper-{level}.hdf5")
        names = ["hopper-medium-expert"]
        (task,) = find_tasks([str(tmp_path / folder)], names, tmp_path / "mixes")
        return load_trajectories(task.source)

    first, elsewhere = mixed("a", 1.0), mixed("b", 5.0)
    assert (first.rewards.min(), elsewhere.rewards.max()) == (1.0, 5.0)
    assert mixed("a", 3.0).rewards.max() == 3.0, "the file in its place is another one"
    assert data_key(mixed("c", 1.0)) == data_key(first), "what follows from it stays"


def test_the_first_of_two_commands_that_mix_the_same_wins(
    episodes: Trajectories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for level in ("medium", "expert"):
        write_d4rl(episodes, tmp_path / f"hopper-{level}.hdf5")
    asked = ([str(tmp_path)], ["hopper-medium-expert"], tmp_path / "mixes")
    mix, other = tasks.data_mix, list[tasks.TaskData]()

    def slow(*args: Any, **settings: Any) -> None:
        mix(*args, **settings)
        monkeypatch.setattr(tasks, "data_mix", mix)
        other.extend(find_tasks(*asked))

    monkeypatch.setattr(tasks, "data_mix", slow)
    assert find_tasks(*asked) == other
    assert list((tmp_path / "mixes").iterdir()) == [Path(other[0].source)]


def test_walkers_of_d4rl_stand_on_the_older_file() -> None:
    (task,) = find_tasks(["walker2d-medium=w.hdf5"], [], Path("mixes"))
    config = load_config("small", task.overrides)
    assert config.data.environment == "Walker2d-v5"
    assert config.data.environment_kwargs == {"xml_file": "walker2d.xml"}


@pytest.mark.parametrize("source", ["folder", "k.hdf5", "D4RL/kitchen/mixed-v2"])
def test_kitchens_are_scored_by_the_rules_of_d4rl_whatever_the_data_say(source: str) -> None:
    (task,) = find_tasks([f"kitchen-mixed={source}"], [], Path("mixes"))
    data = load_config("paper-kitchen", task.overrides).data
    assert (data.source, data.environment) == (source, "FrankaKitchen-v1")
    subtasks = ["microwave", "kettle", "bottom burner", "light switch"]
    assert data.environment_kwargs == {"tasks_to_complete": subtasks}
    assert reference_scores("FrankaKitchen-v1", data.environment_kwargs) == (0.0, 4.0)
    (partial,) = find_tasks([f"kitchen-partial={source}"], [], Path("mixes"))
    assert "slide cabinet" in partial.environment_kwargs["tasks_to_complete"]


def test_without_a_place_there_is_the_built_in_data() -> None:
    (task,) = find_tasks([], [], Path("mixes"))
    assert task.source == "builtin:hopper-medium-replay"


@pytest.mark.parametrize(
    ("places", "wanted", "message"),
    [
        (["hoper=x.hdf5"], [], "A task is one of .*Got hoper"),
        ([], ["hoper"], "A task is one of .*Got hoper"),
        (["nowhere/"], [], "--data is NAME=SOURCE or a folder. Got nowhere"),
        ([], ["walker2d-medium"], "has none of walker2d-medium"),
    ],
)
def test_what_has_no_data_is_told(places: list[str], wanted: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_tasks(places, wanted, Path("mixes"))
