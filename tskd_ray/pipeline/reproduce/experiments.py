"""What each experiment compares: rows that differ from one configuration in a few settings.

Rows share artifacts wherever their settings agree, also between experiments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tskd_ray.config.schema import Config
from tskd_ray.errors import ConfigError
from tskd_ray.report.reproduce.data import Kind

Changes = Callable[[Config], Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table: a way to a policy, or something measured of a run."""

    id: str
    title: str
    target: str = "scores-tskd"
    """The node of the run's graph that tells."""
    changes: Changes = lambda base: ()
    """Overrides of the base configuration."""
    extras: tuple[str, ...] = ()
    x: float | None = None
    """Where a figure puts it."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table or a figure."""

    name: str
    title: str
    kind: Kind
    rows: tuple[Row, ...]
    about: str
    tasks: tuple[str, ...] = ()
    """That the paper shows; default: all."""


def _fixed(*overrides: str) -> Changes:
    return lambda base: overrides


_RECORDED_ONLY = ("generate.trajectories=0", "stitch.epochs=0", "select.minimum_episodes=1")


def _best(share: int) -> Row:
    return Row(
        id=f"bc-best-{share}",
        title=f"BC, best {share} % of recorded",
        target="scores-filtered",
        changes=_fixed(*_RECORDED_ONLY, f"select.best={share}%"),
    )


def _as_many(base: Config) -> Sequence[str]:
    """No stitching, but as many generated trajectories as all epochs have together."""
    n = base.generate.trajectories * max(1, base.stitch.epochs)
    return ("stitch.epochs=0", f"generate.trajectories={n}")


BC = Row(id="bc", title="BC, all recorded", target="scores-recorded")
SELECTED = Row(
    id="bc-selected", title="BC, selected recorded (same δ)", target="scores-filtered"
)
MBTS = Row(
    id="mbts",
    title="MBTS + BC",
    changes=_fixed("generate.trajectories=0", "stitch.method=mbts", "stitch.best_members=5"),
)
DDR_BC = Row(id="ddr-bc", title="DDR + BC (no stitching)", changes=_as_many)
STITCHING = Row(
    id="stitching",
    title="Stitching alone (nothing generated)",
    changes=_fixed("generate.trajectories=0"),
)
TSKD = Row(id="tskd", title="TSKD student")
PLANNER = Row(
    id="ddr-planner",
    title="DDR as planner (teacher)",
    target="scores-planner",
    extras=("planner",),
)
DD_PLANNER = Row(
    id="dd-planner",
    title="Decision Diffuser as planner (states alone)",
    target="scores-planner",
    changes=_fixed("teacher.diffuse_rewards=false"),
    extras=("planner",),
)


def _count(n: int) -> Row:
    return Row(
        id=f"n{n}", title=f"n = {n}", changes=_fixed(f"generate.trajectories={n}"), x=float(n)
    )


def _change(id_: str, title: str, *overrides: str) -> Row:
    return Row(id=id_, title=title, changes=_fixed(*overrides))


def _scaled(id_: str, title: str, key: str, factor: float) -> Row:
    """A count multiplied, at least 1."""

    def changes(base: Config) -> Sequence[str]:
        section, name = key.split(".")
        value = getattr(getattr(base, section), name)
        return (f"{key}={max(1, round(value * factor))}",)

    return Row(id=id_, title=title, changes=changes)


_ABLATIONS = (
    TSKD,
    _change("rollout-model", "rollout: model", "generate.rollout=model"),
    _change("rollout-environment", "rollout: environment", "generate.rollout=environment"),
    _change(
        "best-value-first",
        "candidate: best_value_first (D18)",
        "stitch.candidate=best_value_first",
    ),
    _change("cycle-cap", "on_cycle: cap (D21)", "stitch.on_cycle=cap"),
    _change("w-0", "w = 0", "generate.sampler.guidance=0.0"),
    _change("w-1", "w = 1", "generate.sampler.guidance=1.0"),
    _change("w-1.6", "w = 1.6", "generate.sampler.guidance=1.6"),
    _change("w-2", "w = 2", "generate.sampler.guidance=2.0"),
    _change("neighbours-10", "ρ: 10 neighbours", "stitch.radius={neighbours: 10}"),
    _change("neighbours-200", "ρ: 200 neighbours", "stitch.radius={neighbours: 200}"),
    _change("slack-250", "δ = 250", "select.slack=250", "select.minimum_episodes=1"),
    _change("slack-1000", "δ = 1000", "select.slack=1000"),
    _change("per-origin", "selection per origin (D20)", "select.scope=per_origin"),
    _change("k-1", "K = 1", "stitch.epochs=1"),
    _change("k-3", "K = 3", "stitch.epochs=3"),
    _scaled("half-n", "half as many generated", "generate.trajectories", 0.5),
    _scaled("twice-n", "twice as many generated", "generate.trajectories", 2),
    _change("replan-1", "replanning every step", "generate.replan_every=1"),
    _change("replan-8", "replanning every 8 steps", "generate.replan_every=8"),
    _change("steps-2", "2 denoising steps", "generate.sampler.steps=2"),
    _change("steps-10", "10 denoising steps", "generate.sampler.steps=10"),
    _change("target-0.8", "target return 0.8", "generate.target_return=0.8"),
    _change("reward-mlp", "hops rewarded by an MLP", "stitch.reward=mlp"),
    _change("reward-wgan", "hops rewarded by a WGAN", "stitch.reward=wgan"),
    _change("reward-true", "hops truly rewarded (not offline)", "stitch.reward=simulator"),
    _change("value-recorded", "V fitted on recorded data alone", "stitch.value_on=recorded"),
    _change(
        "absolute", "parameterization: absolute (D6b)", "teacher.parameterization=absolute"
    ),
)

_METHODS = {
    "awr": ("AWR", "awr"),
    "best-steps": (
        "BC, best 10 % of steps by advantage",
        "awr",
        "distill.awr.share=0.1",
        "distill.awr.scale=0.0",
    ),
    "td3bc": ("TD3+BC", "td3bc"),
    "iql": ("IQL", "iql"),
    "cql": ("CQL", "cql"),
    "dt": (
        "Decision Transformer",
        "dt",
        "distill.fit.batch_size=64",
        "distill.fit.learning_rate=0.0001",
    ),
}
"""By row: title, method, and the settings that make the row or that the method is published
with where ours would not do."""
_LEARNER_STEPS = 10_000
"""At least, of students that do not clone: they need more of them, each ten times as long."""
_CLONING = ("awr",)


def _learner(row: str) -> tuple[Row, ...]:
    """A method on what was recorded, on what TSKD selects, and on all that it made."""
    title, method, *own = _METHODS[row]

    def changes(*more: str) -> Changes:
        def of(base: Config) -> Sequence[str]:
            steps = base.distill.fit.steps
            if method not in _CLONING:
                steps = max(steps, _LEARNER_STEPS)
            return (f"distill.method={method}", f"distill.fit.steps={steps}", *own, *more)

        return of

    return (
        Row(
            id=row,
            title=f"{title}, all recorded",
            target="scores-recorded",
            changes=changes(),
        ),
        Row(id=f"{row}-tskd", title=f"{title} on TSKD's selection", changes=changes()),
        Row(
            id=f"{row}-joined",
            title=f"{title} on recorded, generated and stitched",
            changes=changes("select.slack=100%"),
        ),
    )


EXPERIMENTS = {
    one.name: one
    for one in (
        Experiment(
            name="table1",
            title="Table 1: final students, and the teacher as a planner",
            kind="scores",
            rows=(
                BC, _best(5), _best(10), _best(25), SELECTED, _learner("best-steps")[0], MBTS,
                STITCHING, DDR_BC, TSKD, PLANNER, DD_PLANNER,
            ),
            about="every way to a policy on every task",
        ),
        Experiment(
            name="table2",
            title="Table 2: planning time",
            kind="planning",
            rows=(
                Row(id="planning", title="", target="planning", extras=("planning",)),
                Row(id="paper", title="", target="planning-paper", extras=("planning-paper",)),
            ),
            tasks=("hopper-medium-expert",),
            about="seconds to decide, student against teacher, on one core",
        ),
        Experiment(
            name="table3",
            title="Table 3: parameters of what decides",
            kind="parameters",
            rows=(
                Row(id="planning", title="", target="planning", extras=("planning",)),
                Row(id="paper", title="", target="planning-paper", extras=("planning-paper",)),
            ),
            about="sizes of student, teacher and the paper's network",
        ),
        Experiment(
            name="figure3",
            title="Figure 3: generation and stitching, Hopper",
            kind="scores",
            rows=(MBTS, DDR_BC, TSKD),
            tasks=("hopper-medium-expert", "hopper-medium", "hopper-medium-replay"),
            about="what generation and stitching contribute, on Hopper",
        ),
        Experiment(
            name="figure4",
            title="Figure 4: score against the number of generated trajectories",
            kind="scores",
            rows=tuple(_count(n) for n in (0, 60, 120, 180, 240, 300)),
            tasks=("hopper-medium-expert",),
            about="0 to 300 generated trajectories per epoch",
        ),
        Experiment(
            name="figure5",
            title="Figure 5: reward error of DDR-II, an MLP and a WGAN",
            kind="reward-errors",
            rows=(
                Row(
                    id="reward-errors", title="", target="reward-errors",
                    extras=("reward-errors",),
                ),
            ),
            tasks=("hopper-medium-expert",),
            about="mean squared reward error on recorded and on fresh true steps",
        ),
        Experiment(
            name="figure6",
            title="Figure 6: generation and stitching, other robots",
            kind="scores",
            rows=(MBTS, DDR_BC, TSKD),
            tasks=tuple(
                f"{robot}-{level}"
                for robot in ("halfcheetah", "walker2d")
                for level in ("medium-expert", "medium", "medium-replay")
            ),
            about="what generation and stitching contribute, on HalfCheetah and Walker2d",
        ),
        Experiment(
            name="ablations",
            title="Ablations: one setting changed at a time",
            kind="scores",
            rows=_ABLATIONS,
            about="rollouts, parameterisation, w, ρ, δ, K, n, sampler, rewards, one at a time",
        ),
        Experiment(
            name="students",
            title="Students by offline RL, on recorded and on augmented data",
            kind="scores",
            rows=(BC, TSKD, *(row for one in _METHODS for row in _learner(one))),
            about="offline RL in place of cloning; TD3+BC to DT need `students` and `dt`",
        ),
        Experiment(
            name="fidelity",
            title="Fidelity of the augmented data against the simulator, by origin",
            kind="origins",
            rows=(Row(id="origins", title="", target="origins", extras=("origins",)),),
            about="errors, distance and coverage of recorded, generated and stitched steps",
        ),
    )
}  # fmt: skip
"""By name, in the order of `all`."""


def chosen(names: Sequence[str], rows: Sequence[str] = ()) -> list[Experiment]:
    """The experiments of these names, `all` being every one, and of them these rows or all.

    Raises:
        ConfigError: If a name is unknown, or an experiment has none of the rows.
    """
    for name in names:
        if name != "all" and name not in EXPERIMENTS:
            raise ConfigError(
                f"An experiment is one of {', '.join(EXPERIMENTS)}, all. Got {name}. Correct "
                "the name."
            )
    everything = "all" in names
    found = [one for one in EXPERIMENTS.values() if everything or one.name in names]
    return [_of_rows(one, rows) for one in found] if rows else found


def _of_rows(experiment: Experiment, ids: Sequence[str]) -> Experiment:
    kept = tuple(row for row in experiment.rows if row.id in ids)
    unknown = set(ids) - {row.id for row in experiment.rows}
    if unknown:
        raise ConfigError(
            f"The rows of {experiment.name} are {', '.join(r.id for r in experiment.rows)}. "
            f"Got {', '.join(sorted(unknown))}. Correct --row."
        )
    return replace(experiment, rows=kept)
