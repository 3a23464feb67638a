"""Which stage a node's name leads to, and with what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.tiny import tiny_config
from tskd_ray.pipeline import execute
from tskd_ray.pipeline.artifacts import ArtifactStore, artifact_key
from tskd_ray.pipeline.graph import build_graph

DATA = artifact_key("data", code_version="1", config={}, inputs={"content": "0"}, seed=0)


def test_generation_is_of_the_epoch_in_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, store = tiny_config(tmp_path), ArtifactStore(str(tmp_path))
    asked: list[Any] = []
    monkeypatch.setattr(execute, "run_generation", lambda *given: asked.append(given))
    graph = build_graph(config, DATA)
    for name in ("generate-1", "generate-2"):
        node = graph[name]
        inputs = {one: graph[one].key for one in node.inputs}
        execute.do_node(store=store, config=config, node=node, inputs=inputs)
        assert asked[-1][1:5] == (node.key, inputs, config, int(name[-1]))
