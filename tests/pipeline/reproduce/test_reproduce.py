"""`tskd reproduce`: cells tell what a run tells, shared, within a budget, or with a reason."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.tiny import tiny_config
from tskd_ray.cli import exit_code
from tskd_ray.config.load import config_to_yaml, load_config
from tskd_ray.data.tasks import TaskData
from tskd_ray.errors import InputError, ResourceError, StorageError
from tskd_ray.pipeline.artifacts import ArtifactStore
from tskd_ray.pipeline.collect import collect
from tskd_ray.pipeline.graph import build_graph, needed
from tskd_ray.pipeline.manifest import ArtifactKey, artifact_key
from tskd_ray.pipeline.reproduce import experiments
from tskd_ray.pipeline.reproduce import reproduce as module
from tskd_ray.pipeline.reproduce.cells import PlannedCell, fitting_preset
from tskd_ray.pipeline.reproduce.experiments import BC, EXPERIMENTS, PLANNER, TSKD, Experiment
from tskd_ray.pipeline.reproduce.experiments import Row as ExperimentRow
from tskd_ray.pipeline.reproduce.reproduce import Reproduced, Request, reproduce
from tskd_ray.pipeline.run import run
from tskd_ray.report.reproduce.data import Cell

IMPOSSIBLE = ExperimentRow(
    id="impossible",
    title="Impossible",
    changes=lambda base: ("select.slack=0", "select.minimum_episodes=1000000"),
    target="scores-filtered",
)
SMALL = Experiment(
    name="table1",
    title="Table 1",
    kind="scores",
    rows=(BC, IMPOSSIBLE, TSKD, PLANNER),
    about="",
)
TASK = "hopper-medium-replay"
TASK_SOURCE = f"builtin:{TASK}"
DATA = artifact_key("data", code_version="1", config={}, inputs={"content": "0"}, seed=0)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reproduce")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(experiments.EXPERIMENTS, "table1", SMALL)


def request(storage: Path, *names: str, **more: object) -> Request:
    config = tiny_config(storage)
    preset = storage / "tiny.yaml"
    preset.write_text(config_to_yaml(config))
    settings = {"data": (f"{TASK}={config.data.source}",), **more}
    return Request(experiments=names, preset=str(preset), **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def table(storage: Path) -> Reproduced:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(experiments.EXPERIMENTS, "table1", SMALL)
        (found,) = reproduce(request(storage, "table1"))
    return found


def test_a_cell_tells_what_the_run_of_its_command_tells(table: Reproduced) -> None:
    (cell,) = table.results.of(TASK, "tskd")
    tskd, verb, preset, *overrides = shlex.split(cell.command)
    assert (tskd, verb) == ("tskd", "run")
    scores = {row.name: row.final.per_seed for row in run(load_config(preset, overrides)).table}
    assert cell.scores == scores["TSKD student"]
    (plain,) = table.results.of(TASK, "bc")
    assert plain.scores == scores["BC, all recorded"]
    assert cell.cpu_seconds > plain.cpu_seconds > 0


def test_the_teacher_has_as_many_scores_as_there_are_students(table: Reproduced) -> None:
    (cell,) = table.results.of(TASK, "ddr-planner")
    assert len(cell.scores) == 2
    assert cell.normalized


def test_a_row_that_the_data_do_not_allow_has_a_reason(table: Reproduced) -> None:
    (failed,) = (cell for cell in table.results.cells if cell.failure)
    assert failed.row == "impossible"
    assert "Selection must keep at least 1000000 episodes" in failed.failure
    assert failed.failure in (table.folder / "results.md").read_text()


@pytest.mark.parametrize("kind", [StorageError, ResourceError])
def test_what_no_other_row_would_change_is_no_cell_but_an_error(
    kind: type[InputError], storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise kind("The storage must have room.")

    monkeypatch.setattr("tskd_ray.pipeline.runner.Runner.complete", fail)
    with pytest.raises(kind, match="must have room"):
        reproduce(request(storage, "table1", overrides=("distill.first_seed=9",)))


def test_results_are_in_the_storage_they_name(
    storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(cell: PlannedCell, *_: object, **__: object) -> Cell:
        return Cell(task=cell.task.name, row=cell.row.id, seed=0, command="", scores=(1.0, 2.0))

    monkeypatch.setattr(module, "do_cell", say)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    remote = f"memory://{tmp_path.name}"
    settings = (f"storage={remote}", "compute.mode=local")
    (found,) = reproduce(request(storage, "table1", overrides=settings))
    published = ArtifactStore(remote).storage
    names = [one.name for one in published.list("reproduce/table1")]
    assert names == ["figure.png", "figure.svg", "results.json", "results.md"]
    kept = (found.folder / "results.json").read_bytes()
    assert published.read("reproduce/table1/results.json") == kept


def test_nothing_is_done_twice(
    table: Reproduced, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("done again")

    monkeypatch.setattr("tskd_ray.pipeline.runner.Runner._run_tasks", refuse)
    monkeypatch.setattr("tskd_ray.pipeline.runner.Runner._run_spread", refuse)
    (again,) = reproduce(request(storage, "table1"))
    assert again.results == table.results


def test_what_cells_need_is_no_garbage(table: Reproduced, storage: Path) -> None:
    store = ArtifactStore(str(storage))
    found, _ = collect(store, older_than=3600.0, unused=True, remove=False)
    keys = {cell.key for cell in table.results.cells if cell.key}
    assert not keys & {one.key.digest for one in found.garbage}
    assert found.unused == 0
    assert not found.unclear


def test_a_budget_ends_between_cells_and_the_next_command_goes_on(
    storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 2.0, 61.0, 99.0])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    # The students are others than before; the teacher, which plans, is there.
    others = {"overrides": ("distill.first_seed=7",)}
    (some,) = reproduce(request(storage, "table1", budget=1.0, **others))
    assert [cell.row for cell in some.results.cells] == ["bc", "impossible", "ddr-planner"]
    assert some.results.left == 1
    assert "**Incomplete**: 3 of 4 cells" in (some.folder / "results.md").read_text()
    monkeypatch.undo()
    monkeypatch.setitem(experiments.EXPERIMENTS, "table1", SMALL)
    (whole,) = reproduce(request(storage, "table1", **others))
    assert [cell.row for cell in whole.results.cells] == [row.id for row in SMALL.rows]
    assert whole.results.left == 0


def test_the_first_seed_of_everything_comes_first(storage: Path) -> None:
    asked = request(storage, "table1")
    (some,) = experiments.chosen(["table1"], ["tskd", "bc"])
    assert [row.id for row in some.rows] == ["bc", "tskd"]
    cells = module.plan_cells(
        experiments.EXPERIMENTS["table1"],
        module.find_tasks(asked.data, (), storage / "mixes"),
        preset=asked.preset,
        overrides=("distill.seeds=3",),
        seeds=2,
    )
    assert [cell.seed for cell in cells] == [0] * 4 + [1] * 4
    assert [cell.config.seed for cell in cells] == [0] * 4 + [1] * 4
    assert [cell.row.id for cell in cells] == [row.id for row in SMALL.rows] * 2
    slack = {"impossible": 0.0}
    assert all(cell.config.select.slack == slack.get(cell.row.id, "75%") for cell in cells)
    assert {cell.config.data.source for cell in cells} == {tiny_config(storage).data.source}
    assert len({cell.config.name for cell in cells}) == len(cells)
    assert all(cell.config.distill.seeds == 3 for cell in cells)


def test_augmented_data_are_told_by_origin(storage: Path) -> None:
    (found,) = reproduce(request(storage, "fidelity"))
    (cell,) = found.results.cells
    assert cell.figures["recorded"]["step_error_median"] < 1e-4
    assert cell.figures["recorded"]["coverage"] > 0.5
    assert cell.figures["generated"]["steps"] > 0
    assert cell.figures["generated"]["distance_median"] > 0


def test_students_that_clone_train_as_long_as_plain_cloning_the_others_longer() -> None:
    base = load_config("quickstart", ["distill.fit.steps=2000"])
    configs = {
        row.id: load_config("quickstart", ["distill.fit.steps=2000", *row.changes(base)])
        for row in EXPERIMENTS["students"].rows
    }
    rows = (("awr", "awr", 2000), ("best-steps", "awr", 2000), ("iql", "iql", 10_000))
    for first, method, expected in rows:
        for row in (first, f"{first}-tskd", f"{first}-joined"):
            distill = configs[row].distill
            assert (distill.method, distill.fit.steps) == (method, expected)
            chosen = (0.1, 0.0) if first == "best-steps" else (1.0, base.distill.awr.scale)
            assert (distill.awr.share, distill.awr.scale) == chosen


def test_a_task_has_the_preset_that_was_found_for_it() -> None:
    assert fitting_preset("small", "walker2d-medium") == "small-walker2d"
    assert fitting_preset("small", "hopper-medium") == "small-hopper-medium"
    assert fitting_preset("small", "hopper-medium-replay") == "small"
    assert fitting_preset("paper", "kitchen-mixed") == "paper-kitchen"
    assert fitting_preset("mine.yaml", "walker2d-medium") == "mine.yaml"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_row_of_every_experiment_is_a_valid_configuration_and_no_other_row(
    name: str,
) -> None:
    base = load_config("small")
    rows = EXPERIMENTS[name].rows
    assert len({row.id for row in rows}) == len(rows)
    told: dict[ArtifactKey, str] = {}
    for row in rows:
        config = load_config("small", list(row.changes(base)))
        if config.distill.method not in ("bc", "awr"):
            continue  # needs packages to have a graph
        key = build_graph(config, DATA, row.extras)[row.target].key
        assert told.setdefault(key, row.id) == row.id, f"{row.id} tells what {told[key]} does"


TEACHER_OF_PLANS = "ddr1 inverse-dynamics transition termination"
STITCHED = "dynamics value hops stitch select students scores"


@pytest.mark.parametrize(
    ("row", "stages"),
    [
        (BC, "students scores"),
        (experiments.SELECTED, "students scores"),
        (experiments._best(5), "students scores"),
        (experiments.MBTS, f"action-vae reward-wgan {STITCHED}"),
        (experiments.STITCHING, f"inverse-dynamics ddr2 {STITCHED}"),
        (experiments.DDR_BC, f"{TEACHER_OF_PLANS} generate select students scores"),
        (TSKD, f"{TEACHER_OF_PLANS} ddr2 generate {STITCHED}"),
        (PLANNER, f"{TEACHER_OF_PLANS} planner"),
    ],
    ids=lambda value: getattr(value, "id", ""),
)
def test_a_row_rests_on_what_its_title_says_and_nothing_else(
    row: ExperimentRow, stages: str
) -> None:
    base = load_config("small")
    config = load_config("small", list(row.changes(base)))
    graph = build_graph(config, DATA, row.extras)
    used = {node.stage for node in needed(graph, [row.target])}
    assert used == {"data", *stages.split()}
    if row is experiments.DDR_BC:  # as many as all epochs of TSKD have together
        assert config.generate.trajectories == base.generate.trajectories * base.stitch.epochs


def test_an_experiment_is_on_the_papers_tasks_where_there_are_data_for_them() -> None:
    names = ("hopper-medium", "walker2d-medium")
    tasks = [TaskData(name=name, source=TASK_SOURCE, environment=None) for name in names]

    def planned(shown: tuple[str, ...], *asked: str) -> list[str]:
        experiment = replace(SMALL, rows=(BC,), tasks=shown)
        wanted = Request(experiments=("table1",), tasks=asked, preset="quickstart")
        return [cell.task.name for cell in module._plan(experiment, tasks, wanted)]

    assert planned(("walker2d-medium", "hopper-medium-expert")) == ["walker2d-medium"]
    assert planned(("hopper-medium-expert",)) == list(names), "where there are none, on all"
    assert planned(()) == list(names)
    assert planned(("walker2d-medium",), *names) == list(names), "what is named is done"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs an EXPERIMENT"),
        (["table9"], "An experiment is one of table1"),
        (["table1", "--task", "hoper"], "A task is one of"),
        (["table1", "--row", "tsk"], "The rows of table1 are bc, impossible, tskd"),
        (["table1", "--seeds", "0"], "--seeds is at least 1"),
        (["table1", "evaluate.episodes=0"], "Got evaluate.episodes=0. Set it to 1 or more"),
        (["table1", "--budget", "-1"], "more than 0 minutes"),
        (["table1", "stitch.epocs=1"], "Unknown key stitch.epocs"),
        (["table1", "--preset", "smal"], "YAML file or a preset"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(["reproduce", *arguments]) == 2
    line = capsys.readouterr().err.strip()
    assert message in line
    assert "\n" not in line
