"""`tskd export`: the student for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from tskd_ray.cli.common import make_console
from tskd_ray.errors import StorageError


@click.command(
    name="export",
    short_help="The student as ONNX, and how fast it decides.",
    epilog="Example: tskd export tskd_storage/runs/quickstart",
)
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="The ONNX file; default: policy.onnx beside the weights.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def export_policy(run_folder: Path, output: Path | None, as_json: bool) -> None:
    """The student as one ONNX file, normalisation inside, and how fast it decides.

    RUN is a run's folder, or its policy/ folder.
    """
    from tskd_ray.evaluation.latency import latency, one_thread, onnx_policy
    from tskd_ray.models.policy import Policy, export_onnx

    folder = run_folder / "policy" if (run_folder / "policy").is_dir() else run_folder
    if any((folder / name).is_file() for name in ("plan.json", "run.json")):
        raise StorageError(
            f"A run has its policy once it is complete. {run_folder} is not. Give the same "
            "settings to `tskd run`, which goes on to the end."
        )
    console = make_console(as_json=as_json)
    policy = Policy.load(folder)
    path = output or folder / "policy.onnx"
    difference = export_onnx(policy, path)
    width = len(policy.observation.mean_)
    with one_thread():
        timed = {
            "PyTorch": latency(policy.act, width),
            "ONNX": latency(onnx_policy(path), width),
        }
    console.table(
        "Latency, one observation on one core",
        ("format", "p50 µs", "p99 µs"),
        [(name, round(taken.p50, 1), round(taken.p99, 1)) for name, taken in timed.items()],
    )
    console.data(
        "Exported",
        {
            "path": str(path),
            "bytes": path.stat().st_size,
            "parameters": policy.n_parameters,
            "largest difference from PyTorch": difference,
        },
    )
