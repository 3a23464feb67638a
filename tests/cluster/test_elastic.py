"""Nodes that join while work is done are used; what nodes that leave had begun is done anew."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

PROGRAM = """
import json, sys, time
from pathlib import Path
import numpy as np
import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster
from tskd_ray.config.schema import ComputeConfig
from tskd_ray.distributed.actors import run_pool
from tskd_ray.distributed.generate import plan_shards
from tskd_ray.distributed.session import quiet_environment

quiet_environment()
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
ray.init(address=cluster.address, log_to_driver=False)
places, joined, gone = {}, [], []

class Slow:
    def process(self, shard):
        time.sleep(0.05 if Path(sys.argv[1]).exists() else 1.0)  # time for the node to come
        here = ray.get_runtime_context().get_node_id()
        return {"node": np.frombuffer(here.encode(), dtype=np.uint8), "id": np.array(shard.id)}

def keep(shard, arrays):
    assert shard not in places and int(arrays["id"]) == shard
    places[shard] = arrays["node"].tobytes().decode()
    if len(places) == 3:
        joined.append(cluster.add_node(num_cpus=1))
    if not gone and joined and joined[0].node_id in places.values():
        gone.append(joined[0].node_id)
        cluster.remove_node(joined[0], allow_graceful=False)
        Path(sys.argv[1]).touch()

run_pool(Slow, plan_shards(150, 1), ComputeConfig(), on_result=keep)
after = [node for shard, node in places.items()][-5:]
nodes = len(set(places.values()))
told = {"shards": sorted(places), "nodes": nodes, "gone": len(gone), "last": gone[0] in after}
print(json.dumps(told))
ray.shutdown()
cluster.shutdown()
"""


def test_a_node_that_joins_gets_shards_and_one_that_leaves_loses_none(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "gone"],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"shards": list(range(150)), "nodes": 2, "gone": 1, "last": False}
