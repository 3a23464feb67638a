"""results.json, results.md and the figure of an experiment."""

from __future__ import annotations

from pathlib import Path

from tskd_ray.report.documents import document_adapter, write_whole
from tskd_ray.report.reproduce.data import Results
from tskd_ray.report.reproduce.figures import draw
from tskd_ray.report.reproduce.tables import markdown


def write_results(results: Results, folder: Path) -> None:
    """Write what is known so far; each file is whole or not there."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "results.json", document_adapter(Results).dump_json(results, indent=1))
    write_whole(folder / "results.md", markdown(results).encode())
    for suffix, content in draw(results).items():
        write_whole(folder / f"figure.{suffix}", content)
