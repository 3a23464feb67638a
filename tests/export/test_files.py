"""What `tskd export` writes: all of it, checked, or nothing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.small_policy import rows, small_policy
from report.report_example import example
from tskd_ray.errors import DataError, StageError, StorageError
from tskd_ray.export import files as files_module
from tskd_ray.export.card import model_card
from tskd_ray.export.files import FILES, Format, export

ALL: tuple[Format, ...] = ("onnx", "onnx-int8", "c")
NAMES = {name for files in FILES.values() for name in files} | {"MODEL_CARD.md"}


def test_every_format_is_written_checked_and_listed_with_its_hash(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    made = export(small_policy(), example(), rows(300), ALL, out)
    assert {path.name for path in out.iterdir()} == NAMES
    card = (out / "MODEL_CARD.md").read_text()
    for one in made:
        limit = 0.05 if one.format == "onnx-int8" else 1e-5
        if one.act is not None:
            assert one.largest_error is not None
            assert 0 <= one.largest_error < limit
        for name, content in one.files.items():
            assert (out / name).read_bytes() == content
            assert hashlib.sha256(content).hexdigest() in card
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    export(small_policy(), example(), rows(300), ALL, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first


def test_only_what_was_asked_for_is_written(tmp_path: Path) -> None:
    export(small_policy(), example(), rows(10), ["onnx"], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"policy.onnx", "MODEL_CARD.md"}


def test_an_export_that_differs_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "policy.onnx").write_text("before")
    monkeypatch.setattr(files_module, "TOLERANCE", -1.0)
    with pytest.raises(StageError, match="must act as the original"):
        export(small_policy(), example(), rows(10), ["onnx-int8", "onnx"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["policy.onnx"]
    assert (tmp_path / "policy.onnx").read_text() == "before"


def test_a_folder_that_cannot_be_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"must be writable.*--out"):
        export(small_policy(), example(), rows(10), ["onnx"], tmp_path / "file")


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    policy = small_policy()
    policy.network.weights[1].data[0, 2, 1] = np.nan
    with pytest.raises(DataError, match=r"must be finite\. 1 of this one's"):
        export(policy, example(), rows(10), ALL, tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_a_compiler_c_is_written_and_the_card_says_it_is_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "c_compiler", lambda: None)
    (made,) = export(small_policy(), example(), rows(10), ["c"], tmp_path)
    assert made.act is None
    assert "not checked: no C compiler" in (tmp_path / "MODEL_CARD.md").read_text()


def test_the_card_tells_the_runs_own_figures() -> None:
    run = example()
    card = model_card(small_policy(), run, [("policy.c", 1000, "ab", 1e-7, 123.4)], 50, 4)
    (student,) = [row for row in run.metrics.scores if row.name == "TSKD student"]
    assert student.final.normalized is not None
    assert f"{student.final.normalized:.1f} ± {student.final.normalized_error:.1f}" in card
    assert f"first seed, not of the luckiest: {student.final.per_seed[0]:.1f};" in card
    assert "dynamics: next states from an ensemble" in card
    assert "| `policy.c` | 1,000 | 1e-07 | 123 | `ab` |" in card
    assert "means over 4 episodes" in card
    assert all(warning.split(",")[0] in card for warning in run.metrics.warnings)


def test_the_card_of_a_run_that_touched_the_simulator_says_so() -> None:
    run = example()
    touched = replace(run, run=replace(run.run, rollout="environment"))
    assert "not purely offline" in model_card(small_policy(), touched, [], 1, 0)
    assert "not purely offline" not in model_card(small_policy(), run, [], 1, 0)


def test_a_hostile_record_does_not_break_the_cards_tables() -> None:
    run = example()
    config = json.loads(json.dumps(run.run.config)) | {"select": {"slack": "5|\n# x"}}
    hostile = replace(run, run=replace(run.run, config=config, name="a\n# b"))
    card = model_card(small_policy(), hostile, [], 1, 0)
    assert "\n# x" not in card
    assert "\n# b" not in card
