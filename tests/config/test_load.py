from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from tskd_ray.config.load import (
    PRESETS,
    config_to_yaml,
    is_override,
    load_config,
    preset_names,
)
from tskd_ray.config.schema import Config, FitConfig, RadiusConfig
from tskd_ray.errors import ConfigError

SHIPPED = sorted(PRESETS.rglob("*.yaml"))


def load_text(folder: Path, text: str, *overrides: str) -> Config:
    path = folder / "c.yaml"
    path.write_text(text)
    return load_config(path, overrides)


def message(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_text(folder, text, *overrides)
    return str(caught.value).replace(str(folder / "c.yaml"), "c.yaml")


def test_training_workers_need_ray_and_rows_of_a_batch(tmp_path: Path) -> None:
    together = "compute.training_workers=2"
    assert load_text(tmp_path, "preset: small", together).compute.training_workers == 2
    refused = message(tmp_path, "preset: small", together, "compute.mode=local")
    assert "above 1 needs compute.mode=ray. Got 2 with mode local" in refused
    refused = message(tmp_path, "preset: small", "compute.training_workers=65")
    assert "cannot exceed the batch sizes" in refused


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_each_shipped_file_loads_and_begins_with_its_command(path: Path) -> None:
    words = shlex.split(path.read_text().splitlines()[0])
    assert words[:2] == ["#", "tskd"]
    assert path.stem in words[3]
    assert load_config(path).name == path.stem
    config = load_config(path, words[4:])
    # A D4RL file names no environment: such an example would be refused.
    assert not config.data.source.endswith(".hdf5") or config.data.environment


def test_presets_are_known_by_name() -> None:
    assert preset_names() == [
        *("paper", "paper-kitchen", "quickstart"),
        *("small", "small-hopper-medium", "small-walker2d"),
    ]
    assert load_config("paper") == load_config(PRESETS / "paper.yaml")
    assert load_config() == load_config("quickstart")


def test_paper_preset_has_the_papers_values() -> None:
    paper = load_config("paper")
    assert paper.teacher.parameterization == "absolute"
    assert (paper.teacher.context, paper.teacher.trajectory.horizon) == (20, 120)
    assert paper.teacher.trajectory.unet.multipliers == (1, 4, 8)
    assert paper.teacher.trajectory.fit.steps == 1_000_000
    assert paper.generate.trajectories == 300
    assert paper.stitch.radius == 0.1


def test_kitchen_has_the_papers_context_and_plan() -> None:
    paper, kitchen = load_config("paper"), load_config("paper-kitchen")
    teacher = kitchen.teacher
    assert (teacher.context, teacher.trajectory.horizon - teacher.context) == (20, 56)
    assert teacher.reward.horizon == 56
    assert teacher.trajectory.unet == paper.teacher.trajectory.unet
    rest = {"teacher": paper.teacher, "name": paper.name}
    assert kitchen.model_copy(update=rest) == paper


def test_a_preset_may_be_laid_over_another_one(tmp_path: Path) -> None:
    small, walker = load_config("small"), load_config("small-walker2d")
    assert (small.generate.replan_every, walker.generate.replan_every) == (4, 1)
    generate = small.generate.model_copy(update={"replan_every": 1})
    fit = small.distill.fit.model_copy(update={"steps": 12000})
    distill = small.distill.model_copy(update={"fit": fit})
    steps = {"inverse_dynamics": 20_000, "transition": 30_000}
    fits = {
        name: getattr(small.teacher, name).model_copy(update={"steps": count})
        for name, count in steps.items()
    }
    changed = {
        "teacher": small.teacher.model_copy(update=fits),
        "generate": generate,
        "distill": distill,
        "name": walker.name,
    }
    assert walker == small.model_copy(update=changed)
    mine = load_text(tmp_path, "preset: small-walker2d\nstitch: {epochs: 7}")
    assert (mine.generate.replan_every, mine.stitch.epochs) == (1, 7)


def test_data_of_one_policy_have_plans_conditioned_on_advantages() -> None:
    small, medium = load_config("small"), load_config("small-hopper-medium")
    assert (small.teacher.label, medium.teacher.label) == ("return", "advantage")
    assert (small.generate.sampler.guidance, medium.generate.sampler.guidance) == (1.2, 2.0)
    teacher = medium.teacher.model_copy(update={"label": "return"})
    rest = {"teacher": teacher, "generate": small.generate, "name": small.name}
    assert medium.model_copy(update=rest) == small


def test_overrides_win_over_the_file_which_wins_over_the_preset(tmp_path: Path) -> None:
    text = "preset: small\nname: mine\nstitch: {epochs: 7, acceptance: 0.3}"
    config = load_text(tmp_path, text, "stitch.epochs=3", "stitch.radius.neighbours=9")
    small = load_config("small")
    assert (config.name, config.stitch.epochs, config.stitch.acceptance) == ("mine", 3, 0.3)
    assert config.stitch.radius == RadiusConfig(neighbours=9)
    assert config.teacher == small.teacher


def fits(section: BaseModel, above: str = "") -> Iterator[tuple[str, FitConfig]]:
    """Every optimisation of the tree, by its dotted path."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, FitConfig):
            yield above + name, value
        elif isinstance(value, BaseModel):
            yield from fits(value, f"{above}{name}.")


FITS = dict(fits(Config()))


def test_all_optimisations_are_known() -> None:
    assert len(FITS) == 11


@pytest.mark.parametrize("path", FITS)
@pytest.mark.parametrize("field", FitConfig.model_fields)
def test_part_of_a_section_keeps_the_rest_of_its_own_defaults(
    tmp_path: Path, path: str, field: str
) -> None:
    value = {"schedule": "cosine", "ema_decay": 0.5}.get(field, 7)
    config = load_text(tmp_path, "", f"{path}.{field}={value}")
    expected = FITS[path].model_copy(update={field: value})
    assert dict(fits(config)) == FITS | {path: expected}


def test_a_number_and_a_mapping_replace_each_other(tmp_path: Path) -> None:
    number, mapping = "stitch: {radius: 0.5}", "stitch: {radius: {neighbours: 9}}"
    assert load_text(tmp_path, mapping).stitch.radius == RadiusConfig(neighbours=9)
    assert load_text(tmp_path, mapping, "stitch.radius=0.25").stitch.radius == 0.25
    assert load_text(tmp_path, number).stitch.radius == 0.5
    override = "stitch.radius.neighbours=4"
    assert load_text(tmp_path, number, override).stitch.radius == RadiusConfig(neighbours=4)


def test_a_preset_may_be_overridden_too(tmp_path: Path) -> None:
    assert load_text(tmp_path, "preset: small", "preset=paper") == load_config("paper")


def test_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    fit = "teacher: {inverse_dynamics: {steps: 1e5, learning_rate: 3e-4}}"
    fitted = load_text(tmp_path, fit).teacher.inverse_dynamics
    assert (fitted.steps, fitted.learning_rate) == (100_000, 3e-4)


def test_lists_become_tuples_and_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load_text(tmp_path, "distill: {hidden: [64, 32]}").distill.hidden == (64, 32)
    assert load_text(tmp_path, "# nothing\n") == Config()


@pytest.mark.parametrize("name", ["quickstart", "small", "paper"])
def test_yaml_gives_the_same_configuration_back(tmp_path: Path, name: str) -> None:
    config = load_config(name, ["data.environment_kwargs={xml_file: walker2d.xml}", "name=n"])
    assert load_text(tmp_path, config_to_yaml(config)) == config


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("stitch.epochs=3", True),
        ("name=a", True),
        ("runs/mine.yaml", False),
        ("runs/a=b.yaml", False),
        ("=3", False),
    ],
)
def test_an_override_is_told_from_a_file(argument: str, expected: bool) -> None:
    assert is_override(argument) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "stitch:\n  epocs: 2",
            "Unknown key stitch.epocs in c.yaml:2. Did you mean stitch.epochs?",
        ),
        (
            "guidance: 1.4",
            "Unknown key guidance in c.yaml:1. Did you mean generate.sampler.guidance?",
        ),
        (
            "evaluate: {zzz: 1}",
            "Unknown key evaluate.zzz in c.yaml:1. Valid here: episodes, first_episode, "
            "checkpoints, offline, film.",
        ),
        (
            "stitch:\n  radius: {neighbors: 5}",
            "Unknown key stitch.radius.neighbors in c.yaml:2. "
            "Did you mean stitch.radius.neighbours?",
        ),
        (
            "a: 1\nb: 2",
            "Unknown key a in c.yaml:1. "
            "Valid here: name, seed, storage, data, teacher, generate, stitch, select, "
            "distill, evaluate, compute. (1 more in this configuration.)",
        ),
        (
            "stitch: {epochs: 2.5}",
            "stitch.epochs must be a valid integer. Got 2.5 in c.yaml:1.",
        ),
        (
            "\nteacher:\n  context: 0",
            "teacher.context must be greater than or equal to 1. Got 0 in c.yaml:3.",
        ),
        (
            "generate: {rollout: modle}",
            "generate.rollout must be 'model', 'dynamics' or 'environment'. "
            'Got "modle" in c.yaml:1.',
        ),
        (
            "stitch: {radius: wide}",
            'stitch.radius must be a valid number or be a mapping. Got "wide" in c.yaml:1.',
        ),
        ("name: 12", "name must be a valid string. Got 12 in c.yaml:1. Put it in quotes."),
        ("teacher: 5", "teacher must be a mapping. Got 5 in c.yaml:1."),
        (
            "seed: .inf",
            "seed must be a finite number. Got inf in c.yaml:1.",
        ),
        (
            "teacher: {context: 200}",
            "teacher.trajectory.horizon must be larger than teacher.context, since the plan "
            "lies after the history. Got horizon 101, context 200. Raise the horizon.",
        ),
        (
            "preset: smal",
            "preset must be one of paper, paper-kitchen, quickstart, small, "
            "small-hopper-medium, small-walker2d. Got 'smal' in c.yaml:1. Did you mean small?",
        ),
        (
            "seed: 1\nname: a\nseed: 2",
            "A key may be given once. Got seed in c.yaml:1 and again in line 3. Remove one.",
        ),
        (
            "1: 2",
            "Keys must be text. Got 1 in c.yaml:1. Put it in quotes, or check the key.",
        ),
        (
            "- a\n- b",
            "A configuration must be a mapping of sections. Got a sequence in c.yaml. "
            "Write for example 'stitch: {epochs: 2}'.",
        ),
        (
            "name: run\nstitch: [1",
            "A configuration must be valid YAML. Got c.yaml:2: expected ',' or ']', but got "
            "'<stream end>'. Mend that line.",
        ),
        (
            "storage: !!python/object/apply:os.getcwd []",
            "A configuration must be valid YAML. Got c.yaml:1: could not determine a "
            "constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.getcwd'. "
            "Mend that line.",
        ),
    ],
)  # fmt: skip
def test_a_bad_file_gets_one_line(tmp_path: Path, text: str, expected: str) -> None:
    assert message(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "stitch.epocs=3",
            "Unknown key stitch.epocs in override 'stitch.epocs=3'. "
            "Did you mean stitch.epochs?",
        ),
        (
            "compute.workers=many",
            "compute.workers must be a valid integer. "
            "Got \"many\" in override 'compute.workers=many'.",
        ),
        (
            "epochs",
            "An override must read section.key=value. Got 'epochs'. "
            "Write for example stitch.epochs=3.",
        ),
        (
            "distill.hidden=[1",
            "The value of an override must be YAML. Got 'distill.hidden=[1'. "
            "Check brackets and quotes.",
        ),
    ],
)
def test_a_bad_override_gets_one_line(tmp_path: Path, override: str, expected: str) -> None:
    assert message(tmp_path, "", override) == expected


def test_a_file_that_is_not_there_or_not_text() -> None:
    with pytest.raises(ConfigError, match=r"preset \(paper, .*small-walker2d\). Got 'no.yaml'"):
        load_config("no.yaml")
    with pytest.raises(ConfigError, match="readable text file"):
        load_config("tests")
