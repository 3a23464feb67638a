from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tskd_ray.config.load import load_config
from tskd_ray.config.schema import SelectConfig
from tskd_ray.data.trajectories import Origin, Trajectories
from tskd_ray.errors import ConfigError, DataError
from tskd_ray.training.select import histogram, select


def with_returns(returns: list[float], origins: list[int] | None = None) -> Trajectories:
    data = Trajectories.from_episodes(
        [
            {"observations": np.zeros((2, 1)), "actions": np.zeros((1, 1)), "rewards": [value],
             "terminated": False}
            for value in returns
        ]
    )  # fmt: skip
    return replace(data, episode_origin=np.array(origins or [0] * len(returns), dtype=np.int8))


RETURNS = st.lists(st.integers(-1000, 1000).map(float), min_size=1, max_size=20)


@given(RETURNS, st.integers(0, 2000).map(float), st.data())
def test_what_is_within_the_slack_of_the_best_is_kept(
    returns: list[float], slack: float, data: st.DataObject
) -> None:
    origins = data.draw(
        st.lists(st.integers(0, 2), min_size=len(returns), max_size=len(returns))
    )
    scope = data.draw(st.sampled_from(["global", "per_origin"]))
    settings = SelectConfig.model_validate(
        {"slack": slack, "scope": scope, "minimum_episodes": 1}
    )
    selection = select(with_returns(returns, origins), settings)
    kept = []
    for index, value in enumerate(returns):
        rivals = [
            r for r, o in zip(returns, origins, strict=True)
            if scope == "global" or o == origins[index]
        ]  # fmt: skip
        if value >= max(rivals) - slack:
            kept.append(index)
    assert selection.indices.tolist() == kept
    for origin in Origin:
        expected = (
            sum(origins[i] == origin for i in kept),
            sum(o == origin for o in origins),
        )
        assert selection.survivors.get(origin.name.lower(), (0, 0)) == expected


def test_a_percentage_is_of_the_range_of_returns() -> None:
    data = with_returns([-100.0, 0.0, 60.0, 59.9, 100.0])
    selection = select(data, SelectConfig(slack="20%", minimum_episodes=1))
    assert selection.indices.tolist() == [2, 4]
    assert selection.thresholds == {"global": 60.0}
    assert select(data, SelectConfig(slack="100%", minimum_episodes=5)).indices.tolist() == [
        0, 1, 2, 3, 4,
    ]  # fmt: skip


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_all_of_the_range_keeps_the_worst_episode(one: float, other: float) -> None:
    selection = select(
        with_returns([one, other]), SelectConfig(slack="100%", minimum_episodes=2)
    )
    assert selection.thresholds == {"global": min(one, other)}


@pytest.mark.parametrize("percent", range(1, 101))
def test_the_best_share_is_rounded_up_from_the_exact_number(percent: int) -> None:
    settings = SelectConfig(best=f"{percent}%", minimum_episodes=1)
    for n in (1, 20, 100, 150, 199, 200):
        kept = select(with_returns([float(value) for value in range(n)]), settings).indices
        assert len(kept) == -(-percent * n // 100)


@pytest.mark.parametrize("share", ["0%", "0.0%", "100.1%", "250%"])
def test_a_share_is_above_nothing_and_at_most_all(share: str) -> None:
    with pytest.raises(ValidationError, match=f"above 0% and at most 100%. Got {share}"):
        SelectConfig(best=share)
    with pytest.raises(ConfigError, match=r"select\.best"):
        load_config("small", [f"select.best={share}"])


@given(RETURNS, st.integers(1, 100))
def test_the_best_share_is_the_fewest_episodes_that_make_it_up_and_those_as_good(
    returns: list[float], percent: int
) -> None:
    settings = SelectConfig(best=f"{percent}%", minimum_episodes=1)
    kept = select(with_returns(returns), settings).indices.tolist()
    wanted = 1
    while wanted < percent * len(returns) / 100:
        wanted += 1
    least = sorted(returns, reverse=True)[wanted - 1]
    assert kept == [index for index, value in enumerate(returns) if value >= least]


def test_too_small_a_share_names_the_setting() -> None:
    with pytest.raises(
        DataError, match=r"With best 10% \(global\) 1 of 3 .* Raise select\.best"
    ):
        select(with_returns([1.0, 2.0, 3.0]), SelectConfig(best="10%"))


def test_an_origin_that_loses_all_its_episodes_is_a_warning() -> None:
    data = with_returns([100.0, 90.0, 10.0, 9.0], [0, 0, 1, 1])
    selection = select(data, SelectConfig(slack=20.0, minimum_episodes=2))
    assert selection.survivors == {"recorded": (2, 2), "generated": (0, 2)}
    assert selection.warnings == (
        "Selection kept none of the 2 generated episodes. Raise select.slack, or use "
        "select.scope: per_origin.",
    )
    both = select(data, SelectConfig(slack=20.0, scope="per_origin", minimum_episodes=2))
    assert both.survivors == {"recorded": (2, 2), "generated": (2, 2)}
    assert both.warnings == ()
    assert both.thresholds == {"recorded": 80.0, "generated": -10.0}


def test_nan_returns_are_never_kept() -> None:
    data = with_returns([float("nan"), 5.0, 4.0])
    assert select(data, SelectConfig(slack=2.0, minimum_episodes=1)).indices.tolist() == [1, 2]
    with pytest.raises(DataError, match="no finite return"):
        select(with_returns([float("nan")]), SelectConfig(minimum_episodes=1))


def test_too_few_survivors_is_an_error_that_shows_the_returns() -> None:
    data = with_returns([0.0] * 6 + [50.0, 100.0])
    with pytest.raises(DataError) as error:
        select(data, SelectConfig(slack=10.0, minimum_episodes=5))
    first, *lines = str(error.value).splitlines()
    assert first == (
        "Selection must keep at least 5 episodes. With slack 10.0 (global) 1 of 8 reach the "
        "threshold (global 90). Raise select.slack or lower select.minimum_episodes. Returns:"
    )
    assert "\n".join(lines) == histogram(data.returns)
    assert [int(line.split()[-1]) for line in lines] == [1, 0, 0, 1, 0, 0, 0, 6]
    assert lines[0].split()[:3] == ["87.5", "…", "100.0"]
