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
from tskd_ray.data.arrays import load_arrays, save_arrays
from tskd_ray.data.extensions import reward_extension
from tskd_ray.data.load import load_trajectories
from tskd_ray.data.trajectories import Origin, Trajectories
from tskd_ray.distributed.generate import Arrays, Shard
from tskd_ray.entry_points import BUILT_IN
from tskd_ray.errors import ConfigError, DataError, StageError
from tskd_ray.models.checkpoint import save_model
from tskd_ray.models.inverse_dynamics import InverseDynamics
from tskd_ray.models.students import ExtensionPolicy, load_student
from tskd_ray.pipeline.extension_stages import (
    REWARD_EXTENSION,
    by_extension,
    fit_generator,
    walks_by_extension,
)
from tskd_ray.pipeline.graph import build_graph, needed
from tskd_ray.pipeline.hop_models import reward_model
from tskd_ray.pipeline.manifest import artifact_key
from tskd_ray.pipeline.runner import Runner
from tskd_ray.pipeline.spread import GenerationWorker
from tskd_ray.pipeline.stages import Work, first_student
from tskd_ray.pipeline.summary import build_metrics, build_plots
from tskd_ray.seeding import numpy_rng
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


def test_what_generates_stitches_prices_and_selects_on_the_page_works_in_a_run(
    page: Any, tmp_path: Path
) -> None:
    config = extended(tmp_path, select=SETTINGS["select"])
    runner = Runner(config)
    assert not {"ddr1", "ddr2", "transition", "dynamics", "hops-1"} & runner.graph.keys()
    runner.complete(needed(runner.graph, ["select"]))
    folders = {name: folder_of(runner, name) for name in needed_names(runner)}
    names = ("data", "generate-1", "stitch-1", "select")
    recorded, generated, stitched, kept = (load_arrays(folders[name]) for name in names)

    world = page.LinearWorld(**SETTINGS["generate"]["settings"])
    learned = world.fit(recorded, config.seed)
    assert generated.episode_id.tolist() == [recorded.episode_id.max() + n for n in range(1, 5)]
    assert set(generated.origin) == set(generated.episode_origin) == {Origin.GENERATED}
    for number, episode in enumerate(generated.episodes()):
        alone = world.episode(learned, recorded, numpy_rng(config.seed, "generate", 1, number))
        for name in ("observations", "actions", "rewards"):
            np.testing.assert_allclose(episode[name], alone[name], rtol=1e-6, atol=1e-6)

    hops = np.flatnonzero(stitched.origin == Origin.STITCHED)
    assert len(hops) > 5
    assert set(stitched.step_episode[hops]) <= set(
        np.flatnonzero(stitched.episode_origin == Origin.STITCHED)
    )
    assert_provenance_is_true(stitched, [recorded, generated])
    s = stitched.observations[stitched.step_state[hops]]
    s2 = stitched.observations[stitched.step_state[hops] + 1]
    a = InverseDynamics.load(folders["inverse-dynamics"]).predict(s, s2)
    np.testing.assert_allclose(stitched.actions[hops], a, rtol=1e-5, atol=1e-5)
    expected = page.rows(s, a, s2) @ ridge_regression(page, recorded)
    np.testing.assert_allclose(stitched.rewards[hops], expected, rtol=1e-3, atol=1e-3)

    np.testing.assert_array_equal(kept.episode_id, stitched.episode_id[stitched.lengths >= 20])
    assert 0 < kept.n_episodes < stitched.n_episodes

    metrics = build_metrics(config, folders, [])
    assert (metrics.rollout, metrics.epochs[0].decided) == ("extension", None)
    assert metrics.epochs[0].hops_used >= len(np.unique(s, axis=0))
    walks = build_plots(folders).walks
    assert walks
    assert all(len(walk.hops) == 1 and walk.before is not None for walk in walks)


def assert_provenance_is_true(stitched: Trajectories, sources: list[Trajectories]) -> None:
    """Each step is that of the episode that it names, but for what acts in a hop."""
    episodes = {e["episode_id"]: e for part in sources for e in part.episodes()}
    for episode in stitched.episodes():
        for i, origin in enumerate(episode["origin"]):
            source = episodes[episode["source_episode"][i]]
            at = episode["source_step"][i]
            pairs = [(episode["observations"][i], source["observations"][at])]
            if origin != Origin.STITCHED:
                assert origin == source["episode_origin"]
                pairs.append((episode["observations"][i + 1], source["observations"][at + 1]))
                pairs.append((episode["actions"][i], source["actions"][at]))
            for got, want in pairs:
                np.testing.assert_array_equal(got, want)


def ridge_regression(page: Any, recorded: Trajectories) -> Any:
    """By least squares on rows more."""
    state = recorded.step_state
    x = page.rows(
        recorded.observations[state], recorded.actions, recorded.observations[state + 1]
    )
    return np.linalg.lstsq(
        np.concatenate([x, np.sqrt(0.1) * np.eye(x.shape[1])]),
        np.concatenate([recorded.rewards, np.zeros(x.shape[1])]),
    )[0]


def test_a_run_without_our_teacher_has_none_to_measure(page: Any, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"by DDR-I\. Got generate\.method linear-world\. Use"
    ):
        build_graph(extended(tmp_path), DATA, ("planner",))


def test_a_killed_generator_goes_on_and_its_shards_do_not_matter(
    page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    process = GenerationWorker.process

    def killed(worker: GenerationWorker, shard: Shard) -> Arrays:
        done.append(shard.id)
        if len(done) == 3:
            raise KeyboardInterrupt
        return process(worker, shard)

    def generate(name: str, shard_size: int) -> dict[str, bytes]:
        config = extended(tmp_path / name, generate={"shard_size": shard_size})
        runner = Runner(config)
        runner.complete(needed(runner.graph, ["generate-1"]))
        folder = folder_of(runner, "generate-1")
        return {path.name: path.read_bytes() for path in folder.glob("*.npy")}

    whole = generate("whole", 3)
    assert len(whole) == 11
    monkeypatch.setattr(GenerationWorker, "process", killed)
    with pytest.raises(KeyboardInterrupt):
        generate("killed", 1)
    assert generate("killed", 1) == whole
    assert done == [0, 1, 2, 2, 3]


def test_the_student_of_the_page_is_trained_scored_and_kept_as_ours_are(
    page: Any, tmp_path: Path
) -> None:
    config = with_settings(tiny_config(tmp_path), distill=SETTINGS["distill"])
    runner = Runner(config)
    names = ["students-recorded", "scores-recorded", "offline-recorded"]
    runner.complete(needed(runner.graph, names))
    recorded = load_arrays(folder_of(runner, "data"))
    policy = load_student(first_student(folder_of(runner, "students-recorded")))
    x = page.with_one(recorded.observations[recorded.step_state])
    weights = np.linalg.lstsq(
        np.concatenate([x, np.sqrt(0.1) * np.eye(x.shape[1])]),
        np.concatenate([recorded.actions, np.zeros((x.shape[1], 3))]),
    )[0]
    expected = np.clip(x @ weights, -1, 1)
    found = policy.act(recorded.observations[recorded.step_state])  # pyright: ignore
    np.testing.assert_allclose(found, expected, atol=1e-4)
    returns = np.load(folder_of(runner, "scores-recorded") / "returns.npy")
    assert returns.shape == (1, 2, 2)  # one checkpoint, two seeds
    assert returns[0, 0].tolist() == returns[0, 1].tolist()  # it draws nothing
    (folder_of(runner, "offline-recorded") / "offline.json").read_text()


def test_a_student_s_actions_of_another_shape_are_refused(install: Install) -> None:
    install(PARTS.replace('observations) @ fitted["weights"]', "observations)"), ENTRY_POINTS)
    one = np.zeros(1, dtype=np.float32)
    policy = ExtensionPolicy("ridge", {}, {"weights": np.ones((3, 1))}, one, one)
    with pytest.raises(StageError, match=r"ridge must return an array of shape \(4, 1\)"):
        policy.act(np.zeros((4, 2)))


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
    last = {"select", "students-tskd", "scores-tskd", "offline-tskd"}
    after_rewards = {
        name for name in keys(before) if name.startswith(("stitch-", "value-2", "hops-2"))
    } | last
    generation = {
        name
        for name in keys(before)
        if name.startswith(("generate-", "value-", "hops-", "stitch-"))
    } | {"fidelity", *last}
    after_selection = {
        name for name in keys(before) if name.endswith(("-tskd", "-filtered", "select"))
    }
    students = {
        name for name in keys(before) if name.startswith(("students-", "scores-", "offline-"))
    }
    for section, field, chosen, settings, follows in (
        ("generate", "method", "linear-world", {"settings": {"steps": 7}}, generation),
        (
            "stitch",
            "method",
            "one-hop",
            {"settings": {"radius": 2.0}},
            after_rewards - {"hops-2"},
        ),
        ("stitch", "reward", "linear", {"reward_settings": {"ridge": 0.1}}, after_rewards),
        ("select", "by", "long", {"settings": {"steps": 7}}, after_selection),
        ("distill", "method", "ridge", {"settings": {"ridge": 0.1}}, students),
    ):
        install(PARTS, ENTRY_POINTS)
        ours = with_settings(before, **{section: {field: chosen}})
        first = keys(ours)
        assert changed(keys(before), first) == follows
        follows |= first.keys() - keys(before).keys()
        assert changed(first, keys(with_settings(ours, **{section: settings}))) == follows
        install(PARTS.replace('version = "1"', 'version = "2"'), ENTRY_POINTS)
        assert changed(first, keys(ours)) == follows
        other = {g: {f"{n}2": v for n, v in named.items()} for g, named in ENTRY_POINTS.items()}
        install(PARTS, other)
        renamed = with_settings(before, **{section: {field: f"{chosen}2"}})
        assert changed(first, keys(renamed)) == follows


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
            "generate.method=linear",
            "generate.method must be one of ddr, linear-world, or an extension that is "
            "installed; the nearest is linear-world. Got 'linear' in override "
            "'generate.method=linear'.",
        ),
        (
            "stitch.method=one_hop",
            "stitch.method must be one of tskd, mbts, one-hop, or an extension that is "
            "installed; the nearest is one-hop. Got 'one_hop' in override "
            "'stitch.method=one_hop'.",
        ),
        (
            "stitch.settings.radius=1",
            "stitch.settings are those of an extension. Got {'radius': 1} with stitch.method "
            "tskd. Remove them, or name the extension.",
        ),
        (
            "generate.settings.noise=1",
            "generate.settings are those of an extension. Got {'noise': 1} with "
            "generate.method ddr. Remove them, or name the extension.",
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
        ("1 / 0", StageError, r"long raised ZeroDivisionError: division by zero\. Mend its"),
        ("trajectories.rewards.sort()", StageError, r"long raised ValueError: .*read-only"),
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


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        (
            '"observations": states',
            '"observations": np.array(states)[:, 1:]',
            r"must have the widths of the recorded ones, observations 11, actions 3\. Got 10 "
            r"and 3\. Mend the package of extension linear-world\.",
        ),
        (
            "rewards.append(ahead[-1])",
            "rewards.append(np.nan if len(rewards) == 4 else 0)",
            r"must be finite\. rewards of episode 0, step 4 in those from 2 on of linear-world "
            r"holds nan \(3 such rows in all\)\. Mend the package of extension linear-world\.",
        ),
        (
            "actions.shape), -1, 1)",
            "actions.shape), 2, 3)",
            r"Episode 0, step 0 in those from 2 on of linear-world has 2 in dimension 0, "
            r"outside \[-1, 1\] \(\d+ such steps in all\)\. Mend the package",
        ),
        (
            "for rng in rngs]",
            "for rng in rngs[1:]]",
            r"an episode for each of 3 random generators\. Got 2\. Mend the package",
        ),
        (
            "rewards.append(ahead[-1])",
            "pass",
            r"L >= 1 steps has L \+ 1 observations, .* Mend the package",
        ),
        (
            "states, rewards = [",
            "raise RuntimeError('no licence'); states, rewards = [",
            r"^An extension must not fail\. linear-world raised RuntimeError: no licence\. "
            r"Mend its package, or its settings\.$",
        ),
        ('"terminated": False', '"done": False', r"linear-world raised KeyError: 'terminated'"),
        (
            "rng.integers(",
            "recorded.rewards.fill(0) or rng.integers(",
            r"ValueError: .*read-?only",
        ),
    ],
)
def test_what_a_generator_returns_is_checked(
    install: Install, tmp_path: Path, right: str, wrong: str, message: str
) -> None:
    recorded = load_trajectories(tiny_data())
    save_arrays(recorded, tmp_path / "data")
    install(PARTS, ENTRY_POINTS)
    config = extended(tmp_path)
    work = Work(
        name="generator",
        config=config,
        inputs={"data": tmp_path / "data"},
        out=tmp_path / "generator",
        scratch=tmp_path,
    )
    fit_generator(work)
    assert right in PARTS
    install(PARTS.replace(right, wrong), ENTRY_POINTS)
    folders = {"data": tmp_path / "data", "generator": tmp_path / "generator"}
    generated = by_extension(folders, config, epoch=1, first_id=0)
    with pytest.raises(StageError, match=message):
        generated(range(2, 5))


@pytest.mark.parametrize(
    ("learned", "message"),
    [
        ("[1.0]", r"must return arrays of numbers by their names\. Got list\. Mend"),
        ("{'weights': np.array(['a'])}", r"by their names\. Got weights of <U1\. Mend"),
        ("1 / 0", r"linear-world raised ZeroDivisionError: division by zero\. Mend"),
    ],
)
def test_what_an_extension_learns_is_checked(
    install: Install, tmp_path: Path, learned: str, message: str
) -> None:
    code = PARTS.replace(
        "        x = np.concatenate([s, a,",
        f"        return {learned}\n        x = np.concatenate([s, a,",
    )
    assert code != PARTS
    install(code, ENTRY_POINTS)
    save_arrays(load_trajectories(tiny_data()), tmp_path / "data")
    work = Work(
        name="generator",
        config=extended(tmp_path),
        inputs={"data": tmp_path / "data"},
        out=tmp_path / "generator",
        scratch=tmp_path,
    )
    with pytest.raises(StageError, match=message):
        fit_generator(work)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            "[[(0, 0, 3), (999, 0, 1)]]",
            r"^A part of a walk must be of an episode, 0 to \d+\. Part 1 of walk 0 is episode "
            r"999, states 0 to 1\. Mend the package of extension one-hop\.$",
        ),
        ("None", r"^An extension must not fail\. one-hop raised TypeError: 'NoneType' object"),
        ("[[(0, 0, 1)] for _ in 1 / 0]", r"one-hop raised ZeroDivisionError: division by zero"),
        ("trajectories.rewards.fill(9)", r"one-hop raised ValueError: .*read-?only"),
    ],
)
def test_what_a_stitcher_returns_is_checked(
    install: Install, tmp_path: Path, answer: str, message: str
) -> None:
    body = "        states, after = "
    code = PARTS.replace(body, f"        yield from {answer}\n{body}")
    assert answer in code
    install(code, ENTRY_POINTS)
    trajectories = load_trajectories(tiny_data())
    config = extended(tmp_path)
    with pytest.raises(StageError, match=message):
        walks_by_extension(trajectories, config, lambda s: np.zeros(len(s)), epoch=1)


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


def extended(storage: Path, **sections: dict[str, Any]) -> Config:
    """One epoch of the page's generator, stitcher and reward model."""
    ours = {
        "generate": SETTINGS["generate"],
        "stitch": {**SETTINGS["stitch"], "epochs": 1},
    }
    return with_settings(with_settings(tiny_config(storage), **ours), **sections)


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
