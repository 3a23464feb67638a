"""The command line from outside: what it calls, prints and exits with."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import h5py
import numpy as np
import pytest

from report.report_example import example
from tskd_ray.cli import cli, exit_code, main
from tskd_ray.config.load import load_config, preset_names
from tskd_ray.config.schema import Config
from tskd_ray.errors import DataError, ResourceError, StageError
from tskd_ray.report.data import save_report_data

PIPELINE = "tskd_ray.pipeline.run.run"


@dataclass
class Calls:
    """What the pipeline was asked for; `error` is raised instead, if set."""

    config: Config | None = None
    until: str | None = None
    mode: str = ""
    error: BaseException | None = None

    def __call__(self, config: Config, *, until: str | None, console: Any) -> SimpleNamespace:
        self.config, self.until, self.mode = config, until, console.mode
        if self.error is not None:
            raise self.error
        rows = example().metrics.scores if until is None else ()
        return SimpleNamespace(folder=Path("runs/a"), report=Path("runs/a/r.html"), table=rows)


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    monkeypatch.setattr(PIPELINE, calls)
    return calls


def commands(group: click.Group, name: str = "tskd") -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = [(name, group)]
    for below, command in group.commands.items():
        if isinstance(command, click.Group):
            found += commands(command, f"{name} {below}")
        else:
            found.append((f"{name} {below}", command))
    return found


# -- help --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "command"), commands(cli))
def test_each_help_shows_an_example(
    name: str, command: click.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code([*name.split()[1:], "--help"]) == 0
    assert f"Example: {name}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("name", "command"), commands(cli))
def test_an_example_on_a_d4rl_file_names_its_environment(
    name: str, command: click.Command
) -> None:
    words = shlex.split((command.epilog or "").partition("Example: ")[2].partition("(")[0])
    assert " ".join(words).startswith(name)
    if any(word.endswith(".hdf5") for word in words) and "mix" not in words:
        assert "data.environment=Hopper-v5" in words or "--environment" in words


def test_help_of_run_tells_what_a_user_must_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["run", "--help"]) == 0
    out = capsys.readouterr().out
    for word in (
        "storage=",
        "RAY_ADDRESS",
        "TSKD_DEBUG",
        "130",
    ):
        assert word in out


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help_names_all_presets(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(arguments) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"a preset ({', '.join(preset_names())})" in out


def test_module_and_command_are_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tskd_ray", "--version"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.startswith("tskd, version ")


# -- runs --------------------------------------------------------------------------------


def test_run_reads_the_settings_and_prints_the_scores(
    pipeline: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(["run", "small", "stitch.epochs=5", "name=mine"]) == 0
    assert pipeline.config is not None
    assert (pipeline.config.name, pipeline.config.stitch.epochs) == ("mine", 5)
    assert (pipeline.until, pipeline.mode) == (None, "auto")
    out = capsys.readouterr().out
    assert "71.8 ± 2.1" in out
    assert "runs/a/r.html" in out


def test_run_without_arguments_is_the_quick_start(pipeline: Calls) -> None:
    assert exit_code(["run"]) == 0
    assert pipeline.config is not None
    assert pipeline.config.name == "quickstart"


@pytest.mark.parametrize(
    "verb", ["train", "generate", "stitch", "distill", "evaluate", "report"]
)
def test_a_stage_verb_runs_up_to_its_stage(pipeline: Calls, verb: str) -> None:
    assert exit_code([verb, "small", "--quiet"]) == 0
    assert (pipeline.until, pipeline.mode) == (verb, "quiet")


def test_json_output_is_one_object_per_line(
    pipeline: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(["run", "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["table", "note", "note", "data"]
    assert events[0]["rows"][-1]["policy"] == "TSKD student"
    assert events[-1]["values"]["report"] == "runs/a/r.html"


def test_report_of_a_run_folder_is_written_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_report_data(example(), tmp_path)
    assert exit_code(["report", str(tmp_path)]) == 0
    assert str(tmp_path / "report.html") in capsys.readouterr().out
    assert "TSKD student" in (tmp_path / "report.html").read_text()


def test_report_of_a_folder_that_is_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"tskd: A run's folder holds run.json. Got {str(tmp_path)!r}, which does not. "
        "Give the folder that `tskd run` named.\n"
    )


def test_report_of_a_run_that_is_not_there_names_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs" / "nosuch"
    begun = (
        "tskd: A report is of a run's folder, <storage>/runs/<name>, or of a CONFIG. "
        f"Got {str(path)!r}, which does not exist. "
    )
    assert exit_code(["report", str(path)]) == 2
    assert capsys.readouterr().err == begun + "Check the path.\n"
    (tmp_path / "runs" / "much").mkdir(parents=True)
    save_report_data(example(), tmp_path / "runs" / "much")
    assert exit_code(["report", str(path)]) == 2
    assert capsys.readouterr().err == begun + "Runs there: much.\n"


def test_report_of_a_preset_beside_a_folder_of_its_name(
    pipeline: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small").mkdir()
    monkeypatch.chdir(tmp_path)
    assert exit_code(["report", "small"]) == 0
    assert pipeline.until == "report"


def test_config_prints_what_run_would_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(["config", "small", "stitch.epochs=7"]) == 0
    path = tmp_path / "mine.yaml"
    path.write_text(capsys.readouterr().out)
    assert load_config(path) == load_config("small", ["stitch.epochs=7"])


# -- errors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["run", "stitch.epocs=3"],
            "tskd: Unknown key stitch.epocs in override 'stitch.epocs=3'. "
            "Did you mean stitch.epochs?\n",
        ),
        (
            ["run", "seed=one"],
            "tskd: seed must be a valid integer. Got \"one\" in override 'seed=one'.\n",
        ),
        (
            ["train", "a.yaml", "b.yaml"],
            "tskd: At most one CONFIG may be given; other arguments read section.key=value. "
            "Got a.yaml, b.yaml.\n",
        ),
        (
            ["run", "nothere.yaml"],
            "tskd: The configuration must be a YAML file or a preset (paper, paper-kitchen, "
            "quickstart, small, small-hopper-medium, "
            "small-walker2d). Got 'nothere.yaml', which does not exist. "
            "Check the path.\n",
        ),
        (
            ["run", "smal"],
            "tskd: The configuration must be a YAML file or a preset (paper, paper-kitchen, "
            "quickstart, small, small-hopper-medium, "
            "small-walker2d). Got 'smal', which does not exist. "
            "Did you mean small?\n",
        ),
        *(
            (
                ["run", source],
                "tskd: The configuration must be a YAML file or a preset (paper, "
                "paper-kitchen, quickstart, small, small-hopper-medium, "
                f"small-walker2d). Got {source!r}. To use a "
                f"dataset write data.source={source}.\n",
            )
            for source in ("hopper.hdf5", "mujoco/hopper/medium-v0", "builtin:hopper")
        ),
        (
            ["run", "name=my run"],
            "tskd: name must begin with a letter or digit and go on with at most 99 letters, "
            'digits, dots, dashes and underscores, such as my-run. Got "my run" in override '
            "'name=my run'.\n",
        ),
        (
            ["run", "--quiet", "--json"],
            "tskd: --quiet and --json exclude each other. Got both. Leave one out.\n",
        ),
        (
            ["data", "info", "x", "--environment-kwargs", "[1]"],
            "tskd: --environment-kwargs must be a YAML mapping. Got '[1]'. "
            "Write for example '{xml_file: walker2d.xml}'.\n",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str], pipeline: Calls
) -> None:
    assert exit_code(arguments) == 2
    captured = capsys.readouterr()
    assert (captured.err, captured.out) == (expected, "")
    assert pipeline.config is None


@pytest.mark.parametrize("source", ["nothere.hdf5", "builtin:nothere", "no/such-dataset-v0"])
def test_an_unknown_dataset_is_the_users_error(
    source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(["data", "info", source]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tskd: ")
    assert source.removeprefix("builtin:") in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (ResourceError("A GPU must be there."), 2, "tskd: A GPU must be there.\n"),
        (DataError("Too few. Returns:\n 1 █\n"), 2, "tskd: Too few. Returns:\n 1 █\n"),
        (
            StageError("The stage died."),
            1,
            "tskd: The stage died. (Run the same command to resume.)\n",
        ),
        (
            ZeroDivisionError("a / b"),
            1,
            "tskd: unexpected ZeroDivisionError: a / b "
            "(TSKD_DEBUG=1 shows where; the same command resumes.)\n",
        ),
        (
            KeyboardInterrupt(),
            130,
            "tskd: interrupted; run the same command to resume\n",
        ),
    ],
)
def test_each_failure_has_its_exit_code(
    pipeline: Calls,
    error: BaseException,
    code: int,
    expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pipeline.error = error
    assert exit_code(["run"]) == code
    assert capsys.readouterr().err.lstrip("\n") == expected


@pytest.mark.parametrize(("caught", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_termination_takes_the_way_of_an_interruption(
    pipeline: Calls,
    caught: signal.Signals,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tidied: list[bool] = []

    def work(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), caught)
            time.sleep(10)
        finally:
            tidied.append(True)

    monkeypatch.setattr("tskd_ray.pipeline.run.run", work)
    monkeypatch.setattr(sys, "argv", ["tskd", "run", "small"])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (ended.value.code, tidied) == (code, [True])
    assert "interrupted; run the same command to resume" in capsys.readouterr().err


def test_debugging_shows_where(
    pipeline: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TSKD_DEBUG", "1")
    pipeline.error = StageError("died")
    assert exit_code(["run"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_wrong_option_is_the_users_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["run", "--fast"]) == 2
    assert "No such option" in capsys.readouterr().err


def test_exit_code_reaches_the_shell(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tskd_ray", "run", "epocs=1"],
        cwd=tmp_path, check=False, capture_output=True, text=True,
        env=os.environ | {"TSKD_DEBUG": "0"},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


# -- datasets and policies ---------------------------------------------------------------


def test_info_of_the_built_in_dataset(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["data", "info", "builtin:hopper-medium-replay", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)["values"]
    assert values["environment"]["id"] == "Hopper-v5"
    assert (values["observation_dim"], values["action_dim"]) == (11, 3)


def test_import_mix_and_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*arguments: str | Path) -> dict[str, Any]:
        assert exit_code(["data", *map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out)["values"]

    source = "builtin:hopper-medium-replay"
    whole = call("info", source)
    call("import", source, tmp_path / "a")
    call("mix", tmp_path / "a", f"{source}?fraction=0.5", tmp_path / "b")
    mixed = call("info", tmp_path / "b")
    assert mixed["episodes"] == whole["episodes"] + round(whole["episodes"] / 2)


def test_reference_scores_by_flag(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "info", "builtin:hopper-medium-replay", "--reference-scores"]
    assert exit_code([*arguments, "0", "2000", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)["values"]
    assert values["reference_scores"] == [0, 2000]
    assert values["normalized_score"] == pytest.approx(values["returns"]["mean"] / 20)
    assert exit_code([*arguments, "5", "5"]) == 2
    assert "two different returns" in capsys.readouterr().err


@pytest.mark.parametrize("as_json", [True, False])
def test_what_a_reader_warns_of_reaches_the_user(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    path = tmp_path / "old.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"] = np.zeros((6, 2)), np.zeros((6, 1))
        file["rewards"], file["terminals"] = np.ones(6), np.zeros(6)
        file["timeouts"] = np.arange(6) % 3 == 2
    flag = ["--json"] if as_json else []
    for _ in range(2):  # the second call says it once, too
        assert exit_code(["data", "info", str(path), *flag]) == 0
        captured = capsys.readouterr()
        told = f"{path} has no next_observations: the last step of each of its 2 episodes"
        if as_json:
            warning, result = map(json.loads, captured.out.splitlines())
            assert warning["event"] == "warning"
            assert warning["message"].startswith(told)
            assert result["values"]["steps"] == 4
            assert captured.err == ""
        else:
            assert captured.err.startswith(f"warning: {told}")
            assert captured.err.count("\n") == 1


def test_export_of_an_unfinished_run_says_how_to_finish_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_report_data(example(), tmp_path)
    assert exit_code(["export", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"tskd: A run has its policy once it is complete. {tmp_path} is not. Give the same "
        "settings to `tskd run`, which goes on to the end.\n"
    )
