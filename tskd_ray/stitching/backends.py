"""Searches by name: building, saving and opening shards.

F candidate states · d dims
"""

from __future__ import annotations

import json
from pathlib import Path

from tskd_ray.stitching.blocks import BlockShard
from tskd_ray.stitching.faiss_shards import FlatShard, InvertedShard
from tskd_ray.stitching.points import Points
from tskd_ray.stitching.shards import CellShard, SearchName, Shard

_OTHERS = {shard.name: shard for shard in (CellShard, FlatShard, InvertedShard)}


def build_shard(name: SearchName, points: Points, first: int, *, device: str = "cpu") -> Shard:
    """The search `name` over `points`, (F, d) in order of rank, the first of rank `first`.

    Args:
        name: Of the search.
        points: Finite, at least one.
        first: A rank.
        device: Of torch, for "blocks"; the others stay on the CPU.
    """
    if name == "blocks":
        return BlockShard.build(points, first, device)
    return _OTHERS[name].build(points, first)


def save_shard(shard: Shard, folder: Path) -> None:
    """Write a shard into a folder of its own."""
    folder.mkdir()
    shard.save(folder)
    (folder / "shard.json").write_text(json.dumps({"name": shard.name, "first": shard.first}))


def open_shard(folder: Path, *, device: str = "cpu") -> Shard:
    """Map a saved shard; `device` as in `build_shard`."""
    about = json.loads((folder / "shard.json").read_text())
    name, first = about["name"], int(about["first"])
    if name == "blocks":
        return BlockShard.open(folder, first, device)
    return _OTHERS[name].open(folder, first)
