"""The page on extensions: its code is installed and used; and what wrong ones are told."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import tskd_ray
from pipeline.tiny import tiny_config
from tskd_ray import entry_points
from tskd_ray.config.load import load_config, overlay, validate
from tskd_ray.config.schema import Config, SelectConfig, StitchConfig
from tskd_ray.data.arrays import load_arrays
from tskd_ray.data.extensions import reward_extension
from tskd_ray.data.load import load_trajectories
from tskd_ray.data.trajectories import Origin
from tskd_ray.entry_points import BUILT_IN
from tskd_ray.errors import ConfigError, DataError, StageError
from tskd_ray.models.checkpoint import save_model
from tskd_ray.models.inverse_dynamics import InverseDynamics
from tskd_ray.pipeline.graph import build_graph, needed
from tskd_ray.pipeline.hop_models import REWARD_EXTENSION, reward_model
from tskd_ray.pipeline.manifest import artifact_key
from tskd_ray.pipeline.run import RunResult
from tskd_ray.pipeline.runner import Runner
from tskd_ray.training.select import select

PAGE = (Path(tskd_ray.__file__).parent.parent / "docs/extending.md").read_text()
DATA = artifact_key("data", code_version="1", config={}, inputs={"content": "0"}, seed=0)

Install = Callable[[str, dict[str, dict[str, str]]], None]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


PARTS = "\n".join(blocks("python"))
ENTRY_POINTS: dict[str, dict[str, str]] = tomllib.loads(blocks("toml")[0])["project"][
    "entry-points"
]
SETTINGS: dict[str, dict[str, Any]] = {}
for block in blocks("yaml"):
    for section, values in yaml.safe_load(block).items():
        SETTINGS.setdefault(section, {}).update(values)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a package of one module, `my_parts`, as pip would."""
    folder = tmp_path / "site"
    monkeypatch.syspath_prepend(folder)

    def installed(code: str, points: dict[str, dict[str, str]]) -> None:
        about = folder / "my_parts-1.0.dist-info"
        shutil.rmtree(folder, ignore_errors=True)
        sys.modules.pop("my_parts", None)
        about.mkdir(parents=True)
        (folder / "my_parts.py").write_text(code)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-parts\nVersion: 1.0\n")
        lines = (
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in named.items())
            for group, named in points.items()
        )
        (about / "entry_points.txt").write_text("\n".join(lines))
        importlib.invalidate_caches()

    yield installed
    sys.modules.pop("my_parts", None)


@pytest.fixture
def page(install: Install) -> Any:
    install(PARTS, ENTRY_POINTS)
    import my_parts  # pyright: ignore[reportMissingImports]

    return my_parts


def test_the_page_adds_each_part_in_under_40_lines() -> None:
    assert all(len(code.splitlines()) < 40 for code in blocks("python"))
    assert set(re.findall(r"`tskd_ray\.(\w+)`", PAGE)) == set(BUILT_IN)
    assert set(ENTRY_POINTS) == {f"tskd_ray.{group}" for group in BUILT_IN}


def test_the_reward_model_and_the_selector_of_the_page_work_in_a_run(
    undisturbed: RunResult, page: Any, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed.folder.parents[1], tmp_path / "storage")
    config = with_settings(
        tiny_config(tmp_path / "storage"),
        stitch={"epochs": 1, **SETTINGS["stitch"]},
        generate={"trajectories": 0},
        select=SETTINGS["select"],
    )
    runner = Runner(config)
    assert "ddr2" not in runner.graph
    runner.complete(needed(runner.graph, ["select"]))
    folders = {name: folder_of(runner, name) for name in needed_names(runner)}
    stitched, recorded = load_arrays(folders["stitch-1"]), load_arrays(folders["data"])

    state = recorded.step_state
    x = page.rows(
        recorded.observations[state], recorded.actions, recorded.observations[state + 1]
    )
    # Ridge regression as least squares on rows more.
    weights = np.linalg.lstsq(
        np.concatenate([x, np.sqrt(0.1) * np.eye(x.shape[1])]),
        np.concatenate([recorded.rewards, np.zeros(x.shape[1])]),
    )[0]
    hops = np.flatnonzero(stitched.origin == Origin.STITCHED)
    assert len(hops) > 5
    s = stitched.observations[stitched.step_state[hops]]
    s2 = stitched.observations[stitched.step_state[hops] + 1]
    a = InverseDynamics.load(folders["inverse-dynamics"]).predict(s, s2)
    expected = page.rows(s, a, s2) @ weights
    np.testing.assert_allclose(stitched.rewards[hops], expected, rtol=1e-3, atol=1e-3)

    kept = load_arrays(folders["select"])
    assert 0 < kept.n_episodes < stitched.n_episodes
    np.testing.assert_array_equal(kept.episode_id, stitched.episode_id[stitched.lengths >= 20])


def test_the_format_of_the_page_reads_what_is_checked_as_any_dataset(
    page: Any, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "observations": rng.normal(size=(3, 5, 2)),
        "actions": rng.uniform(-1, 1, (3, 4, 1)),
        "rewards": rng.normal(size=(3, 4)),
    }
    np.savez(tmp_path / "episodes.npz", **arrays)
    data = load_trajectories(f"npz:{tmp_path}/episodes.npz")
    np.testing.assert_array_equal(data.observations, arrays["observations"].reshape(15, 2))
    np.testing.assert_array_equal(data.rewards, arrays["rewards"].ravel())
    arrays["rewards"][1, 2] = np.nan
    np.savez(tmp_path / "episodes.npz", **arrays)
    with pytest.raises(DataError, match="rewards of episode 1, step 2"):
        load_trajectories(f"npz:{tmp_path}/episodes.npz")
    with pytest.raises(
        DataError, match=r"read by that extension\. nowhere\.npz cannot be read"
    ):
        load_trajectories("npz:nowhere.npz")
    with pytest.raises(DataError, match=r"Got 'npy:a'; the nearest is npz\."):
        load_trajectories("npy:a")


def test_name_version_and_settings_are_in_the_keys_of_what_follows(
    install: Install, tmp_path: Path
) -> None:
    before = tiny_config(tmp_path)
    after_rewards = {
        name for name in keys(before) if name.startswith(("stitch-", "value-2", "hops-2"))
    } | {"select", "students-tskd", "scores-tskd", "offline-tskd"}
    after_selection = {
        name for name in keys(before) if name.endswith(("-tskd", "-filtered", "select"))
    }
    for section, chosen, follows in (
        ("stitch", {"reward": "linear"}, after_rewards),
        ("select", {"by": "long"}, after_selection),
    ):
        field = "reward_settings" if section == "stitch" else "settings"
        value = {"ridge": 0.1} if section == "stitch" else {"steps": 7}
        install(PARTS, ENTRY_POINTS)
        ours = with_settings(before, **{section: chosen})
        first = keys(ours)
        assert changed(keys(before), first) == follows
        follows |= {"reward-extension"} & first.keys()
        assert changed(first, keys(with_settings(ours, **{section: {field: value}}))) == follows
        install(PARTS.replace('version = "1"', 'version = "2"'), ENTRY_POINTS)
        assert changed(first, keys(ours)) == follows
        other = {g: {f"{n}2": v for n, v in named.items()} for g, named in ENTRY_POINTS.items()}
        install(PARTS, other)
        renamed = {key: f"{name}2" for key, name in chosen.items()}
        assert changed(first, keys(with_settings(before, **{section: renamed}))) == follows


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "stitch.reward=linaer",
            "stitch.reward must be one of ddr2, mlp, wgan, simulator, linear, or an extension "
            "that is installed; the nearest is linear. Got 'linaer' in override "
            "'stitch.reward=linaer'.",
        ),
        (
            "select.by=os.path",
            "select.by must be one of return, long, or an extension that is installed. Got "
            "'os.path' in override 'select.by=os.path'.",
        ),
        (
            "stitch.reward_settings.ridge=1",
            "stitch.reward_settings are those of an extension. Got {'ridge': 1} with "
            "stitch.reward ddr2. Remove them, or name the extension.",
        ),
        (
            "stitch={reward: linear, reward_settings: {ridge: 0}}",
            "Settings of an extension must be such as it takes. Got {'ridge': 0} for extension "
            "linear of tskd_ray.reward_models: ridge must be positive, got 0. Correct them.",
        ),
        (
            "select={by: long, settings: {stesp: 3}}",
            "Settings of an extension must be such as it takes. Got {'stesp': 3} for extension "
            "long of tskd_ray.selectors: LongEpisodes.__init__() got an unexpected keyword "
            "argument 'stesp'. Correct them.",
        ),
    ],
)
def test_a_wrong_name_or_setting_is_one_line(page: Any, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_graph(load_config("small", [override]), DATA)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise RuntimeError('no GPU')", "my_parts:LinearReward: no GPU. Mend or uninstall"),
        ("LinearReward = dict", "which is no RewardModel. Mend its package"),
        ("", "has no attribute 'LinearReward'. Mend or uninstall"),
    ],
)
def test_a_package_that_is_wrong_is_told(install: Install, code: str, message: str) -> None:
    install(code, ENTRY_POINTS)
    config = load_config("small", ["stitch.reward=linear"])
    with pytest.raises(ConfigError, match=re.escape(message)):
        build_graph(config, DATA)


def test_what_is_not_installed_on_a_worker_and_what_is_twice_is_told(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(PARTS, ENTRY_POINTS)
    stitch = StitchConfig(reward="linear")
    install(PARTS, {})
    with pytest.raises(ConfigError, match="must be installed, on each machine"):
        reward_extension(stitch)
    twice = [EntryPoint("linear", f"{one}:Reward", "") for one in ("one", "two")]
    monkeypatch.setattr(entry_points, "entry_points", lambda group: twice)
    with pytest.raises(
        ConfigError, match=r"from one:Reward, two:Reward\. Uninstall all but one"
    ):
        reward_extension(stitch)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ("np.array([0.5])", StageError, r"must return numbers of episodes, integers from 0 to"),
        ("np.array([-1])", StageError, r"must return numbers of episodes, integers from 0 to"),
        ("np.arange(3)", DataError, r"at least 5 episodes\. long keeps 3 of"),
    ],
)
def test_what_a_selector_returns_is_checked(
    install: Install, answer: str, error: type[Exception], message: str
) -> None:
    returned = "np.flatnonzero(trajectories.lengths >= self.steps)"
    assert returned in PARTS
    install(PARTS.replace(returned, answer), ENTRY_POINTS)
    with pytest.raises(error, match=message):
        select(load_trajectories(tiny_data()), SelectConfig(by="long"))


def test_rewards_of_another_shape_are_refused(install: Install, tmp_path: Path) -> None:
    install(PARTS.replace('@ fitted["weights"]', '@ fitted["weights"][:, None]'), ENTRY_POINTS)
    save_model(tmp_path, {"weights": np.ones(5)}, {"kind": REWARD_EXTENSION})
    config = with_settings(tiny_config(tmp_path), stitch=SETTINGS["stitch"])
    rewards = reward_model(
        "linear", {"reward-extension": tmp_path}, config, lambda s, s2: np.zeros((len(s), 0))
    )
    states = np.ones((3, 2))
    with pytest.raises(StageError, match=r"linear must return an array of shape \(3,\)\. Got"):
        rewards(states, states)


def test_no_extension_takes_a_name_of_ours(install: Install) -> None:
    install(PARTS, {"tskd_ray.selectors": {"return": "my_parts:LongEpisodes"}})
    data = load_trajectories(tiny_data())
    np.testing.assert_array_equal(
        select(data, SelectConfig(by="return", slack="75%")).indices,
        select(data, SelectConfig(slack="75%")).indices,
    )


def with_settings(config: Config, **sections: dict[str, Any]) -> Config:
    return validate(overlay(config.model_dump(mode="json"), sections), {})


def keys(config: Config) -> dict[str, str]:
    return {name: node.key.digest for name, node in build_graph(config, DATA).items()}


def changed(old: dict[str, str], new: dict[str, str]) -> set[str]:
    """What both have, and not the same."""
    return {name for name in old.keys() & new.keys() if old[name] != new[name]}


def needed_names(runner: Runner) -> list[str]:
    return [node.name for node in needed(runner.graph, ["select"])]


def folder_of(runner: Runner, name: str) -> Path:
    artifact = runner.store.find(runner.graph[name].key)
    assert artifact is not None
    return runner.store.fetch(artifact)


def tiny_data() -> str:
    return tiny_config(Path("unused")).data.source
