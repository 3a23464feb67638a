"""`tskd export`: the student for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from tskd_ray.cli.common import make_console
from tskd_ray.errors import DataError, InputError, StorageError

if TYPE_CHECKING:
    from tskd_ray.console import Console
    from tskd_ray.data.trajectories import Trajectories
    from tskd_ray.export.files import Episodes, Exported, Format
    from tskd_ray.models.policy import Policy
    from tskd_ray.report.data import ReportData, RunRecord

FORMATS = ("onnx", "onnx-int8", "c")


@click.command(
    name="export",
    short_help="The student as ONNX, eight-bit ONNX and C, and how fast it decides.",
    epilog="Example: tskd export tskd_storage/runs/quickstart --format c --out firmware",
)
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(FORMATS),
    help="May be given several times; default: all.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="A folder; default: RUN's policy/."
)
@click.option(
    "--score",
    type=click.IntRange(min=0),
    metavar="N",
    help="Episodes in the environment for each format; default: the run's own. 0: none.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def export_policy(
    run_folder: Path,
    formats: tuple[str, ...],
    out: Path | None,
    score: int | None,
    as_json: bool,
) -> None:
    """The student in files for other programs, normalisation and bounds inside.

    RUN is a finished run's folder, or its policy/ folder. Every file is run on recorded
    observations beside PyTorch before it takes its place, and in the environment on the run's
    evaluation episodes. MODEL_CARD.md tells what the policy was made from, how well it does,
    and its limits. Then: how long each format takes for an action, beside the teacher.
    """
    folder = _run_of(run_folder)
    console = make_console(as_json=as_json, run=folder.name)
    from tskd_ray.export.files import export
    from tskd_ray.models.policy import Policy
    from tskd_ray.models.threads import torch_threads
    from tskd_ray.report.data import load_report_data

    _require_mlp(folder / "policy")
    run, policy = load_report_data(folder), Policy.load(folder / "policy")
    dataset = _dataset(folder, policy)
    episodes = _episodes(run.run, dataset, score)
    with torch_threads(1):
        made = export(
            policy,
            run,
            _recorded(dataset),
            cast(
                "Sequence[Format]", [name for name in FORMATS if name in (formats or FORMATS)]
            ),
            out or folder / "policy",
            episodes,
        )
        _show_formats(console, run.run, policy, made, episodes)
        _show_latency(console, folder, run, policy, made, _recorded(dataset))
    target = out or folder / "policy"
    files = [name for one in made for name in one.files]
    console.data(
        "Exported", {"folder": str(target), "files": ", ".join([*files, "MODEL_CARD.md"])}
    )


def _run_of(given: Path) -> Path:
    """The folder of the run."""
    folder = given if (given / "policy").is_dir() else given.parent
    known = any((given / name).is_file() for name in ("plan.json", "run.json"))
    if known and folder != given:
        raise StorageError(
            f"A run has its policy once it is complete. {given} is not. Give the same "
            "settings to `tskd run`, which goes on to the end."
        )
    if not known and (given.name != "policy" or not (folder / "run.json").is_file()):
        raise StorageError(
            "An export is of a run, whose folder holds run.json, policy/ and dataset/. Got "
            f"{str(given)!r}, which does not. Give the folder that `tskd run` named."
        )
    return folder


def _require_mlp(folder: Path) -> None:
    from tskd_ray.models.checkpoint import kind_of
    from tskd_ray.models.policy import KIND

    kind = kind_of(folder)
    if kind != KIND:
        raise DataError(
            f"Only students that are an MLP are exported. {folder} has a {kind}. Use "
            "distill.method=bc, awr, td3bc, iql or cql."
        )


def _dataset(folder: Path, policy: Policy) -> Trajectories:
    """The run's dataset: its recorded observations are what files are checked on."""
    from tskd_ray.data.load import load_trajectories

    if not (folder / "dataset").is_dir():
        raise StorageError(
            f"A finished run holds its dataset. {folder} has none. Give the same settings to "
            "`tskd run`, which writes it again."
        )
    dataset = load_trajectories(folder / "dataset")
    width = dataset.observations.shape[1]
    if width != len(policy.observation.mean_):
        raise DataError(
            f"A run's policy reads its dataset's observations. {folder} has {width} dimensions "
            f"in its dataset, {len(policy.observation.mean_)} in its policy. Run it again."
        )
    return dataset


def _recorded(dataset: Trajectories) -> Any:
    """Observations (N, S) that were recorded; of a dataset without any, all."""
    from tskd_ray.data.trajectories import Origin

    states = dataset.observations[dataset.step_state]
    recorded = dataset.origin == Origin.RECORDED
    return states[recorded] if recorded.any() else states


def _episodes(run: RunRecord, dataset: Trajectories, score: int | None) -> Episodes | None:
    """The run's own evaluation episodes, or the first `score` of them."""
    from tskd_ray.export.files import Episodes

    count = _evaluate_setting(run, "episodes") if score is None else score
    if not count:
        return None
    if dataset.environment is None:
        if score is None:
            return None
        raise DataError(
            "A score needs an environment. The run's dataset names none. Leave --score out."
        )
    first = _evaluate_setting(run, "first_episode")
    return Episodes(environment=dataset.environment, count=count, seed=run.seed, first=first)


def _evaluate_setting(run: RunRecord, name: str) -> int:
    section = run.config.get("evaluate")
    value = section.get(name, 0) if isinstance(section, dict) else None
    if type(value) is not int or value < 0:
        raise StorageError(
            f"In a run's run.json, evaluate.{name} of its settings is a whole number. Got "
            f"{str(value)[:40]!r}. Run `tskd run` with its settings to write it anew."
        )
    return value


def _show_formats(
    console: Console,
    run: RunRecord,
    policy: Policy,
    made: Sequence[Exported],
    episodes: Episodes | None,
) -> None:
    from tskd_ray.evaluation.simulate import evaluate

    rows: list[tuple[str | float, ...]] = []
    if episodes is not None:
        place, count, seed = episodes.environment, episodes.count, episodes.seed
        (returns,) = evaluate([policy], place, count, seed, first=episodes.first)
        rows.append(("as trained", 4 * policy.n_parameters, "", "", *_scored(run, returns)))
    for one in made:
        errors = [
            "not checked" if error is None else float(f"{error:.2g}")
            for error in (one.largest_error, one.mean_error)
        ]
        rows.append((one.format, one.size, *errors, *_scored(run, one.returns)))
        if one.act is None:
            console.warn(
                f"{one.format} was written and not run: there is no C compiler here (CC, cc, "
                "gcc, clang)."
            )
    columns = ("format", "bytes", "largest error", "mean error", "return", "normalised")
    episodes_told = "" if episodes is None else f"; returns over {episodes.count} episodes"
    console.table(f"Formats; errors in half action ranges{episodes_told}", columns, rows)


def _scored(run: RunRecord, returns: Any) -> tuple[str | float, str | float]:
    """Mean return and normalised score, where there are such."""
    from tskd_ray.data.environments import normalized_score, reference_scores

    if not len(returns):
        return "", ""
    data = run.config.get("data")
    scale = data.get("reference_scores") if isinstance(data, dict) else None
    if not isinstance(scale, list | tuple) or len(scale) != 2:
        scale = None
    if scale is None and run.environment is not None:
        scale = reference_scores(run.environment, run.environment_kwargs)
    mean = float(returns.mean())
    if scale is None:
        return round(mean, 1), ""
    low, high = map(float, scale)
    return round(mean, 1), round(float(normalized_score(returns, (low, high)).mean()), 1)


def _show_latency(
    console: Console,
    folder: Path,
    run: ReportData,
    policy: Policy,
    made: Sequence[Exported],
    observations: Any,
) -> None:
    from tskd_ray.evaluation.latency import latency
    from tskd_ray.export.runtimes import torch_policy
    from tskd_ray.pipeline.planner import planner_of

    timed = {
        "PyTorch": latency(torch_policy(policy), observations),
        "our kernels": latency(policy.act, observations),
        **{one.format: latency(one.act, observations) for one in made if one.act is not None},
    }
    try:
        name, act = planner_of(run.run, folder)
        timed[name] = latency(act, observations, calls=100)
    except InputError as error:
        console.note(f"The teacher is not timed. {error}")
    console.table(
        "Latency of one action on one core",
        ("format", "p50 µs", "p99 µs"),
        [(name, _micro(taken.p50), _micro(taken.p99)) for name, taken in timed.items()],
    )


def _micro(value: float) -> float:
    return round(value, 1) if value < 1000 else round(value)
