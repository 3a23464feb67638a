from __future__ import annotations

import io
import json

import pytest

from tskd_ray.console import Console, Mode, duration


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Time that passes only when told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def make(mode: Mode) -> tuple[Console, io.StringIO, io.StringIO, Clock]:
    out, err, clock = io.StringIO(), io.StringIO(), Clock()
    return Console(mode=mode, interval=10.0, out=out, err=err, clock=clock), out, err, clock


def test_lines_come_once_per_interval_with_rate_and_time_left() -> None:
    console, out, err, clock = make("lines")
    progress = console.progress("teacher")
    for done in range(0, 101, 5):
        progress(done, 100, loss=0.5)
        clock.now += 2.5
    lines = [line.partition(" ")[2] for line in err.getvalue().splitlines()]
    assert lines[0] == "teacher 20/100 · 2.0/s · 40.0 s left · loss 0.5"
    assert lines[-1] == "teacher 100/100 · 2.0/s · loss 0.5"
    assert len(lines) == 5
    assert out.getvalue() == ""


def test_resumed_work_does_not_count_what_was_done_before() -> None:
    console, _, err, clock = make("lines")
    progress = console.progress("teacher")
    progress(900, 1000)
    clock.now += 20
    progress(920, 1000)
    assert "1.0/s · 1 min 20 s left" in err.getvalue()


def test_quiet_shows_warnings_and_tables_only() -> None:
    console, out, err, clock = make("quiet")
    with console.stage("train"):
        progress = console.progress("teacher")
        clock.now += 100
        progress(1, 2)
        console.note("a note")
        console.warn("beware")
    console.table("Scores", ["policy", "score"], [["BC", 1.0]])
    assert err.getvalue() == "warning: beware\n"
    assert "BC" in out.getvalue()


def test_json_is_one_object_per_line_on_standard_output() -> None:
    console, out, err, clock = make("json")
    with console.stage("train"):
        progress = console.progress("teacher")
        progress(0, 2)
        clock.now += 50
        progress(1, 2, loss=0.25)
    console.table("Scores", ["policy", "score"], [["BC", 1.0]])
    console.warn("beware")
    console.data("Done", {"report": "r.html"})
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert err.getvalue() == ""
    assert [event["event"] for event in events] == [
        "stage", "progress", "stage", "table", "warning", "data",
    ]  # fmt: skip
    assert [event["stage"] for event in events[:3]] == ["train", "teacher", "train"]
    assert not any("run" in event for event in events)
    assert (events[1]["done"], events[1]["metrics"]) == (1, {"loss": 0.25})
    assert events[2]["seconds"] == 50.0
    assert events[3]["rows"] == [{"policy": "BC", "score": 1.0}]


def test_every_json_line_of_a_run_names_it() -> None:
    out = io.StringIO()
    console = Console(mode="json", out=out, run="hopper")
    with console.stage("train"):
        console.progress("teacher")(1, 1)
        console.warn("beware", stage="teacher", shard=3)
    console.table("Scores", ["policy"], [["BC"]])
    console.note("a note")
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(event["run"], event["stage"], event.get("shard")) for event in events] == [
        ("hopper", "train", None),
        ("hopper", "teacher", None),
        ("hopper", "teacher", 3),
        ("hopper", "train", None),
        ("hopper", None, None),
        ("hopper", None, None),
    ]


def test_a_terminal_gets_bars_that_go_away() -> None:
    err = Terminal()
    console = Console(out=io.StringIO(), err=err)
    with console.stage("train"):
        progress = console.progress("teacher")
        progress(0, 10)
        progress(10, 10, loss=0.1)
        console.note("half way [not markup]")
        console.warn("beware")
    assert "teacher" in err.getvalue()
    assert "half way [not markup]" in err.getvalue()
    assert "warning: beware" in err.getvalue()


def test_a_terminal_gets_a_table_above_the_bars_and_nothing_else_does() -> None:
    err = Terminal()
    console = Console(out=io.StringIO(), err=err)
    board = console.board(["trial", "score"])
    with console.stage("sweep"):
        console.progress("trials")(1, 4)
        board([["0 (best)", 91.25], ["1 …", None]])
        before = err.getvalue()
        board([["2 (best)", 92.5]])
    assert before.index("0 (best)") < before.rindex("trials")
    assert "91.25" in before
    assert "92.5" in err.getvalue()[len(before) :]
    for mode in ("lines", "quiet", "json"):
        console, out, err_, _ = make(mode)
        console.board(["trial"])([["0"]])
        assert out.getvalue() == err_.getvalue() == ""


def test_a_stage_that_fails_is_not_told_as_done() -> None:
    console, _, err, _ = make("lines")
    with pytest.raises(ZeroDivisionError), console.stage("train"):
        raise ZeroDivisionError
    assert err.getvalue().count("\n") == 1


def test_data_is_one_line_per_value_and_long_paths_stay_whole() -> None:
    console, out, _, _ = make("lines")
    path = "/" + "x" * 300
    console.data("Done", {"path": path, "returns": {"mean": 2.5, "n": 12345}, "ids": [1, 2]})
    assert out.getvalue().splitlines() == [
        "Done",
        f"  path            {path}",
        "  returns · mean  2.5",
        "  returns · n     12,345",
        "  ids             1, 2",
    ]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (61.0, "1 min 01 s"), (7260.0, "2 h 01 min")],
)
def test_durations_are_in_the_unit_a_person_would_use(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected
