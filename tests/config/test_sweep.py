"""Sweeps from YAML: every message with its line, what is shipped, what conditions do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tskd_ray.config.load_sweep import Sweep, load_sweep
from tskd_ray.errors import ConfigError

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "tune_configs").glob("*.yaml"))

EXAMPLE = """\
name: a
base: small
config:
  stitch: {epochs: 2}
space:
  generate.sampler.guidance: {grid: [1.2, 1.4]}
  stitch.radius.neighbours: {choice: [20, 50]}
  stitch.epochs: {randint: [1, 4]}
  select.slack: {quniform: [500, 1000, 50]}
  generate.replan_every: {choice: [4, 8], when: {generate.rollout: dynamics}}
search: {method: random, trials: 8}
"""


def load(folder: Path, text: str = EXAMPLE, *overrides: str) -> Sweep:
    (folder / "s.yaml").write_text(text)
    return load_sweep(folder / "s.yaml", overrides)


def message(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, *overrides)
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("search:", "serch:", "Unknown key serch in s.yaml:11. Did you mean search?"),
        (
            "guidance",
            "guidence",
            "Unknown key generate.sampler.guidence in s.yaml:6. "
            "Did you mean generate.sampler.guidance?",
        ),
        (
            "generate.sampler.guidance",
            "generate.guidance",
            "Unknown key generate.guidance in s.yaml:6. "
            "Did you mean generate.sampler.guidance?",
        ),
        (
            "grid: [1.2",
            "gird: [1.2",
            "Unknown key space.generate.sampler.guidance.gird in s.yaml:6. "
            "Did you mean space.generate.sampler.guidance.grid?",
        ),
        (
            "grid: [1.2, 1.4]",
            "grid: [1.2], choice: [1]",
            "space.generate.sampler.guidance must be exactly one of choice, grid, uniform, "
            "quniform, loguniform, randint. Got choice and grid in s.yaml:6.",
        ),
        (
            "[20, 50]",
            "[20, -1]",
            'stitch.radius must be a valid number. Got {"neighbours": -1} in s.yaml:7. '
            "(1 more in this configuration.)",
        ),
        (
            "randint: [1, 4]",
            "uniform: [1, 4]",
            "stitch.epochs must be a valid integer. Got 2.854102 in s.yaml:8.",
        ),
        (
            "randint: [1, 4]",
            "randint: [4, 1]",
            "space.stitch.epochs must have its lower bound first. Got randint: [4, 1] "
            "in s.yaml:8.",
        ),
        (
            "randint: [1, 4]",
            "randint: [1, 1001]",
            "space.stitch.epochs must stand for at most 1000 values, by larger steps or a "
            "choice of fewer. Got randint: [1, 1001] in s.yaml:8.",
        ),
        (
            "1000, 50]",
            "1000, 1e-9]",
            "space.select.slack must stand for at most 1000 values, by larger steps or a "
            "choice of fewer. Got quniform: [500, 1000, 1e-09] in s.yaml:9.",
        ),
        (
            "1000, 50]",
            "1000, 0]",
            "space.select.slack must have a step between 0 and its width. "
            "Got quniform: [500, 1000, 0] in s.yaml:9.",
        ),
        (
            "choice: [4, 8]",
            "choice: [4, 80]",
            "generate.replan_every cannot exceed the planned steps, horizon − context. "
            "Got 80 of 31. Replan more often. (With generate.replan_every 80 in s.yaml:10.)",
        ),
        (
            "rollout: dynamics",
            "rolout: dynamics",
            "Unknown key generate.rolout in s.yaml:10. Did you mean generate.rollout?",
        ),
        (
            "rollout: dynamics",
            "rollout: nonsense",
            "generate.rollout must be 'model', 'dynamics' or 'environment'. "
            'Got "nonsense" in s.yaml:10.',
        ),
        (
            "base: small",
            "base: smal",
            "base must be a preset (paper, paper-kitchen, quickstart, small, "
            "small-hopper-medium, small-walker2d) or a file beside the sweep. "
            "Got 'smal' in s.yaml:2. Did you mean small?",
        ),
        (
            "trials: 8",
            "trials: 8.5",
            "search.trials must be a valid integer. Got 8.5 in s.yaml:11.",
        ),
        (
            "method: random, trials: 8",
            "method: grid, trials: 8",
            "search must have trials where method is random or tpe, and none where it is grid, "
            "which tries every value. Got method grid, trials 8 in s.yaml:11.",
        ),
        (
            "epochs: 2",
            "epocs: 2",
            "Unknown key stitch.epocs in s.yaml:4. Did you mean stitch.epochs?",
        ),
        (
            "stitch.epochs: {",
            "compute.threads: {",
            "A sweep cannot vary name, storage, data, compute, which its trials share. "
            "Got compute.threads in s.yaml:8. Set it under config, and make a sweep for each "
            "value.",
        ),
        (
            "name: a\n",
            "name: a\nobjective: {metric: cpu_seconds}\n",
            "objective must have direction min for cpu_seconds, max for score and offline. "
            "Got max for cpu_seconds in s.yaml:2.",
        ),
        (
            "name: a\n",
            "name: a\nobjective: [{metric: cpu_seconds, direction: min}]\n",
            "cpu_seconds alone would name the cheapest setting in s.yaml:2. "
            "Put score or offline before it.",
        ),
        (
            "name: a\n",
            "name: a\nobjective: [{metric: score}, {metric: score}]\n",
            "objective must name each metric once. Got score, score in s.yaml:2.",
        ),
        (
            "method: random, trials: 8}",
            "method: grid}\nconfig2: 1",
            "Unknown key config2 in s.yaml:12. Did you mean config?",
        ),
    ],
)
def test_a_bad_sweep_gets_one_line_that_names_the_line(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    assert old in EXAMPLE
    assert message(tmp_path, EXAMPLE.replace(old, new)) == expected


def test_a_grid_refuses_a_continuum(tmp_path: Path) -> None:
    text = EXAMPLE.replace("method: random, trials: 8", "method: grid")
    text = text.replace("choice: [20, 50]", "uniform: [20, 50]").replace(
        "stitch.radius.neighbours", "stitch.acceptance"
    )
    assert message(tmp_path, text) == (
        "A grid needs values that can be listed. Got uniform for stitch.acceptance in "
        "s.yaml:7. Use grid, choice, quniform or randint, or another method."
    )


def test_a_grid_has_no_more_points_than_memory_holds(tmp_path: Path) -> None:
    text = EXAMPLE.replace("method: random, trials: 8", "method: grid")
    for key, number in (("select.minimum_episodes", 100), ("generate.trajectories", 100)):
        text = text.replace("space:\n", f"space:\n  {key}: {{randint: [1, {number}]}}\n")
    assert message(tmp_path, text) == (
        "A grid has at most 100,000 points. Got 3,520,000 in s.yaml:5. List fewer values, or "
        "search at random."
    )


def test_conditions_may_not_go_in_a_circle(tmp_path: Path) -> None:
    text = EXAMPLE.replace("[1, 4]}", "[1, 4], when: {select.slack: 500}}")
    text = text.replace("1000, 50]}", "1000, 50], when: {stitch.epochs: 2}}")
    assert message(tmp_path, text) == (
        "Conditions must not go in a circle. Got stitch.epochs and select.slack in s.yaml:8. "
        "Remove one."
    )


def test_an_override_is_told_as_its_place(tmp_path: Path) -> None:
    for override, rule in (
        ("distill.seeds=x", 'distill.seeds must be a valid integer. Got "x"'),
        ("search.trials=x", 'search.trials must be a valid integer. Got "x"'),
    ):
        expected = f"{rule} in override {override!r}."
        assert message(tmp_path, EXAMPLE, override) == expected


def test_a_sweep_that_does_not_exist_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="A sweep must be a YAML file"):
        load_sweep(tmp_path / "none.yaml")


def test_overrides_win_over_the_file_and_the_file_over_the_base(tmp_path: Path) -> None:
    sweep = load(tmp_path, EXAMPLE, "distill.seeds=2", "search.trials=3", "name=b")
    assert sweep.settings.search.trials == 3
    assert (sweep.base.name, sweep.base.distill.seeds, sweep.base.stitch.epochs) == ("b", 2, 2)
    config = sweep.config({"stitch.epochs": 4, "stitch.radius.neighbours": 20})
    assert (config.stitch.epochs, config.distill.seeds) == (4, 2)
    assert config.stitch.radius.neighbours == 20  # type: ignore[union-attr]


def test_a_condition_looks_at_the_point_and_then_at_the_base(tmp_path: Path) -> None:
    sweep = load(
        tmp_path,
        EXAMPLE.replace("when: {generate.rollout: dynamics}", "when: {stitch.epochs: [2, 3]}"),
    )
    assert sweep.applies("generate.replan_every", {})
    assert sweep.applies("generate.replan_every", {"stitch.epochs": 3})
    assert not sweep.applies("generate.replan_every", {"stitch.epochs": 4})


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_each_shipped_sweep_loads_and_begins_with_its_command(path: Path) -> None:
    load_sweep(path)
    first = path.read_text().splitlines()[0]
    assert first.startswith(f"# tskd sweep tune_configs/{path.name}")
