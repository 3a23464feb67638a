"""What the user sees while a run works: bars on a terminal, a line now and then elsewhere.

Four faces of one object. On a terminal: bars that redraw. In a log file or under a job
scheduler: one line per interval, with the rate and the time left. `--quiet`: errors, warnings
and tables. `--json`: one JSON object per line, for other programs. Everything but tables goes
to standard error, except under `--json`, so that standard output holds the result alone.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Literal

from tskd_ray.progress import Progress, silent

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import TaskID
    from rich.table import Table

Mode = Literal["auto", "lines", "quiet", "json"]
Cell = str | int | float | None


@dataclass
class Console:
    """Tells the user what is going on.

    Args:
        mode: "auto" draws bars where standard error is a terminal and writes lines elsewhere.
        interval: Seconds between two lines about the same piece of work.
        out: Where tables (and, in "json" mode, everything) go; default: standard output.
        err: Where the rest goes; default: standard error.
        clock: Seconds, monotonic; tests bring their own.
        run: Name of the run or sweep that all of it is about; in "json" mode in every line.
    """

    mode: Mode = "auto"
    interval: float = 15.0
    out: IO[str] = field(default_factory=lambda: sys.stdout)
    err: IO[str] = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic
    run: str | None = None

    def __post_init__(self) -> None:
        self._stage = ""
        terminal = self.mode == "auto" and self.err.isatty()
        self._bars = _Bars(self.err) if terminal else None

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        """Everything told inside belongs to the stage `name`; tells its time at the end."""
        outer, self._stage = self._stage, name
        start = self.clock()
        self._tell("stage", f"{name} ...", state="started")
        try:
            yield
            seconds = self.clock() - start
            self._tell(
                "stage",
                f"{name}: {duration(seconds)}",
                state="done",
                seconds=round(seconds, 3),
            )
        finally:
            self._stage = outer
            if self._bars is not None:
                self._bars.close()

    def progress(self, name: str) -> Progress:
        """A `Progress` to hand to one piece of work; its bar goes when the work is done."""
        if self.mode == "quiet":
            return silent
        if self._bars is None:
            return _Lines(self, name)
        return self._bars.add(name)

    def note(self, text: str) -> None:
        """Something worth knowing."""
        self._tell("note", text)

    def warn(self, text: str, **fields: object) -> None:
        """Something that may spoil the result; told in every mode.

        Args:
            text: What.
            fields: What it is about, for programs: `stage`, `shard`.
        """
        if self.mode == "json":
            self._tell("warning", text, **fields)
        elif self._bars is not None:
            self._bars.terminal.print(f"warning: {text}", style="yellow", markup=False)
        else:
            print(f"warning: {text}", file=self.err, flush=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """A result; told in every mode, on standard output."""
        if self.mode == "json":
            records = [dict(zip(columns, row, strict=True)) for row in rows]
            self._tell("table", title, rows=records)
            return
        from rich.console import Console as RichConsole

        # A pipe has no width: let the table be as wide as it needs, never wrapped.
        width = None if self.out.isatty() else 200
        print(title, file=self.out)
        RichConsole(file=self.out, width=width, highlight=False).print(_table(columns, rows))

    def board(self, columns: Sequence[str]) -> Callable[[Sequence[Sequence[Cell]]], None]:
        """A table above the bars of a terminal, drawn anew with each call; elsewhere none."""
        bars = self._bars
        if bars is None:
            return lambda rows: None
        return lambda rows: bars.show(_table(columns, rows))

    def data(self, title: str, values: Mapping[str, object]) -> None:
        """Named values, nested or not; told in every mode, on standard output."""
        if self.mode == "json":
            self._tell("data", title, values=values)
            return
        rows = [(name, _text(value)) for name, value in _flat(values)]
        width = max(len(name) for name, _ in rows)
        # Not a table of Rich's, which would fold a long path.
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        print(title, *lines, sep="\n  ", file=self.out, flush=True)

    # -- inside ------------------------------------------------------------------------

    def _tell(self, kind: str, text: str, **fields: object) -> None:
        if self.mode == "quiet":
            return
        if self.mode == "json":
            about = {} if self.run is None else {"run": self.run}
            record = {"event": kind, **about, "stage": self._stage or None, "message": text}
            record |= fields
            print(json.dumps(record), file=self.out, flush=True)
        elif self._bars is not None:
            self._bars.terminal.print(text, markup=False)
        else:
            stamp = time.strftime("%H:%M:%S")
            print(f"{stamp} {text}", file=self.err, flush=True)


class _Lines:
    """One line per interval: how far, how fast, how long still."""

    def __init__(self, console: Console, name: str) -> None:
        self.console, self.name = console, name
        self.start = self.told = console.clock()
        self.first: int | None = (
            None  # resumed work starts above 0; its rate must not count that
        )

    def __call__(self, done: int, total: int, **metrics: float) -> None:
        now = self.console.clock()
        if self.first is None:
            self.first, self.start = done, now
        finished = done >= total
        if now - self.told < self.console.interval and not finished:
            return
        self.told = now
        rate = (done - self.first) / (now - self.start) if now > self.start else 0.0
        left = (total - done) / rate if rate > 0 else None
        parts = [f"{self.name} {done:,}/{total:,}"]
        if rate > 0:
            parts.append(f"{_rate(rate)}")
        if left is not None and not finished:
            parts.append(f"{duration(left)} left")
        parts += [f"{key} {value:.4g}" for key, value in metrics.items()]
        self.console._tell(
            "progress", " · ".join(parts),
            stage=self.name, name=self.name, done=done, total=total,
            rate=round(rate, 4), seconds_left=None if left is None else round(left, 1),
            metrics=metrics,
        )  # fmt: skip


class _Bars:
    """All bars of a terminal, drawn together; each goes away when its work is done."""

    def __init__(self, err: IO[str]) -> None:
        from rich import progress as bars
        from rich.console import Console as RichConsole

        self.terminal = RichConsole(file=err, highlight=False)
        self._board: Table | None = None
        above = self

        class Display(bars.Progress):
            """Bars, and a table above them."""

            def get_renderables(self) -> Iterator[RenderableType]:
                if above._board is not None:
                    yield above._board
                yield self.make_tasks_table(self.tasks)

        self.bars = Display(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            bars.TextColumn("left"),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[metrics]}", style="dim"),
            console=self.terminal,
            transient=True,
        )

    def add(self, name: str) -> Progress:
        """A bar that appears with its first call."""
        task: TaskID | None = None

        def update(done: int, total: int, **metrics: float) -> None:
            nonlocal task
            if task is None:
                self.bars.start()
                task = self.bars.add_task(name, total=total, metrics="")
            text = "  ".join(f"{key} {value:.4g}" for key, value in metrics.items())
            self.bars.update(task, completed=done, total=total, metrics=text)
            if done >= total:
                self.bars.update(task, visible=False)

        return update

    def show(self, table: Table) -> None:
        """Draw a table above the bars instead of the last one."""
        self._board = table
        self.bars.start()
        self.bars.refresh()

    def close(self) -> None:
        """Clear the bars, also those of work that was cut short, and the table."""
        self._board = None
        self.bars.stop()
        for task in self.bars.task_ids:
            self.bars.remove_task(task)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*("" if cell is None else _cell(cell) for cell in row))
    return table


def _flat(values: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        name = f"{above}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name} · ")
        else:
            yield name, value


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        if isinstance(value, list | tuple):
            return ", ".join(map(_text, value))
        return "–" if value is None else str(value)
    return _cell(value)


def _cell(value: str | int | float) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value


def _rate(per_second: float) -> str:
    return f"{per_second:,.1f}/s" if per_second >= 1 else f"{1 / per_second:,.1f} s each"


def duration(seconds: float) -> str:
    """In the unit a person would use."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
