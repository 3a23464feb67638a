"""Keys: what changes them, what does not, and what two runs share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from pipeline.tiny import tiny_config
from tskd_ray.config.schema import DIFFUSER_SETTINGS, AWRConfig, Config
from tskd_ray.errors import ConfigError
from tskd_ray.pipeline import graph
from tskd_ray.pipeline.graph import TEACHER, build_graph, needed
from tskd_ray.pipeline.manifest import ArtifactKey, artifact_key
from tskd_ray.pipeline.nodes import VERSIONS, Graph

DATA = artifact_key("data", code_version="1", config={}, inputs={"content": "0"}, seed=0)


def keys(config: Config, data: ArtifactKey = DATA) -> dict[str, str]:
    return {name: node.key.digest for name, node in build_graph(config, data).items()}


def changed(tmp_path: Path, **sections: Any) -> set[str]:
    before = tiny_config(tmp_path)
    after = before.model_copy(
        update={
            name: getattr(before, name).model_copy(update=values)
            if isinstance(values, dict)
            else values
            for name, values in sections.items()
        }
    )
    old, new = keys(before), keys(after)
    assert old.keys() == new.keys()
    return {name for name in old if old[name] != new[name]}


def test_every_node_comes_after_its_inputs(tmp_path: Path) -> None:
    seen: set[str] = set()
    for node in build_graph(tiny_config(tmp_path), DATA).values():
        assert seen.issuperset(node.inputs)
        seen.add(node.name)


def test_each_node_reads_what_the_algorithm_gives_it(tmp_path: Path) -> None:
    nodes = build_graph(tiny_config(tmp_path), DATA)
    read = {name: " ".join(node.inputs) for name, node in nodes.items()}
    learned = ("ddr1", "ddr2", "inverse-dynamics", "transition", "termination", "dynamics")
    recorded = ("students-recorded", "students-filtered")
    rows = ("recorded", "filtered", "tskd")
    assert read == {
        "data": "",
        **dict.fromkeys((*learned, *recorded), "data"),  # nothing that was generated
        **dict.fromkeys(("generate-1", "generate-2"), " ".join(("data", *TEACHER))),
        "value-1": "data generate-1",
        "hops-1": "data generate-1 value-1 dynamics",
        "stitch-1": "data generate-1 hops-1 inverse-dynamics ddr2",
        "value-2": "stitch-1 generate-2",
        "hops-2": "stitch-1 generate-2 value-2 dynamics",
        "stitch-2": "stitch-1 generate-2 hops-2 inverse-dynamics ddr2",
        "select": "stitch-2",
        "students-tskd": "select",
        **{
            f"{what}-{row}": f"students-{row} data"
            for what in ("scores", "offline")
            for row in rows
        },
        "fidelity": "data generate-1",
    }


def test_what_some_nodes_need_is_all_that_they_read_and_nothing_else(tmp_path: Path) -> None:
    nodes = build_graph(tiny_config(tmp_path), DATA)
    names = [node.name for node in needed(nodes, ["generate-1", "scores-recorded"])]
    assert sorted(names) == sorted(
        ["data", *TEACHER, "generate-1", "students-recorded", "scores-recorded"]
    )
    assert names == [name for name in nodes if name in names], "inputs come first"
    assert needed(nodes, []) == []


def test_selection_slack_redoes_selection_and_what_follows_only(tmp_path: Path) -> None:
    assert changed(tmp_path, select={"slack": 500.0}) == {
        "select", "students-tskd", "scores-tskd", "offline-tskd",
        "students-filtered", "scores-filtered", "offline-filtered",
    }  # fmt: skip


def test_radius_keeps_teacher_generation_and_the_first_value(tmp_path: Path) -> None:
    different = changed(tmp_path, stitch={"radius": 0.5})
    assert different == {
        "hops-1", "stitch-1", "value-2", "hops-2", "stitch-2",
        "select", "students-tskd", "scores-tskd", "offline-tskd",
    }  # fmt: skip


def test_settings_of_models_that_a_method_leaves_out_change_no_key(tmp_path: Path) -> None:
    fit = tiny_config(tmp_path).stitch.reward_fit.model_copy(update={"steps": 7})
    assert changed(tmp_path, stitch={"reward_fit": fit, "action_fit": fit}) == set()
    own = {"action": "inverse", "reward": "ddr2", "method": "tskd"}
    assert changed(tmp_path, stitch=own) == set()


def test_settings_of_weighted_cloning_belong_to_its_students_alone(tmp_path: Path) -> None:
    awr = AWRConfig(scale=1.0)
    assert changed(tmp_path, distill={"awr": awr}) == set()
    rows = ("tskd", "filtered", "recorded")
    students = {f"{what}-{row}" for what in ("students", "scores", "offline") for row in rows}
    assert changed(tmp_path, distill={"method": "awr"}) == students
    config = tiny_config(tmp_path)
    digests = {
        keys(config.model_copy(update={"distill": chosen}))["students-tskd"]
        for settings in (AWRConfig(), awr)
        for chosen in [
            config.distill.model_copy(update={"method": "awr", "awr": settings}),
        ]
    }
    assert len(digests) == 2


STUDENTS = "students-recorded students-filtered students-tskd"
SCORES = "scores-recorded scores-filtered scores-tskd"
READ_BY = {
    "teacher.trajectory": "ddr1",
    "teacher.reward": "ddr2",
    "teacher.diffuse_rewards": "ddr1",
    "teacher.discount": "ddr1 ddr2 value-1 value-2",
    **dict.fromkeys(
        (f"teacher.{name}" for name in DIFFUSER_SETTINGS if name != "discount"), "ddr1 ddr2"
    ),
    "teacher.reward_sampler": "stitch-1 stitch-2",
    "teacher.inverse_dynamics": "inverse-dynamics",
    "teacher.transition": "transition termination",
    "generate": "generate-1 generate-2",
    "generate.sampler": "generate-1 generate-2 scores-planner",
    "generate.target_return": "generate-1 generate-2 scores-planner",
    "generate.replan_every": "generate-1 generate-2 scores-planner",
    "generate.warm_steps": "generate-1 generate-2 scores-planner",
    "stitch.radius": "hops-1 hops-2",
    "stitch.metric": "hops-1 hops-2",
    "stitch.candidate": "hops-1 hops-2",
    "stitch.decide": "hops-1 hops-2",
    "stitch.acceptance": "stitch-1 stitch-2",
    "stitch.improvement": "stitch-1 stitch-2",
    "stitch.on_cycle": "stitch-1 stitch-2",
    "stitch.members": "dynamics",
    "stitch.best_members": "dynamics",
    "stitch.dynamics": "dynamics",
    "stitch.value": "value-1 value-2",
    "select": "select students-filtered",
    "distill.seeds": f"{STUDENTS} scores-planner",
    "distill.first_seed": STUDENTS,
    "distill.hidden": STUDENTS,
    "distill.fit": STUDENTS,
    "evaluate.episodes": f"{SCORES} scores-planner",
    "evaluate.first_episode": f"{SCORES} scores-planner",
    "evaluate.checkpoints": STUDENTS,
}
"""The nodes that read a setting, or those of its section, themselves."""

NOT_READ = (
    # where and how, with tests of their own above and below; how results are shown
    "name", "seed", "storage", "compute", "data", "evaluate.film",
    # which nodes there are, and what they read
    "teacher.label", "generate.method", "stitch.epochs", "stitch.method", "stitch.action",
    "stitch.reward", "stitch.value_on", "select.by", "distill.method", "evaluate.offline",
    # of models, methods and extensions that this run leaves out
    "teacher.advantage", "generate.settings", "stitch.settings", "stitch.reward_settings",
    "stitch.action_fit", "stitch.reward_fit", "select.settings", "distill.settings",
    "distill.awr", "distill.td3bc", "distill.iql", "distill.cql", "distill.dt",
    # searches find the same
    "stitch.search", "stitch.index_gib",
)  # fmt: skip


OTHER: dict[str, Any] = {
    "teacher.return_scale": 2.0,
    "generate.warm_steps": 2,
    "generate.max_steps": 9,
    "generate.max_disagreement": 1.5,
    "select.slack": "30%",
    "select.best": "30%",
}
"""Values of settings whose type does not tell another one."""


def others(section: BaseModel, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting that is read, and a value that it does not have, be it a senseless one."""
    for name, field in type(section).model_fields.items():
        value, here = getattr(section, name), f"{path}{name}"
        if longest(here, NOT_READ):
            continue
        if isinstance(value, BaseModel):
            yield from others(value, f"{here}.")
        elif isinstance(value, bool):
            yield here, not value
        elif isinstance(value, int | float):
            yield here, value + 1
        elif isinstance(value, tuple):
            yield here, (*value, 3)
        elif here in OTHER:
            yield here, OTHER[here]
        else:
            yield here, next(one for one in get_args(field.annotation) if one != value)


def with_setting(section: BaseModel, path: str, value: Any) -> Any:
    name, _, rest = path.partition(".")
    inner = with_setting(getattr(section, name), rest, value) if rest else value
    return section.model_copy(update={name: inner})


def longest(path: str, among: Iterable[str]) -> str | None:
    """Of the names those that are the path's, or a section's of it, the longest."""
    own = [name for name in among if path == name or path.startswith(f"{name}.")]
    return max(own, key=len, default=None)


def test_each_setting_is_in_the_keys_of_the_stages_that_read_it_and_of_no_other(
    tmp_path: Path,
) -> None:
    config, seen = tiny_config(tmp_path), set[str]()
    before = build_graph(config, DATA, ("planner",))
    for path, value in others(config):
        name = longest(path, READ_BY)
        assert name, f"which stages read {path}?"
        seen.add(name)
        after = build_graph(with_setting(config, path, value), DATA, ("planner",))
        assert after.keys() == before.keys(), path
        own = {node for node in before if after[node].config != before[node].config}
        assert own == set(READ_BY[name].split()), path
        assert all(after[node].key != before[node].key for node in own)
    assert seen == READ_BY.keys()


def test_more_epochs_share_the_earlier_ones(tmp_path: Path) -> None:
    two = keys(tiny_config(tmp_path))
    settings = tiny_config(tmp_path).model_dump(mode="json")
    settings["stitch"]["epochs"] = 3
    import json

    three = keys(Config.model_validate_json(json.dumps(settings)))
    assert three["stitch-2"] == two["stitch-2"]
    assert three["generate-2"] == two["generate-2"]
    assert three["select"] != two["select"]


@pytest.mark.parametrize(
    "section", [{"name": "other"}, {"storage": "elsewhere"}, {"compute": {"workers": 7}}]
)
def test_names_places_and_workers_change_no_key(
    tmp_path: Path, section: dict[str, Any]
) -> None:
    assert changed(tmp_path, **section) == set()


@pytest.mark.parametrize(
    "section", [{"precision": "bfloat16"}, {"compile": True}, {"training_workers": 2}]
)
def test_arithmetic_of_diffusion_redoes_what_runs_diffusers_and_what_follows(
    tmp_path: Path, section: dict[str, Any]
) -> None:
    everything = set(keys(tiny_config(tmp_path))) - {"data"}
    assert everything - changed(tmp_path, compute=section) == {
        "inverse-dynamics", "transition", "termination", "dynamics",
        "students-recorded", "scores-recorded", "offline-recorded",
        "students-filtered", "scores-filtered", "offline-filtered",
    }  # fmt: skip


def test_advantage_labels_are_ddr1s_alone(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    teacher = config.teacher.model_copy(update={"label": "advantage"})
    labelled = build_graph(config.model_copy(update={"teacher": teacher}), DATA)
    assert labelled["ddr1"].inputs == ("data", "advantage")
    plain = build_graph(config, DATA)
    kept = {name for name, node in plain.items() if node.key == labelled[name].key}
    assert {"ddr2", "inverse-dynamics", "transition", "dynamics", "students-filtered"} <= kept
    assert not {"ddr1", "generate-1", "select"} & kept
    far = teacher.advantage.model_copy(update={"discount": 0.9})
    other = teacher.model_copy(update={"advantage": far})
    assert build_graph(config.model_copy(update={"teacher": other}), DATA)["ddr1"].key not in (
        plain["ddr1"].key, labelled["ddr1"].key,
    )  # fmt: skip
    ignored = config.teacher.model_copy(update={"advantage": far})
    assert build_graph(config.model_copy(update={"teacher": ignored}), DATA) == plain


def on_cuda(tmp_path: Path, **settings: Any) -> dict[str, str]:
    config = tiny_config(tmp_path)
    compute = config.compute.model_copy(update={"device": "cuda", **settings})
    made = build_graph(config.model_copy(update={"compute": compute}), DATA, ("planner",))
    return {name: node.key.digest for name, node in made.items()}


def test_a_gpu_redoes_what_runs_on_it_and_what_follows(tmp_path: Path) -> None:
    there, here = on_cuda(tmp_path), on_cuda(tmp_path, device="cpu")
    assert {name for name in here if here[name] == there[name]} == {
        "data", "transition", "termination", "dynamics", "inverse-dynamics",
        *(f"{stage}-{of}" for stage in ("students", "scores", "offline")
          for of in ("recorded", "filtered")),
    }  # fmt: skip


def test_on_a_gpu_trajectories_depend_on_how_many_go_side_by_side(tmp_path: Path) -> None:
    usual, fewer = on_cuda(tmp_path), on_cuda(tmp_path, slots=8)
    redone = {name for name in usual if usual[name] != fewer[name]}
    assert {"generate-1", "scores-planner"} <= redone
    assert not redone & {"ddr1", "ddr2", "scores-recorded"}
    assert on_cuda(tmp_path, slots=64) == usual, "the default"
    on_cpu = on_cuda(tmp_path, device="cpu", slots=8)
    assert on_cpu == on_cuda(tmp_path, device="cpu"), "where no bit depends on it"


def test_the_seed_and_the_data_change_every_key(tmp_path: Path) -> None:
    everything = set(keys(tiny_config(tmp_path))) - {"data"}
    assert changed(tmp_path, seed=1) == everything
    other = artifact_key("data", code_version="1", config={}, inputs={"content": "1"}, seed=0)
    old, new = keys(tiny_config(tmp_path)), keys(tiny_config(tmp_path), other)
    assert all(old[name] != new[name] for name in old)


def test_without_generation_or_stitching_their_stages_are_left_out(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, generate={"trajectories": 0}, stitch={"epochs": 0})
    assert set(keys(config)) == {
        "data", "students-recorded", "students-filtered", "select", "students-tskd",
        "scores-recorded", "scores-filtered", "scores-tskd",
        "offline-recorded", "offline-filtered", "offline-tskd",
    }  # fmt: skip


def test_the_offline_estimate_needs_no_environment_and_can_be_left_out(tmp_path: Path) -> None:
    without = tiny_config(tmp_path, evaluate={"episodes": 0, "checkpoints": 2})
    names = set(keys(without))
    assert {"offline-recorded", "offline-filtered", "offline-tskd"} <= names
    assert not any(name.startswith("scores-") for name in names)
    neither = tiny_config(tmp_path, evaluate={"episodes": 0, "offline": False})
    assert names - set(keys(neither)) == {
        "offline-recorded", "offline-filtered", "offline-tskd",
    }  # fmt: skip


def test_v_is_fitted_on_the_recorded_data_alone_if_asked(tmp_path: Path) -> None:
    stitch = tiny_config(tmp_path).stitch.model_copy(update={"value_on": "recorded"})
    alone = build_graph(tiny_config(tmp_path).model_copy(update={"stitch": stitch}), DATA)
    assert alone["value-1"].inputs == alone["value-2"].inputs == ("data",)
    assert alone["value-1"].key == alone["value-2"].key
    assert alone["hops-2"].inputs == ("stitch-1", "generate-2", "value-2", "dynamics")


@pytest.mark.parametrize(
    ("extra", "section", "field"),
    [
        ("planner", "generate", "trajectories"),
        ("planning", "generate", "trajectories"),
        ("origins", "stitch", "epochs"),
    ],
)
def test_an_extra_that_has_nothing_to_look_at_says_so(
    tmp_path: Path, extra: str, section: str, field: str
) -> None:
    config = tiny_config(tmp_path)
    without = getattr(config, section).model_copy(update={field: 0})
    with pytest.raises(ConfigError, match=rf"Got {section}\.{field}=0\. Set it to 1 or more"):
        build_graph(config.model_copy(update={section: without}), DATA, (extra,))


def test_extras_are_added_to_a_run_whose_own_nodes_keep_their_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(nodes: Graph, config: Config) -> None:
        nodes.add("extra", "evaluate", {"epochs": config.stitch.epochs}, ("students-tskd",))

    monkeypatch.setitem(graph.EXTRAS, "extra", add)
    monkeypatch.setitem(VERSIONS, "extra", "1")
    config = tiny_config(tmp_path)
    with_extra = build_graph(config, DATA, ("extra",))
    extra = with_extra.pop("extra")
    assert extra.inputs == ("students-tskd",)
    assert with_extra == build_graph(config, DATA)
