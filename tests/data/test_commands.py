from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tskd_ray.data.columnar import write_parquet
from tskd_ray.data.commands import (
    FORMATS,
    ONE_FILE,
    Format,
    MixPart,
    data_convert,
    data_info,
    data_mix,
    parse_mix_part,
)
from tskd_ray.data.load import load_trajectories
from tskd_ray.data.trajectories import EnvironmentSpec, Trajectories
from tskd_ray.errors import DataError, StorageError

Make = Callable[..., Trajectories]
Same = Callable[[Trajectories, Trajectories], None]


def rewarded(data: Trajectories, returns: list[float]) -> Trajectories:
    """The same episodes with these returns."""
    rewards = np.zeros(data.n_steps, dtype=np.float32)
    rewards[data.offsets[:-1]] = returns
    return replace(data, rewards=rewards)


def test_info(tmp_path: Path, make_trajectories: Make) -> None:
    write_parquet(rewarded(make_trajectories((5, 2, 9)), [10, 20, 60]), tmp_path)
    info = data_info(tmp_path)
    json.dumps(info)
    assert (info["episodes"], info["steps"]) == (3, 16)
    assert (info["observation_dim"], info["action_dim"]) == (11, 3)
    assert info["returns"]["mean"] == pytest.approx(30)
    assert info["returns"]["sd"] == pytest.approx(np.std([10, 20, 60]))
    assert (info["returns"]["min"], info["returns"]["max"]) == (10, 60)
    assert info["returns"]["quantiles"]["0.5"] == 20
    assert info["lengths"]["max"] == 9
    assert (info["terminated"], info["truncated"], info["unfinished"]) == (2, 1, 0)
    assert info["environment"]["id"] == "Hopper-v5"
    assert info["normalized_score"] == pytest.approx(
        100 * (30 + 20.272305) / (3234.3 + 20.272305)
    )
    assert data_info(tmp_path, scores=(10.0, 50.0))["normalized_score"] == pytest.approx(50)


def test_info_without_environment(tmp_path: Path, make_trajectories: Make) -> None:
    write_parquet(make_trajectories(environment=None), tmp_path)
    info = data_info(tmp_path)
    assert info["environment"] is info["reference_scores"] is info["normalized_score"] is None


@pytest.mark.parametrize("to", [to for to in FORMATS if to not in ("rllib", "d3rlpy")])
def test_every_format_leads_back(
    tmp_path: Path, make_trajectories: Make, assert_same: Same, to: Format
) -> None:
    data = make_trajectories()
    write_parquet(data, tmp_path / "source")
    path = data_convert(tmp_path / "source", tmp_path / f"out-{to}", to=to)
    back = load_trajectories(path)
    if to == "d4rl":  # has no place for provenance
        names = ("origin", "source_episode", "source_step", "episode_id", "episode_origin")
        data = replace(data, **{name: getattr(back, name) for name in names})
    assert_same(back, data)


@pytest.mark.parametrize("to", [to for to in FORMATS if to not in ONE_FILE])
def test_a_folder_that_holds_something_else_is_left_alone(
    tmp_path: Path, make_trajectories: Make, to: Format
) -> None:
    write_parquet(make_trajectories(), tmp_path / "source")
    project = tmp_path / "project"
    project.mkdir()
    (project / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"needs a folder of its own\. .* holds notes\.txt"):
        data_convert(tmp_path / "source", project, to=to)
    assert [path.name for path in project.rglob("*")] == ["notes.txt"]


def test_unknown_format(tmp_path: Path, make_trajectories: Make) -> None:
    write_parquet(make_trajectories(), tmp_path / "source")
    with pytest.raises(DataError, match=r"parquet, minari, d4rl, rllib, d3rlpy. Got 'csv'"):
        data_convert(tmp_path / "source", tmp_path / "out", to="csv")  # pyright: ignore[reportArgumentType]


def test_mix(tmp_path: Path, make_trajectories: Make) -> None:
    medium = rewarded(make_trajectories((4,) * 6, seed=1), [1, 2, 3, 4, 5, 6])
    expert = rewarded(make_trajectories((3, 5), seed=2), [8, 9])
    write_parquet(medium, tmp_path / "medium")
    write_parquet(expert, tmp_path / "expert")
    parts = [
        MixPart(source=str(tmp_path / "medium"), fraction=0.5, min_return=2.5),
        MixPart(source=str(tmp_path / "expert")),
    ]
    note = data_mix(parts, tmp_path / "mix")
    mixed = load_trajectories(tmp_path / "mix")
    # Returns 3, 4, 5, 6 pass; every second of them stays.
    assert mixed.returns.tolist() == [3, 5, 8, 9]
    assert len(set(mixed.episode_id.tolist())) == 4
    shift = note["sources"][1]["id_shift"]
    np.testing.assert_array_equal(mixed.episode_id[2:] - shift, expert.episode_id)
    np.testing.assert_array_equal(mixed.source_episode[-8:] - shift, expert.source_episode)
    assert shift > medium.source_episode.max()
    assert json.loads((tmp_path / "mix" / "mix.json").read_text())["sources"] == note["sources"]
    assert [row["episodes"] for row in note["sources"]] == [2, 2]


def test_mix_to_one_file_keeps_its_note_beside(tmp_path: Path, make_trajectories: Make) -> None:
    write_parquet(make_trajectories(), tmp_path / "a")
    part = MixPart(source=str(tmp_path / "a"))
    data_mix([part, part], tmp_path / "mix.hdf5", to="d4rl")
    assert load_trajectories(tmp_path / "mix.hdf5").n_episodes == 6
    assert (tmp_path / "mix.hdf5.mix.json").is_file()


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.5, 0.99, 1.0])
def test_a_fraction_is_evenly_spaced(
    tmp_path: Path, make_trajectories: Make, fraction: float
) -> None:
    write_parquet(rewarded(make_trajectories((2,) * 10), list(range(10))), tmp_path / "a")
    data_mix([MixPart(source=str(tmp_path / "a"), fraction=fraction)], tmp_path / "mix")
    taken = load_trajectories(tmp_path / "mix").returns
    assert len(taken) == max(1, round(10 * fraction))
    gaps = np.diff(taken)
    assert not len(gaps) or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)


def test_mix_refuses_other_environments(tmp_path: Path, make_trajectories: Make) -> None:
    write_parquet(make_trajectories(), tmp_path / "a")
    other = EnvironmentSpec(id="Hopper-v5", kwargs={"healthy_reward": 2.0})
    write_parquet(make_trajectories(environment=other), tmp_path / "b")
    parts = [MixPart(source=str(tmp_path / name)) for name in "ab"]
    with pytest.raises(DataError, match=r"one environment. Got .*Hopper-v5 with {'healthy"):
        data_mix(parts, tmp_path / "mix")


def test_mix_refuses_an_empty_part(tmp_path: Path, make_trajectories: Make) -> None:
    write_parquet(rewarded(make_trajectories((4, 4)), [1, 2]), tmp_path / "a")
    part = MixPart(source=str(tmp_path / "a"), min_return=5)
    with pytest.raises(DataError, match="returns are 1 to 2, lengths up to 4"):
        data_mix([part], tmp_path / "mix")
    with pytest.raises(DataError, match="at least one source"):
        data_mix([], tmp_path / "mix")


def test_parse_mix_part() -> None:
    assert parse_mix_part("builtin:x") == MixPart(source="builtin:x")
    assert parse_mix_part("a.hdf5?fraction=0.5&min_return=-3&min_steps=9") == MixPart(
        source="a.hdf5", fraction=0.5, min_return=-3.0, min_steps=9
    )
    with pytest.raises(DataError, match="Got 'fracton'"):
        parse_mix_part("a.hdf5?fracton=0.5")
    with pytest.raises(DataError, match="Got 'half'"):
        parse_mix_part("a.hdf5?fraction=half")
    with pytest.raises(DataError, match="fraction must lie in"):
        parse_mix_part("a.hdf5?fraction=1.5")
