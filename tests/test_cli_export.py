"""`tskd export` on a finished run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.tiny import result_bytes
from tskd_ray.cli import exit_code
from tskd_ray.evaluation import latency as latency_module
from tskd_ray.export.runtimes import c_compiler
from tskd_ray.pipeline.run import RunResult


def told(out: str) -> dict[str, Any]:
    """Message to record of a `--json` output."""
    return {
        record["message"].split(";")[0]: record for record in map(json.loads, out.splitlines())
    }


def test_a_run_is_exported_scored_and_timed_beside_its_teacher(
    undisturbed: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    before = result_bytes(undisturbed.folder)
    full = latency_module.latency
    monkeypatch.setattr(
        latency_module, "latency", lambda act, rows, *, calls=20: full(act, rows, calls=10)
    )
    arguments = ["export", str(undisturbed.folder), "--out", str(tmp_path), "--json"]
    assert exit_code(arguments) == 0
    records = told(capsys.readouterr().out)
    formats = {row["format"]: row for row in records["Formats"]["rows"]}
    assert set(formats) == {"as trained", "onnx", "onnx-int8", "c"}
    assert formats["onnx"]["largest error"] < 1e-5
    # The same resets as the run's own score of its first student.
    metrics = json.loads((undisturbed.folder / "metrics.json").read_text())
    (student,) = [row for row in metrics["scores"] if row["name"] == "TSKD student"]
    expected = student["final"]["per_seed"][0]
    assert formats["as trained"]["normalised"] == pytest.approx(expected, abs=0.06)
    assert formats["onnx"]["return"] == pytest.approx(formats["as trained"]["return"], rel=0.01)
    timed = [row["format"] for row in records["Latency of one action on one core"]["rows"]]
    assert timed[-1].startswith("teacher: one plan (ddim, 3 steps)")
    assert ("c" in timed) == (c_compiler() is not None)
    assert (tmp_path / "policy.c").is_file()
    key = next(stage["key"] for stage in json.loads(
        (undisturbed.folder / "run.json").read_text())["stages"]
        if stage["name"] == "students-tskd")  # fmt: skip
    assert key in (tmp_path / "policy.h").read_text()
    assert key in (tmp_path / "MODEL_CARD.md").read_text()
    # The run wrote the same ONNX itself, and was not touched.
    onnx = undisturbed.folder / "policy" / "policy.onnx"
    assert (tmp_path / "policy.onnx").read_bytes() == onnx.read_bytes()
    assert result_bytes(undisturbed.folder) == before


def test_a_copy_of_the_run_goes_without_its_teacher(
    undisturbed: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "copy"
    shutil.copytree(undisturbed.folder, run)
    record = json.loads((run / "run.json").read_text())
    record["config"]["storage"] = str(tmp_path / "nowhere")
    (run / "run.json").write_text(json.dumps(record))
    arguments = ["export", str(run / "policy"), "--format", "onnx", "--score", "0", "--json"]
    assert exit_code(arguments) == 0
    captured = capsys.readouterr()
    records = told(captured.out)
    (note,) = [record for record in records if record.startswith("The teacher is not timed.")]
    assert "must be in its storage" in note
    assert records["Formats"]["rows"] == [
        {
            "format": "onnx",
            "bytes": (run / "policy" / "policy.onnx").stat().st_size,
            "largest error": records["Formats"]["rows"][0]["largest error"],
            "mean error": records["Formats"]["rows"][0]["mean error"],
            "return": "",
            "normalised": "",
        }
    ]
    assert (run / "policy" / "MODEL_CARD.md").is_file()


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("run.json", "A run's folder holds run.json."),
        ("dataset", "A finished run holds its dataset."),
        ("policy/config.json", "A checkpoint is a folder with config.json"),
    ],
)
def test_what_is_no_whole_run_is_told(
    remove: str, message: str, undisturbed: RunResult, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = tmp_path / "copy"
    shutil.copytree(undisturbed.folder, run)
    target = run / remove
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    assert exit_code(["export", str(run)]) == 2
    assert capsys.readouterr().err.startswith(f"tskd: {message}")


def test_a_damaged_record_is_told(
    undisturbed: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "copy"
    shutil.copytree(undisturbed.folder, run)
    record = json.loads((run / "run.json").read_text())
    record["config"]["evaluate"] = {"episodes": "many"}
    (run / "run.json").write_text(json.dumps(record))
    assert exit_code(["export", str(run)]) == 2
    assert "evaluate.episodes of its settings is a whole number" in capsys.readouterr().err
    assert not (run / "policy" / "policy.c").exists()


def test_an_unknown_format_and_a_folder_that_is_none_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(["export", str(tmp_path), "--format", "onxx"]) == 2
    assert "'onnx', 'onnx-int8', 'c'" in capsys.readouterr().err
    assert exit_code(["export", str(tmp_path / "none")]) == 2
    assert "An export is of a run" in capsys.readouterr().err


def test_times_are_of_single_rows() -> None:
    seen: list[tuple[int, ...]] = []
    taken = latency_module.latency(
        lambda row: seen.append(row.shape), np.zeros((3, 5)), calls=20
    )
    assert set(seen) == {(1, 5)}
    assert len(seen) == 22
    assert 0 < taken.p50 <= taken.p99
