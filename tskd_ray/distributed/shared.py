"""Whether all nodes of the cluster share the storage: refused before any work if they do not.

Artifacts, shards and the frozen snapshot of the hop search travel by files, so with more than
one node the storage must be a folder that all of them see, or a remote store, of which each
node keeps copies. Ray Train's groups need the folder.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tskd_ray.config.schema import ComputeConfig
from tskd_ray.errors import StorageError

_PATIENCE = 10.0  # seconds: a network file system may hide a new file for a while

Sees = Callable[[str, Path, str], bool]
"""Whether the node of that id reads that text in that file."""


def require_shared_storage(root: str, local: Path | None, compute: ComputeConfig) -> None:
    """Check the storage against the connected cluster; nothing to check in `local` mode.

    Args:
        root: The storage, as the user named it.
        local: The same as a folder of the driver's machine, or None if it is a remote URI.
        compute: The mode.

    Raises:
        StorageError: If another node that work may go to does not see the folder.
    """
    if compute.mode != "local":
        check_shared(root, local, _other_nodes(), _sees, together=compute.training_workers > 1)


def check_shared(
    root: str,
    local: Path | None,
    others: Sequence[str],
    sees: Sees,
    *,
    together: bool = False,
) -> None:
    """The decision itself, given the ids of the other nodes and a way to ask each.

    Raises:
        StorageError: If there are other nodes, and they do not all see `local`; or if it is
            remote and several processes are to train one model together.
    """
    if not others:
        return
    if local is None:
        if together:
            raise StorageError(
                "With compute.training_workers above 1 and more than one node the storage must "
                "be a folder that all nodes share, since each group takes up the state of the "
                f"one before. Got {root} and {len(others) + 1} nodes. Set storage to such a "
                "folder, or compute.training_workers=1."
            )
        return
    word = uuid.uuid4().hex
    probe = local / f"probe-{word}"
    probe.write_text(word)
    try:
        blind = [node for node in others if not sees(node, probe, word)]
    finally:
        probe.unlink(missing_ok=True)
    if blind:
        raise StorageError(
            f"All nodes of the cluster must share the storage folder. Got {root}: a file "
            f"written there is not seen by {len(blind)} of {len(others)} other node(s), such "
            f"as {blind[0][:12]}. Set storage to a folder that all nodes mount at that path."
        )


def _other_nodes() -> list[str]:
    """Ids of the living nodes that can hold work, without the driver's."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    return [
        node["NodeID"]
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU", 0) and node["NodeID"] != here
    ]


def _sees(node: str, probe: Path, word: str) -> bool:
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    place = NodeAffinitySchedulingStrategy(node, soft=False)
    remote: Any = ray.remote  # typed for plain functions only
    look = remote(num_cpus=0, scheduling_strategy=place)(_reads)
    try:
        return bool(ray.get(look.remote(probe, word, _PATIENCE)))
    except RayError:
        return True  # the node left, or dies: then it gets no work, or the pool replaces it


def _reads(probe: Path, word: str, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while True:
        try:
            if probe.read_text() == word:
                return True
        except OSError:
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
