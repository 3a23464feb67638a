#!/usr/bin/env python
"""Kill workers, nodes and the driver of small whole runs until the count is reached.

    python scripts/soak.py --kills 100
    python scripts/soak.py --kills 100 --seed 3 --minutes 60 --log soak.jsonl

A cluster of its own on this machine: a head and two nodes of one CPU each. One run goes
undisturbed; then the same run is done again and again, each time from nothing, under SIGKILLs
at random moments: of an actor, a task or a worker of Ray Data that works for it, of a process
that helps those, of a node (its raylet, or all its processes), of the driver, whose command is
then given again. Some workers are stopped instead, so that they hang. A node that was killed is
replaced by a new one seconds later. Every run must end with the bytes of the undisturbed one:
the parts of all artifacts, by their manifests, and the files of the dataset and the policy.

Exit code 1 if a run has other bytes or does not end, or if the minutes are over before the
count is reached. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from soak_cluster import Cluster, cluster_of_nodes, kill  # noqa: E402

from pipeline.tiny import result_bytes, tiny_config  # noqa: E402

SHARES = {"worker": 5, "helper": 1, "hang": 0.7, "node": 1.5, "driver": 2.5}
"""How often what is killed, in proportion; a worker that hangs is stopped, not killed."""

NAMES = {
    "worker": "kills of an actor, a task or a worker of Ray Data",
    "helper": "kills of a helper of those",
    "hang": "actors and tasks that were stopped",
    "node": "kills of a node",
    "driver": "kills of the driver",
}

PAUSE = (0.02, 0.2)
"""Between two kills, in times of the undisturbed run: on a slow machine all takes longer."""

ABSENCE = (1.0, 4.0)
"""Seconds until a killed node is replaced."""

PATIENCE = 600.0
"""A run that goes on for longer after its last kill does not end."""

COMMAND = """
import sys
from tskd_ray.pipeline import hops
from tskd_ray.cli import main
hops._WORTH_WORKERS = 0  # so that hops go through Ray Data however small the run
main()
"""

MOST_ERRORS = 3
"""Of a run: a command may end with a clear error, and must go on when given again."""

_POLL = 0.1
_LOOK = 1.0


def main() -> None:
    """Parse the command line, run the soak, exit with its verdict."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="at least so many (100)")
    parser.add_argument("--seed", type=int, default=0, help="of what is killed, and when (0)")
    parser.add_argument("--minutes", type=float, default=60, help="kill no longer (60)")
    parser.add_argument("--log", type=Path, help="write every kill and run as a line of JSON")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(arguments.log.open("w")) if arguments.log else None
        # Short: paths of Ray's sockets below it must not exceed 107 characters.
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True)
        )
        cluster = stack.enter_context(cluster_of_nodes(Path(folder) / "ray"))
        soak = Soak(cluster, Path(folder), random.Random(arguments.seed), log)
        sys.exit(soak.run(arguments.kills, 60 * arguments.minutes))


# -- a run ---------------------------------------------------------------------------------


@dataclass
class Kill:
    """What was killed, and what came of it."""

    kind: str
    victim: str
    at: float
    stall: float | None = None
    """Seconds until the next shard, artifact or run was finished."""


class Run:
    """The command, given until it is done."""

    def __init__(self, storage: Path, cluster: Cluster) -> None:
        storage.mkdir()
        self.storage, self.cluster = storage, cluster
        self.config = storage.with_suffix(".yaml")
        # Twenty attempts: here a worker lives for seconds.
        compute = {"mode": "ray", "max_attempts": 20, "hang_timeout": 10.0}
        self.config.write_text(tiny_config(storage, compute=compute).model_dump_json())
        self.kills: list[Kill] = []
        self.commands = 0
        self.errors: list[str] = []
        """Last words of commands that ended by themselves, unfinished."""
        self.began = time.monotonic()
        self.seconds = 0.0
        self.ended = False
        self.equal = True
        self._made: set[str] = set()
        self._give()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        self.driver.kill()
        self.driver.wait()

    @property
    def verdict(self) -> str:
        """In a word or two."""
        return "other bytes" if not self.equal else "equal" if self.ended else "unfinished"

    def look(self) -> bool:
        """See how far it is and give the command again if need be; True if there is no more."""
        code = self.driver.poll()
        self.ended = code == 0
        self._note_stalls()
        self.seconds = time.monotonic() - self.began
        if self.ended:
            return True
        last = self.kills[-1].at if self.kills else self.began
        if time.monotonic() - last > PATIENCE or len(self.errors) > MOST_ERRORS:
            return True
        if code is not None:
            if code != -signal.SIGKILL:
                self.errors.append(self._last_words())
            self._give()
        return False

    def kill(self, kind: str, chance: random.Random) -> Kill | None:
        """Kill one of that kind; None if there is none."""
        now = time.monotonic()
        if kind == "driver":
            if self.driver.poll() is not None:
                return None
            self.driver.kill()
            victim = f"command {self.commands}"
        elif kind == "node":
            if not self.cluster.nodes:
                return None
            node = chance.choice(self.cluster.nodes)
            at_once = chance.random() < 0.5
            self.cluster.remove(node, at_once=at_once)
            victim = f"{node.name}, {'all of it' if at_once else 'its raylet'}"
        else:
            there = self.cluster.find(kind)
            if not there:
                return None
            node, process = chance.choice(there)
            kill(process, how=signal.SIGSTOP if kind == "hang" else signal.SIGKILL)
            victim = f"{process.title.split()[0]} on {node.name}"
        self.kills.append(Kill(kind, victim, now))
        return self.kills[-1]

    def _give(self) -> None:
        self.commands += 1
        command = [sys.executable, "-c", COMMAND, "run", str(self.config), "--quiet"]
        with self.config.with_suffix(".log").open("w") as output:
            self.driver = subprocess.Popen(
                command, env=self.cluster.environment, stdout=output, stderr=output
            )

    def _last_words(self) -> str:
        lines = self.config.with_suffix(".log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self.driver.returncode}"

    def _note_stalls(self) -> None:
        artifacts = self.storage / "artifacts"
        marks = ("*/*/manifest.json", "*/*/shards/shard-*")
        made = {str(path) for mark in marks for path in artifacts.glob(mark)}
        if made <= self._made and not self.ended:
            return
        self._made |= made
        for one in self.kills:
            if one.stall is None:
                one.stall = time.monotonic() - one.at


def fingerprint(storage: Path) -> dict[str, str]:
    """SHA-256 by name: of all parts of artifacts, and of the files of dataset and policy."""
    found = dict(result_bytes(storage / "runs" / "tiny"))
    for path in sorted((storage / "artifacts").glob("*/*/manifest.json")):
        for part in json.loads(path.read_text())["parts"]:
            found[f"{path.parent.relative_to(storage)}/{part['name']}"] = part["sha256"]
    return found


# -- the soak ------------------------------------------------------------------------------


class Soak:
    """Runs, one after the other, and what they were like."""

    def __init__(
        self, cluster: Cluster, folder: Path, chance: random.Random, log: TextIO | None
    ) -> None:
        self.cluster, self.folder, self.chance, self.log = cluster, folder, chance, log
        self.began = time.monotonic()
        self.runs: list[Run] = []
        self.pause = PAUSE
        self._absent: list[float] = []  # when each is replaced

    @property
    def kills(self) -> list[Kill]:
        """All so far."""
        return [one for run in self.runs for one in run.kills]

    def run(self, kills: int, seconds: float) -> int:
        """The whole soak; its exit code."""
        with Run(self.folder / "run-0", self.cluster) as calm:
            while not calm.look():
                time.sleep(_POLL)
        if not calm.ended:
            raise SystemExit(f"The undisturbed run did not end. {' '.join(calm.errors)}")
        print(f"undisturbed: {calm.seconds:.0f} s", flush=True)
        self._write("undisturbed", seconds=round(calm.seconds, 1))
        self.pause = (PAUSE[0] * calm.seconds, PAUSE[1] * calm.seconds)
        expected = fingerprint(calm.storage)
        end = self.began + seconds
        while len(self.kills) < kills and time.monotonic() < end:
            with Run(self.folder / f"run-{len(self.runs) + 1}", self.cluster) as run:
                self.runs.append(run)
                self._disturb(run, kills, end)
            run.equal = not run.ended or fingerprint(run.storage) == expected
            self._tell(run, kills)
            if run.verdict != "equal":
                break
            shutil.rmtree(run.storage)
        self._tell_all(calm.seconds)
        good = all(run.verdict == "equal" for run in self.runs)
        if good and len(self.kills) < kills:
            print(f"{len(self.kills)} of {kills} kills in {seconds / 60:g} minutes: too few.")
        return 0 if good and len(self.kills) >= kills else 1

    def _disturb(self, run: Run, kills: int, end: float) -> None:
        next_kill = time.monotonic() + self.chance.uniform(*self.pause)
        next_look = 0.0
        kind = self._any_kind()
        while not run.look():
            time.sleep(_POLL)
            self._replace_nodes()
            now = time.monotonic()
            if now > next_look:
                self.cluster.find("worker")  # which notes the nodes that have work
                next_look = now + _LOOK
            if next_kill < now < end and len(self.kills) < kills:
                killed = run.kill(kind, self.chance)
                if killed is not None:
                    next_kill = now + self.chance.uniform(*self.pause)
                    if kind == "node":
                        self._absent.append(now + self.chance.uniform(*ABSENCE))
                    self._write("kill", run=len(self.runs), kind=kind, victim=killed.victim)
                    kind = self._any_kind()

    def _any_kind(self) -> str:
        return self.chance.choices(list(SHARES), list(SHARES.values()))[0]

    def _replace_nodes(self) -> None:
        now = time.monotonic()
        for _ in [at for at in self._absent if at < now]:
            self._write("node", name=self.cluster.add(replaces=True).name)
        self._absent = [at for at in self._absent if at >= now]

    def _write(self, event: str, **facts: Any) -> None:
        if self.log is not None:
            second = round(time.monotonic() - self.began, 1)
            self.log.write(json.dumps({"second": second, "event": event, **facts}) + "\n")
            self.log.flush()

    def _tell(self, run: Run, kills: int) -> None:
        counts = Counter(one.kind for one in run.kills)
        killed = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
        print(
            f"run {len(self.runs)}: {run.verdict}, {run.seconds:.0f} s, commands "
            f"{run.commands}, killed {killed or 'nothing'}; {len(self.kills)} of {kills}",
            *run.errors, sep="\n    ", flush=True,
        )  # fmt: skip
        self._write(
            "run", number=len(self.runs), verdict=run.verdict, seconds=round(run.seconds, 1),
            commands=run.commands, kills=dict(counts), errors=run.errors,
            stalls=[one.stall and round(one.stall, 1) for one in run.kills],
        )  # fmt: skip

    def _tell_all(self, calm: float) -> None:
        joined = self.cluster.joined
        rows: list[tuple[str, Any]] = [
            (name, sum(one.kind == kind for one in self.kills)) for kind, name in NAMES.items()
        ]
        stalls = [one.stall for one in self.kills if one.stall is not None]
        seconds = [run.seconds for run in self.runs if run.ended]
        rows += [
            ("in all", len(self.kills)),
            ("runs", len(self.runs)),
            ("runs with equal bytes", sum(run.verdict == "equal" for run in self.runs)),
            ("runs with other bytes", sum(not run.equal for run in self.runs)),
            ("runs that did not end", sum(not run.ended for run in self.runs)),
            ("commands that ended in an error, and went on when given again",
             sum(len(run.errors) for run in self.runs)),
            ("nodes that joined later, and how many of them had work",
             f"{len(joined)}, {sum(node.has_worked for node in joined)}"),
            ("seconds of the undisturbed run", f"{calm:.0f}"),
            ("seconds of a run, mean", f"{statistics.mean(seconds):.0f}" if seconds else "-"),
            ("longest time from a kill to the next shard, artifact or run, seconds",
             f"{max(stalls):.0f}" if stalls else "-"),
            ("minutes in all", f"{(time.monotonic() - self.began) / 60:.1f}"),
        ]  # fmt: skip
        print()
        for name, value in rows:
            print(f"{name:75} {value}")
        self._write("end", **dict(rows))


if __name__ == "__main__":
    main()
