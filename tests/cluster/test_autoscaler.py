"""A cluster that starts its nodes only when work waits for them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.tiny import result_bytes
from ray_head import Head, running_head, tiny_settings
from tskd_ray.pipeline.run import RunResult

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def growing() -> Iterator[Head]:
    """A head without CPUs; up to two nodes of one CPU, and two with a GPU besides."""
    types = {"small": {"CPU": 1}, "accelerated": {"CPU": 1, "GPU": 1}}
    with running_head(types) as head:
        yield head


def python(head: Head, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**head.environment, "RAY_ADDRESS": head.address},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


SESSIONS = """
import json, sys
import ray
from tskd_ray.config.schema import ComputeConfig
from tskd_ray.distributed.session import cluster_nodes, session
from tskd_ray.errors import ResourceError

answers = []
for changes in json.loads(sys.argv[1]):
    try:
        with session(ComputeConfig(**changes)):
            answers.append(sum(node.cpus for node in cluster_nodes()))
    except ResourceError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


def test_what_no_node_of_any_kind_could_hold_is_refused(growing: Head) -> None:
    never = [
        {"threads": 2},
        {"device": "cuda", "training_workers": 3},
        {"training_workers": 5},
    ]
    done = python(growing, "-c", SESSIONS, json.dumps(never))
    assert done.returncode == 0, done.stderr[-3000:]
    threads, gpus, together = json.loads(done.stdout.splitlines()[-1])
    assert threads.startswith("compute.threads CPUs must fit on one node. Got 2;")
    # without a CPU anywhere the rule that is broken first is that one
    assert "CPUs" in gpus
    assert "CPUs" in together


def test_what_the_autoscaler_would_start_counts(growing: Head) -> None:
    done = python(growing, "-c", SESSIONS, json.dumps([{"device": "cuda"}]))
    assert done.returncode == 0, done.stderr[-3000:]
    (answer,) = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(answer, float), answer


POOL = """
import json, time
import numpy as np
import ray
from tskd_ray.config.schema import ComputeConfig
from tskd_ray.distributed.actors import run_pool
from tskd_ray.distributed.generate import plan_shards
from tskd_ray.distributed.session import session

class Slow:
    def process(self, shard):
        time.sleep(0.5)
        here = ray.get_runtime_context().get_node_id()
        return {"node": np.frombuffer(here.encode(), dtype=np.uint8)}

places = {}
def keep(shard, arrays):
    places[shard] = arrays["node"].tobytes()

compute = ComputeConfig(workers=2)
with session(compute):
    run_pool(Slow, plan_shards(80, 1), compute, on_result=keep)
print(json.dumps([sorted(places), len(set(places.values()))]))
"""


def test_a_pool_that_begins_with_no_node_makes_more_than_one_come(growing: Head) -> None:
    done = python(growing, "-c", POOL)
    assert done.returncode == 0, done.stderr[-3000:]
    shards, nodes = json.loads(done.stdout.splitlines()[-1])
    assert shards == list(range(80))
    assert nodes >= 2


def test_a_run_on_nodes_that_it_makes_come_has_the_bytes_of_a_local_one(
    growing: Head, tmp_path: Path, undisturbed: RunResult
) -> None:
    settings = tiny_settings(tmp_path / "storage", tmp_path)
    done = python(growing, "-m", "tskd_ray", "run", settings)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    folder = next((tmp_path / "storage" / "runs").iterdir())
    assert result_bytes(folder) == result_bytes(undisturbed.folder)
