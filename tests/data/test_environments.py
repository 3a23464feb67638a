from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

import gymnasium
import numpy as np
import pytest
from gymnasium.envs import registration

from tskd_ray.data.environments import (
    check_available,
    check_declared,
    environment_spec,
    make_environment,
    normalized_score,
    reference_scores,
    register,
)
from tskd_ray.data.trajectories import EnvironmentSpec
from tskd_ray.errors import DataError


def test_spec_of_an_environment() -> None:
    spec = environment_spec("Hopper-v5", {"healthy_reward": 0.5})
    assert spec.id == "Hopper-v5"
    assert spec.kwargs == {"healthy_reward": 0.5}
    assert spec.action_low == (-1.0,) * 3
    assert spec.action_high == (1.0,) * 3
    assert spec.max_episode_steps == 1000
    assert spec.observation_dim == 11


@pytest.mark.parametrize(("own", "limit"), [(7, 7), (250, 250), (None, 200)])
def test_an_environments_own_time_limit_goes_before_gymnasiums(
    own: int | None, limit: int
) -> None:
    spec = EnvironmentSpec(id="Pendulum-v1", kwargs={"g": 9.0}, max_episode_steps=own)
    simulator = make_environment(spec)
    simulator.reset(seed=0)
    steps, truncated = 0, False
    while not truncated:
        *_, truncated, _ = simulator.step(np.zeros(1, dtype=np.float32))
        steps += 1
    simulator.close()
    assert steps == limit


@pytest.mark.parametrize(
    ("environment_id", "nearest"),
    [("Hoper-v5", "Hopper-v5"), ("hopper-v5", "Hopper-v5"), ("Walker2D-v5", "Walker2d-v5")],
)
def test_unknown_environment_names_the_nearest(environment_id: str, nearest: str) -> None:
    with pytest.raises(DataError, match=f"Got '{environment_id}'. Nearest: .*{nearest}"):
        environment_spec(environment_id)


@pytest.mark.parametrize(
    "environment_id", ["Hopper-v99", "no_such_module:Thing-v0", "qqqqqqqq"]
)
def test_other_unknown_environments(environment_id: str) -> None:
    with pytest.raises(DataError, match="must be one that Gymnasium knows") as caught:
        environment_spec(environment_id)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kwargs", [{"no_such_argument": 1}, {"xml_file": "no_such.xml"}])
def test_wrong_arguments_are_explained(kwargs: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"must be makeable here\. 'Hopper-v5' with") as caught:
        environment_spec("Hopper-v5", kwargs)
    assert "\n" not in str(caught.value)


def test_discrete_actions_are_refused() -> None:
    with pytest.raises(DataError, match="vectors of real numbers"):
        environment_spec("CartPole-v1")


def test_reference_scores_by_environment() -> None:
    assert reference_scores("Hopper-v5") == (-20.272305, 3234.3)
    assert (
        reference_scores("Walker2d-v2") == reference_scores("Walker2d-v5") == (1.629008, 4592.3)
    )
    assert reference_scores("gymnasium_robotics:FrankaKitchen-v1") == (0.0, 4.0)
    assert reference_scores("CartPole-v1") is None


FOUR = ["microwave", "kettle", "bottom burner", "light switch"]


@pytest.mark.parametrize(
    ("kwargs", "known"),
    [
        ({"tasks_to_complete": FOUR}, True),
        ({"tasks_to_complete": FOUR, "remove_task_when_completed": True}, True),
        ({"tasks_to_complete": FOUR, "remove_task_when_completed": False}, False),
        ({"tasks_to_complete": FOUR[:3]}, False),
        ({}, False),
    ],
)
def test_the_kitchens_scores_are_of_four_tasks_that_pay_once(
    kwargs: dict[str, object], known: bool
) -> None:
    assert reference_scores("FrankaKitchen-v1", kwargs) == ((0.0, 4.0) if known else None)


def imports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Modules that registering imports; the plug-in's registers one environment."""
    seen: list[str] = []

    def load(name: str) -> ModuleType:
        seen.append(name)
        sys.stderr.write("a notice\n")
        gymnasium.register("FrankaKitchen-v97", entry_point="nowhere:Kitchen")
        return ModuleType(name)

    monkeypatch.setattr("tskd_ray.data.environments.import_module", load)
    registry = dict(gymnasium.registry)
    monkeypatch.setattr(registration, "registry", registry)
    monkeypatch.setattr(gymnasium, "registry", registry)
    return seen


def test_a_known_package_is_imported_once_for_its_environments_alone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    seen = imports(monkeypatch)
    for other in ("Hopper-v5", "Kitchen-v1", "os:FrankaKitchen-v97", "FrankaKitchen-v97; x"):
        register(other)
    assert not seen
    register("FrankaKitchen-v97")
    register("FrankaKitchen-v97")
    assert seen == ["gymnasium_robotics"]
    assert not capfd.readouterr().err


@pytest.mark.parametrize(
    "ask", [environment_spec, lambda i: make_environment(EnvironmentSpec(id=i))]
)
def test_a_known_package_that_is_missing_is_named(
    ask: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("tskd_ray.data.environments.import_module", load)
    with pytest.raises(DataError, match=r"pip install 'tskd-ray\[robotics\]'") as caught:
        ask("FetchReach-v98")
    assert "\n" not in str(caught.value)


def test_an_environment_that_does_not_work_here_is_told_before_it_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    imports(monkeypatch)
    check_available(EnvironmentSpec(id="NoSuch-v0"))  # Gymnasium's are not made
    with pytest.raises(DataError, match=r"fails: No module named 'nowhere'.*\[robotics\]"):
        check_available(EnvironmentSpec(id="FrankaKitchen-v97"))


def test_a_dataset_may_name_a_known_packages_environment_and_no_module() -> None:
    check_declared("FrankaKitchen-v1", "data")
    with pytest.raises(DataError, match="imports nothing"):
        check_declared("gymnasium_robotics:FrankaKitchen-v1", "data")


def test_normalized_score_is_linear_between_random_and_expert() -> None:
    scores = normalized_score(np.array([[-20.0, 80.0], [30.0, 180.0]]), (-20.0, 80.0))
    np.testing.assert_allclose(scores, [[0.0, 100.0], [50.0, 200.0]])
