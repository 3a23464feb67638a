from __future__ import annotations

import pytest

from tskd_ray.data.environments import environment_spec, reference_scores
from tskd_ray.errors import DataError


def test_spec_of_an_environment() -> None:
    spec = environment_spec("Hopper-v5", {"healthy_reward": 0.5})
    assert spec.id == "Hopper-v5"
    assert spec.kwargs == {"healthy_reward": 0.5}
    assert spec.action_low == (-1.0,) * 3
    assert spec.action_high == (1.0,) * 3
    assert spec.max_episode_steps == 1000
    assert spec.observation_dim == 11


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
