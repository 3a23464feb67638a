from __future__ import annotations

from pathlib import Path

import pytest

from tskd_ray.config.schema import ComputeConfig
from tskd_ray.distributed import shared
from tskd_ray.distributed.shared import check_shared, require_shared_storage
from tskd_ray.errors import StorageError


def reads(node: str, probe: Path, word: str) -> bool:
    return probe.read_text() == word


def never(node: str, probe: Path, word: str) -> bool:
    raise AssertionError("asked")


def test_one_node_may_use_any_storage(tmp_path: Path) -> None:
    check_shared("s3://bucket/x", None, [], never)
    check_shared(str(tmp_path), tmp_path, [], never)


def test_a_remote_store_does_for_several_nodes() -> None:
    check_shared("s3://bucket/x", None, ["a", "b"], never)


def test_training_together_on_several_nodes_needs_a_folder() -> None:
    check_shared("s3://bucket/x", None, [], never, together=True)
    with pytest.raises(StorageError, match=r"Got s3://bucket/x and 3 nodes\. Set storage"):
        check_shared("s3://bucket/x", None, ["a", "b"], never, together=True)


def test_several_nodes_must_all_see_the_folder(tmp_path: Path) -> None:
    check_shared(str(tmp_path), tmp_path, ["a", "b"], reads)
    with pytest.raises(StorageError, match=r"not seen by 1 of 2 other node\(s\), such as b\."):
        check_shared(str(tmp_path), tmp_path, ["a", "b"], lambda node, *probe: node == "a")
    assert not list(tmp_path.iterdir()), "the probe is removed"


def test_local_mode_asks_nobody() -> None:
    require_shared_storage("s3://bucket/x", None, ComputeConfig(mode="local"))


@pytest.mark.ray
def test_a_node_is_asked_by_a_task(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(shared, "_PATIENCE", 0.5)
    node = ray.get_runtime_context().get_node_id()
    assert shared._other_nodes() == []
    probe = tmp_path / "probe"
    assert not shared._sees(node, probe, "word")
    probe.write_text("word")
    assert shared._sees(node, probe, "word")
    assert not shared._sees(node, probe, "another")
