"""What hangs is killed, and nothing else; in processes of the tests' own, without Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tskd_ray.distributed.guard import guard

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")

WORKER = """
import os, signal, threading, time
from tskd_ray.distributed.guard import Guard

guard = Guard(2.0)

def burn():
    until = time.process_time() + 0.03
    while time.process_time() < until:
        pass

def slowly():
    for _ in range(15):
        burn()
        time.sleep(0.3)

def beside(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

"""


def worker(code: str) -> subprocess.Popen[str]:
    program = WORKER + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def test_what_hangs_is_killed_and_what_is_slow_is_not() -> None:
    hanging = {
        "stopped at work": "with guard.at_work(): os.kill(os.getpid(), signal.SIGSTOP)",
        "stopped without work": "os.kill(os.getpid(), signal.SIGSTOP)",
        "waiting for ever": "with guard.at_work(): threading.Event().wait()",
        "waiting after slow work": """
            with guard.at_work(): slowly()
            with guard.at_work(): threading.Event().wait()
        """,
    }
    living = {
        "slow": "with guard.at_work(): slowly()",
        "slow in a thread of its own": "with guard.at_work(): beside(slowly)",
        "without work": "time.sleep(4.5)",
        "without work again": """
            with guard.at_work(): burn()
            time.sleep(4.5)
        """,
        "stopped for a moment": """
            with guard.at_work():
                if not (child := os.fork()):
                    time.sleep(0.7)
                    os.kill(os.getppid(), signal.SIGCONT)
                    os._exit(0)
                os.kill(os.getpid(), signal.SIGSTOP)
                os.waitpid(child, 0)
        """,
    }
    started = {name: worker(code) for name, code in (hanging | living).items()}
    try:
        ended = {name: process.wait(timeout=60) for name, process in started.items()}
    finally:
        for process in started.values():
            process.kill()
            process.communicate()
    assert ended == dict.fromkeys(hanging, -signal.SIGKILL) | dict.fromkeys(living, 0)


def test_a_guard_that_is_killed_is_replaced_and_ends_with_its_worker() -> None:
    process = worker(
        """
        first = guard._process
        first.kill()
        first.wait()
        with guard.at_work(): pass
        print(guard._process.pid, guard._process.pid != first.pid, flush=True)
        with guard.at_work(): threading.Event().wait()
        """
    )
    assert process.stdout is not None
    pid, replaced = process.stdout.readline().split()
    assert replaced == "True"
    assert process.wait(timeout=60) == -signal.SIGKILL
    process.communicate()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_process_has_one_guard_however_many_tasks() -> None:
    one = guard(1000.0)
    assert guard(1000.0) is one
    assert one._process is not None
    assert one._process.poll() is None
    os.kill(one._process.pid, signal.SIGKILL)
    one._process.communicate()
