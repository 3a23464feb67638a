"""`tskd storage` and `tskd status` from outside."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.stores import abandon, age, beat, begin, key, make, node, plan, trial
from tskd_ray.cli import exit_code
from tskd_ray.cli.storages import size
from tskd_ray.pipeline.artifacts import ArtifactStore
from tskd_ray.pipeline.heartbeat import Work

HEAVY = {"ray", "torch", "faiss", "gymnasium", "minari", "matplotlib", "pandas", "scipy"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run with one stage done, one running, one begun; a sweep; a leftover."""
    store = ArtifactStore(tmp_path / "tskd_storage")
    make(store, key("data"))
    make(store, key("value"))
    begin(store, key("generate"))
    left = abandon(store, key("data"))
    plan(
        store, "mine", node("data", key("data")), node("ddr1", key()),
        node("generate-1", key("generate"), shards=1234),
    )  # fmt: skip
    age(store, 48)
    running = {"ddr1": Work(started=datetime.now(UTC), first=0, done=1500, total=4000)}
    beat(store, "mine", running=running)
    trial(store, "small", 0, [key("data")], score=71.25)
    assert store.storage.tree(left)
    return tmp_path / "tskd_storage"


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert exit_code([*map(str, arguments)]) == 0
    return " ".join(capsys.readouterr().out.split())


def values(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """The one JSON object."""
    assert exit_code([*map(str, arguments), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)["values"]


def complaint(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert exit_code([*map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_ls_shows_runs_sweeps_and_artifacts(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = call(capsys, "storage", "ls", root)
    for words in ("mine running 1/3", "small running 1/1", "generate 1 · 27 B", "1 · 700 B"):
        assert words in out
    assert "tskd storage gc would free 700 B" in out
    found = values(capsys, "storage", "ls", root)
    assert [stage["stage"] for stage in found["stages"]] == ["data", "generate", "value"]
    assert [stage["unused"] for stage in found["stages"]] == [0, 0, 1]
    assert found["leftover_bytes"] == 700


def test_gc_removes_with_yes_only(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attempt = root / key("data").folder / f"attempt-{'0' * 32}"
    out = call(capsys, "storage", "gc", root)
    assert f"{attempt.relative_to(root)} leftover 700 B 2 days" in out
    assert "would free 700 B" in out
    assert "the same with --yes" in out
    assert attempt.exists()
    out = call(capsys, "storage", "gc", root, "--yes")
    assert "freed 700 B" in out
    assert "kept, unfinished, to go on from 27 B" in out
    assert not attempt.exists()
    assert "freed 0 B" in call(capsys, "storage", "gc", root, "--yes")


def test_gc_removes_what_is_unused_when_told(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    age(ArtifactStore(root), 48, "sweeps")  # else it may be running
    found = values(capsys, "storage", "gc", root, "--unused", "--older-than", "30", "--yes")
    assert found["removed"] is True
    assert sorted((item["kind"], item["path"]) for item in found["items"]) == [
        ("artifact", key("value").folder),
        ("leftover", f"{key('data').folder}/attempt-{'0' * 32}"),
    ]
    assert found["bytes"] == sum(item["bytes"] for item in found["items"])
    assert not (root / key("value").folder).exists()
    assert (root / key("data").folder / "manifest.json").exists()


def test_gc_shows_the_largest_of_many(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ArtifactStore(root)
    for number in range(1, 31):
        abandon(store, key("data"), number)
    age(store, 48, "artifacts")
    assert "not shown 11 smaller ones; --json tells all" in call(capsys, "storage", "gc", root)
    assert len(values(capsys, "storage", "gc", root)["items"]) == 31


def test_gc_tells_why_it_holds_back(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "runs" / "odd").mkdir()
    assert exit_code(["storage", "gc", str(root), "--unused"]) == 0
    captured = capsys.readouterr()
    assert "warning: runs/odd has neither plan.json nor run.json" in captured.err
    assert "Nothing is removed as unused." in captured.err
    assert key("value").folder not in captured.out


@pytest.mark.parametrize("how", ["folder", "inside", "name", "--storage"])
def test_status_finds_the_run(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.chdir(root / "runs" / "mine" if how == "inside" else root.parent)
    arguments = {
        "folder": ["tskd_storage/runs/mine/"],
        "inside": ["."],
        "name": ["mine"],
        "--storage": ["mine", "--storage", str(root)],
    }[how]
    out = call(capsys, "status", *arguments)
    for words in (
        "data done", "10.0 s 7.0 s", "ddr1 running 1,500/4,000",
        "generate-1 begun 1/1,234 shards", "sweeps/small",
        "state running. A command is working on it.", "stages done 1 of 3",
    ):  # fmt: skip
        assert words in out, words


def test_status_as_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = values(capsys, "status", root / "runs" / "mine")
    assert (found["state"], found["done"], found["of"]) == ("running", 1, 3)
    data, ddr1, generate = found["stages"]
    assert (data["state"], data["used_by"]) == ("done", ["sweeps/small"])
    assert datetime.fromisoformat(data["finished"]).tzinfo is not None
    assert (ddr1["done"], ddr1["total"], ddr1["finished"]) == (1500, 4000, None)
    assert (generate["shards_done"], generate["shards"]) == (1, 1234)


def test_status_of_a_sweep(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run in (root / "sweeps" / "small", "small"):
        out = call(capsys, "status", run, *(["--storage", root] if run == "small" else []))
        assert "trials 1 done" in out
        assert "best score so far 71.25, trial 0 (stitch.epochs 0)" in out
    found = values(capsys, "status", root / "sweeps" / "small")
    assert (found["begun"], found["of"], found["best"]) == (1, None, 0)


def test_a_sweep_and_its_final_run_share_a_name(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial(ArtifactStore(root), "mine", 0, [key("data")], score=3.5)
    out = call(capsys, "status", "mine", "--storage", root)
    assert "best score so far 3.5" in out
    assert "ddr1 running" in out
    assert "best score" not in call(capsys, "status", root / "runs" / "mine")


def test_bad_input_is_one_line(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    for arguments, words in (
        (["storage", "ls", root / "runs"], "which has neither. Correct the path."),
        (["storage", "ls", "nowhere://x"], "Correct the scheme."),
        (["storage", "gc", root, "--older-than", "0"], "at least 1 hour"),
        (["storage", "gc", root, "--older-than", "nan"], "at least 1 hour"),
        (["status", "mne"], "Got 'mne', which"),
        (["status", root], "A run's folder is <storage>/runs/<name>"),
        (["status", "runs/../../x", "--storage", root], "Names in the storage are plain"),
        (["status", "mine", "--storage", "nowhere"], "which has neither"),
    ):
        assert words in complaint(capsys, *arguments), arguments


def test_they_need_no_heavy_library(root: Path) -> None:
    code = """
import sys
from tskd_ray.cli import exit_code
for arguments in (["storage", "ls"], ["storage", "gc"], ["status", "mine"]):
    assert exit_code(arguments) == 0
print()
print(*{name.partition('.')[0] for name in sys.modules})
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root.parent,
        check=True,
        capture_output=True,
        text=True,
    )
    assert not set(done.stdout.splitlines()[-1].split()) & HEAVY


@pytest.mark.parametrize(
    ("held", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1234, "1.23 kB"), (999_499, "999 kB"),
        (999_600, "1 MB"), (12_340_000, "12.3 MB"), (5_000_000_000_000_000, "5 PB"),
    ],
)  # fmt: skip
def test_sizes_are_in_a_persons_units(held: int, text: str) -> None:
    assert size(held) == text
