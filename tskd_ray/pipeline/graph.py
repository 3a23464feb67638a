"""The stages of a run as a graph: what each reads, and so its key. Building runs nothing.

    data ─┬─ ddr1 · ddr2 · inverse-dynamics · transition · termination · dynamics
          ├─ students-recorded · students-filtered ────────────────────┐
          └─ generate-k ─ value-k ─ hops-k ─ stitch-k ─ … ─ select ─ students-tskd ─ scores

Every key follows from the configuration and the data's content alone, so a sweep can be
planned, and what its trials share be counted, before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from pydantic import BaseModel

from tskd_ray.config.schema import DIFFUSER_SETTINGS, Config, GenerateConfig
from tskd_ray.data.extensions import (
    check_settings,
    generator_extension,
    identity,
    reward_extension,
    selector_extension,
    stitcher_extension,
    student_extension,
)
from tskd_ray.errors import ConfigError
from tskd_ray.pipeline.manifest import ArtifactKey
from tskd_ray.pipeline.nodes import Graph, Node

HOPS = ("radius", "metric", "candidate", "decide")
"""What of `stitch` the decisions of hops depend on."""

ACTION_MODELS = {"inverse": "inverse-dynamics", "vae": "action-vae"}
REWARD_MODELS = {"ddr2": "ddr2", "mlp": "reward-mlp", "wgan": "reward-wgan"}
"""Nodes that act in a hop, and price it, by the setting's name."""

TEACHER = ("ddr1", "inverse-dynamics", "transition", "termination")
"""What generation needs."""

BASELINES = ("recorded", "filtered")
"""Students of the recorded data alone: all of it, and what `select` keeps of it."""


def build_graph(
    config: Config, data_key: ArtifactKey, extras: tuple[str, ...] = ()
) -> dict[str, Node]:
    """All nodes of a run by name, each after those it reads.

    Args:
        config: Of the run.
        data_key: Of the recorded data.
        extras: What to measure besides, names of `EXTRAS`: in addition to the run's own nodes,
            which keep their keys.

    Raises:
        ConfigError: If an extension is not there or refuses its settings.
    """
    check_settings(config)
    graph = Graph(config, data_key)
    _add_teacher(graph, config)
    for name in BASELINES:
        extra = {"select": _select(config)} if name == "filtered" else {}
        _add_students(graph, config, name, "data", extra)
    previous = "data"
    for k in range(1, config.stitch.epochs + 1):
        previous = _add_epoch(graph, config, k, previous)
    last = (previous,) if config.stitch.epochs else ("data", *_generate(graph, config, 1))
    graph.add("select", "distill", _select(config), last)
    _add_students(graph, config, "tskd", "select", {})
    if config.evaluate.episodes:
        for name in (*BASELINES, "tskd"):
            episodes = _fields(config.evaluate, "episodes", "first_episode")
            inputs = (f"students-{name}", "data")
            graph.add(f"scores-{name}", "evaluate", episodes, inputs, "scores")
        for name in _generated_names(config, 1):
            graph.add("fidelity", "evaluate", {}, ("data", name))
    if config.evaluate.offline and config.distill.method != "dt":  # whose actions need more
        for name in (*BASELINES, "tskd"):
            inputs = (f"students-{name}", "data")
            graph.add(f"offline-{name}", "evaluate", {}, inputs, "offline")
    for name in extras:
        EXTRAS[name](graph, config)
    return graph.nodes


def needed(graph: Mapping[str, Node], names: Collection[str]) -> list[Node]:
    """The nodes of those names and all that these read, directly or not, inputs first."""
    wanted = set(names)
    for node in reversed(list(graph.values())):  # inputs come before their readers
        if node.name in wanted:
            wanted.update(node.inputs)
    return [node for node in graph.values() if node.name in wanted]


def _add_teacher(graph: Graph, config: Config) -> None:
    teacher = config.teacher
    generate = config.generate
    extension = generator_extension(generate)
    if generate.trajectories and extension is not None:
        settings = identity(generate.method, extension, generate.settings)
        graph.add("generator", "teacher", settings)
    elif generate.trajectories:
        _add_model(graph, config, "ddr1")
        graph.add("transition", "teacher", teacher.transition)
        graph.add("termination", "teacher", teacher.transition)
        _add_model(graph, config, "inverse-dynamics")
    if config.stitch.epochs:
        _add_model(graph, config, ACTION_MODELS[config.stitch.action_model])
        for name in _priced_by(config):
            _add_model(graph, config, name)
    if config.stitch.epochs and not config.stitch.extended:
        ensemble = ("members", "best_members", "dynamics")
        graph.add("dynamics", "teacher", _fields(config.stitch, *ensemble))


def _add_model(graph: Graph, config: Config, name: str) -> None:
    teacher = config.teacher
    shared = {name: getattr(teacher, name) for name in DIFFUSER_SETTINGS}
    # Only where they differ from the default: older artifacts keep their keys.
    alone: dict[str, Any] = {} if teacher.diffuse_rewards else {"diffuse_rewards": False}
    inputs = ("data",)
    if name == "ddr1" and teacher.label == "advantage":
        graph.add("advantage", "teacher", teacher.advantage)
        alone["label"], inputs = teacher.label, ("data", "advantage")
    settings: dict[str, BaseModel | Mapping[str, Any]] = {
        "ddr1": {**shared, **alone, "model": teacher.trajectory},
        "ddr2": {**shared, "model": teacher.reward},
        "inverse-dynamics": teacher.inverse_dynamics,
        "action-vae": config.stitch.action_fit,
        "reward-mlp": config.stitch.reward_fit,
        "reward-wgan": config.stitch.reward_fit,
    }
    extension = reward_extension(config.stitch)
    if extension is not None:
        settings["reward-extension"] = identity(
            config.stitch.reward_model, extension, config.stitch.reward_settings
        )
    graph.add(name, "teacher", settings[name], inputs)


def _priced_by(config: Config) -> tuple[str, ...]:
    """The node whose model prices hops, if one does."""
    reward = config.stitch.reward_model
    return () if reward == "simulator" else (REWARD_MODELS.get(reward, "reward-extension"),)


def _add_students(
    graph: Graph, config: Config, name: str, data: str, extra: Mapping[str, Any]
) -> None:
    settings = {**_distill(config), **extra}
    graph.add(f"students-{name}", "distill", settings, (data,), "students")


def _distill(config: Config) -> dict[str, Any]:
    """The method and its settings; of cloning neither: older artifacts keep their keys."""
    distill = config.distill
    extension = student_extension(distill)
    if extension is not None:
        of = identity(distill.method, extension, distill.settings)
        return {"distill": {**_fields(distill, "seeds", "first_seed"), "method": of}}
    plain = distill.model_dump(mode="json", include={"seeds", "first_seed", "hidden", "fit"})
    if distill.method != "bc":
        plain["method"] = {distill.method: getattr(distill, distill.method).model_dump()}
    return {"distill": plain, "checkpoints": config.evaluate.checkpoints}


def _add_epoch(graph: Graph, config: Config, k: int, previous: str) -> str:
    """Generation, V, hops and stitching of epoch k; the name of its D."""
    joined = (previous, *_generate(graph, config, k))
    value = {"fit": config.stitch.value, "discount": config.teacher.discount}
    fitted_on = joined if config.stitch.value_on == "joined" else ("data",)
    graph.add(f"value-{k}", "stitch", value, fitted_on, "value")
    walks = _fields(config.stitch, "acceptance", "improvement")
    extension = stitcher_extension(config.stitch)
    if extension is not None:
        walks |= identity(config.stitch.method, extension, config.stitch.settings)
        decided = f"value-{k}"
    else:
        walks["on_cycle"] = config.stitch.on_cycle
        decided = _add_hops(graph, config, k, joined)
    action = ACTION_MODELS[config.stitch.action_model]
    reward = config.stitch.reward_model
    if reward == "ddr2":
        walks["reward_sampler"] = config.teacher.reward_sampler
    if reward == "simulator":
        walks["reward"] = reward
    inputs = (*joined, decided, action, *_priced_by(config))
    graph.add(f"stitch-{k}", "stitch", walks, inputs, "stitch")
    return f"stitch-{k}"


def _add_hops(graph: Graph, config: Config, k: int, joined: tuple[str, ...]) -> str:
    """The hop decisions of epoch k; their name."""
    hops = _fields(config.stitch, *HOPS)
    if config.stitch.search == "faiss-ivf":  # all others are exact and give the same hops
        hops["search"] = config.stitch.search
    if config.stitch.method != "tskd":  # older artifacts keep their keys
        hops["method"] = config.stitch.method
    graph.add(f"hops-{k}", "stitch", hops, (*joined, f"value-{k}", "dynamics"), "hops")
    return f"hops-{k}"


def _generate(graph: Graph, config: Config, k: int) -> tuple[str, ...]:
    names = _generated_names(config, k)
    for name in names:
        ours = {**config.generate.model_dump(exclude={"method", "settings"}), "epoch": k}
        if config.generate.extended:
            settings = {name: ours[name] for name in ("trajectories", "shard_size", "epoch")}
            graph.add(name, "generate", settings, ("data", "generator"), "generate")
        else:
            graph.add(name, "generate", ours, ("data", *TEACHER), "generate")
    return names


def _generated_names(config: Config, k: int) -> tuple[str, ...]:
    return (f"generate-{k}",) if config.generate.trajectories else ()


def require_ddr(generate: GenerateConfig, why: str) -> None:
    """Refuse a run that trains no teacher to generate.

    Raises:
        ConfigError: Then; `why` is its first sentence.
    """
    if generate.mode == "none":
        raise ConfigError(f"{why} Got generate.trajectories=0. Set it to 1 or more.")
    if generate.extended:
        raise ConfigError(f"{why} Got generate.method {generate.method}. Use ddr.")


def _select(config: Config) -> dict[str, Any]:
    """Without what is left out, so that older artifacts keep their keys."""
    select = config.select
    extension = selector_extension(select)
    if extension is None:
        return select.model_dump(exclude_none=True, exclude={"by", "settings"})
    return {
        **identity(select.by, extension, select.settings),
        "minimum_episodes": select.minimum_episodes,
    }


def _fields(section: BaseModel, *names: str) -> dict[str, Any]:
    return {name: getattr(section, name) for name in names}


def _add_planner(graph: Graph, config: Config) -> None:
    """The teacher's own score in the environment."""
    _require_teacher(config)
    planning = ("sampler", "target_return", "replan_every", "warm_steps")
    settings = {
        **_fields(config.generate, *planning),
        **_fields(config.evaluate, "episodes", "first_episode"),
        "seeds": config.distill.seeds,
    }
    graph.add("scores-planner", "evaluate", settings, ("data", *TEACHER), "planner")


def _add_origins(graph: Graph, config: Config) -> None:
    """How true recorded, generated and stitched steps are."""
    if not config.stitch.epochs:
        raise ConfigError(
            "The fidelity of each origin is that of stitched data. Got stitch.epochs=0. Set it "
            "to 1 or more."
        )
    graph.add("origins", "evaluate", {}, ("data", f"stitch-{config.stitch.epochs}", "select"))


def _add_planning(graph: Graph, config: Config) -> None:
    """How long teacher and student take to decide."""
    _require_teacher(config)
    settings = _fields(config.generate, "sampler", "target_return")
    inputs = ("data", *TEACHER, "students-tskd")
    graph.add("planning", "evaluate", settings, inputs)


def _add_published(graph: Graph, config: Config) -> None:
    """How long the paper's network takes."""
    graph.add("planning-paper", "evaluate", {})


def _require_teacher(config: Config) -> None:
    require_ddr(config.generate, "A teacher is trained only to generate by DDR-I.")


def _add_reward_errors(graph: Graph, config: Config) -> None:
    generated = _generated_names(config, 1)
    if not generated:
        raise ConfigError(
            "Rewards are compared on generated states and actions. Got "
            "generate.trajectories=0. Set it to 1 or more."
        )
    models = ("inverse-dynamics", *REWARD_MODELS.values())
    for name in models:
        _add_model(graph, config, name)
    settings = {"reward_sampler": config.teacher.reward_sampler}
    graph.add("reward-errors", "evaluate", settings, ("data", *generated, *models))


EXTRAS: dict[str, Callable[[Graph, Config], None]] = {
    "planner": _add_planner,
    "origins": _add_origins,
    "planning": _add_planning,
    "planning-paper": _add_published,
    "reward-errors": _add_reward_errors,
}
"""Nodes that a run has only where they are asked for, such as measurements of a paper's figure:
by name, what adds them, and those that they read, to the graph of a run."""
