"""What the connected cluster's autoscaler would do.

Ray tells a driver what nodes there are, not what nodes its autoscaler may start. But the
autoscaler (Ray's second, which KubeRay and `ray up` use) tells the head which of the requests
that wait it can never serve. So one is made to wait, and its answer is read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

_PATIENCE = 30.0  # seconds; it looks around every five
_POLL_SECONDS = 0.2


def watches() -> bool:
    """Whether an autoscaler looks at what the connected cluster is asked for."""
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    return is_autoscaler_v2() and _status().autoscaling_state.autoscaler_state_version > 0


def would_make_room(bundles: Sequence[Mapping[str, float]]) -> bool:
    """Whether the cluster can hold these at once, with nodes that would be started for them.

    Args:
        bundles: Resources that must each fit on one node, such as {"CPU": 4, "GPU": 1}.

    Returns:
        False if the autoscaler says no, or if there is none that answers.
    """
    from ray.autoscaler.v2.utils import is_autoscaler_v2
    from ray.util.placement_group import placement_group, remove_placement_group

    if not is_autoscaler_v2():
        return False
    asked = placement_group([dict(bundle) for bundle in bundles], strategy="PACK")
    try:
        return _answer(asked)
    finally:
        remove_placement_group(asked)


def _answer(asked: Any) -> bool:
    name = asked.id.hex()
    waits_since: int | None = None  # version of the cluster's state in which it first waited
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        status = _status()
        state, told = status.cluster_resource_state, status.autoscaling_state
        if _names(told.infeasible_gang_resource_requests, name):
            return False
        if waits_since is None and _names(state.pending_gang_resource_requests, name):
            waits_since = state.cluster_resource_state_version
        seen = told.last_seen_cluster_resource_state_version
        if (waits_since is not None and seen >= waits_since) or asked.wait(0):
            return True
        time.sleep(_POLL_SECONDS)
    return False


def _names(requests: Any, name: str) -> bool:
    """Whether one of the requests is that placement group's."""
    return any(request.details.startswith(name) for request in requests)


def _status() -> Any:
    import ray
    from ray import _raylet
    from ray.core.generated import autoscaler_pb2

    core: Any = _raylet  # neither of the two says what it holds
    messages: Any = autoscaler_pb2
    client = core.GcsClient(ray.get_runtime_context().gcs_address)
    reply = messages.GetClusterStatusReply()
    reply.ParseFromString(client.get_cluster_status(timeout_s=10))
    return reply
