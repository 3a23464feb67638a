"""`tskd data`: statistics, conversion and mixes of datasets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tskd_ray.cli.common import Command, InOrder, make_console, yaml_mapping

if TYPE_CHECKING:
    from tskd_ray.data.commands import Format


def _dataset_options(command: Command) -> Command:
    """What the `data` verbs share: the environment a dataset does not name, and --json."""
    for decorate in (
        click.option("--json", "as_json", is_flag=True, help="One JSON object per line."),
        click.option(
            "--environment-kwargs", metavar="YAML", help="Such as '{xml_file: walker2d.xml}'."
        ),
        click.option("--environment", metavar="ID", help="Gymnasium id, such as Hopper-v5."),
    ):
        command = decorate(command)
    return command


_TO = click.option(
    "--to",
    type=click.Choice(["parquet", "minari", "d4rl", "rllib", "d3rlpy"]),
    default="parquet",
    show_default=True,
    help="Format to write.",
)
_DATASET_ID = click.option("--dataset-id", metavar="ID", help="Minari id, of --to minari.")


@click.group(
    cls=InOrder,
    short_help="Look at datasets, convert them, mix them.",
    epilog="Example: tskd data info hopper-medium.hdf5 --environment Hopper-v5",
)
def data() -> None:
    """Look at datasets, convert them, mix them.

    A SOURCE is builtin:NAME, a Minari id or folder, a D4RL .hdf5 file or a Parquet folder.
    """


@data.command(epilog="Example: tskd data info builtin:hopper-medium-replay")
@click.argument("source")
@click.option(
    "--reference-scores",
    type=float,
    nargs=2,
    metavar="LOW HIGH",
    help="Returns that score 0 and 100; default: those of the environment's D4RL table.",
)
@_dataset_options
def info(
    source: str,
    reference_scores: tuple[float, float] | None,
    environment: str | None,
    environment_kwargs: str | None,
    as_json: bool,
) -> None:
    """Statistics of a dataset, after all checks."""
    from tskd_ray.data.commands import data_info

    console = make_console(as_json=as_json)
    values = data_info(
        source,
        environment=environment,
        environment_kwargs=yaml_mapping(environment_kwargs),
        scores=reference_scores,
    )
    console.data(source, values)


@data.command(
    name="import",
    epilog="Example: tskd data import hopper-medium.hdf5 hopper/ --environment Hopper-v5",
)
@click.argument("source")
@click.argument("destination", type=click.Path(path_type=Path))
@_dataset_options
def import_(
    source: str,
    destination: Path,
    environment: str | None,
    environment_kwargs: str | None,
    as_json: bool,
) -> None:
    """Check a dataset and write it as a Parquet folder."""
    from tskd_ray.data.commands import data_convert

    console = make_console(as_json=as_json)
    path = data_convert(
        source,
        destination,
        environment=environment,
        environment_kwargs=yaml_mapping(environment_kwargs),
    )
    console.data("Imported", {"path": str(path)})


@data.command(
    epilog="Example: tskd data export hopper/ out/ --to minari --dataset-id mujoco/mine-v0"
)
@click.argument("source")
@click.argument("destination", type=click.Path(path_type=Path))
@_TO
@_DATASET_ID
@click.option(
    "--upload",
    is_flag=True,
    help="Of --to minari: Minari's client uploads it, as MINARI_TOKEN or HF_TOKEN allows.",
)
@_dataset_options
def export(
    source: str,
    destination: Path,
    to: Format,
    dataset_id: str | None,
    upload: bool,
    environment: str | None,
    environment_kwargs: str | None,
    as_json: bool,
) -> None:
    """Check a dataset and write it in another format.

    Formats parquet and minari keep all; d4rl, rllib (Parquet with RLlib's columns) and d3rlpy
    keep what those libraries know. A run's augmented data are in its folder dataset/.
    """
    from tskd_ray.data.commands import data_convert, data_upload

    console = make_console(as_json=as_json)
    if upload:
        values = data_upload(
            source,
            destination,
            to=to,
            dataset_id=dataset_id,
            environment=environment,
            environment_kwargs=yaml_mapping(environment_kwargs),
        )
        console.data("Uploaded", values)
        return
    path = data_convert(
        source,
        destination,
        to=to,
        dataset_id=dataset_id,
        environment=environment,
        environment_kwargs=yaml_mapping(environment_kwargs),
    )
    console.data("Exported", {"path": str(path)})


@data.command(
    epilog="Example: tskd data mix medium.hdf5 'expert.hdf5?fraction=0.5' medium-expert/",
)
@click.argument("sources", nargs=-1, required=True)
@click.argument("destination", type=click.Path(path_type=Path))
@_TO
@_DATASET_ID
@_dataset_options
def mix(
    sources: tuple[str, ...],
    destination: Path,
    to: Format,
    dataset_id: str | None,
    environment: str | None,
    environment_kwargs: str | None,
    as_json: bool,
) -> None:
    """Join datasets, such as medium and expert.

    A source may end in ?fraction=0.5&min_return=1000&max_return=3000&min_steps=10: its episodes
    are filtered first, then thinned.
    """
    from tskd_ray.data.commands import data_mix, parse_mix_part

    console = make_console(as_json=as_json)
    values = data_mix(
        [parse_mix_part(source) for source in sources],
        destination,
        to=to,
        dataset_id=dataset_id,
        environment=environment,
        environment_kwargs=yaml_mapping(environment_kwargs),
    )
    console.data("Mixed", values)
