from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tskd_ray.data.trajectories import EnvironmentSpec, Origin, Trajectories
from tskd_ray.data.validate import validate
from tskd_ray.errors import DataError

Make = Callable[..., Trajectories]


def refused(trajectories: Trajectories) -> str:
    with pytest.raises(DataError) as caught:
        validate(trajectories, path="some.hdf5")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_good_data_pass(make_trajectories: Make) -> None:
    validate(make_trajectories(), path="some.hdf5")
    validate(make_trajectories(environment=None), path="some.hdf5")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["observations", "actions", "rewards"])
def test_every_non_finite_value_is_found(
    make_trajectories: Make, name: str, value: float
) -> None:
    for row, (episode, step) in {0: (0, 0), 6: (1, 1)}.items():
        data = make_trajectories((5, 2, 9))
        shift = episode if name == "observations" else 0  # one state more per episode
        getattr(data, name)[row + shift] = value
        message = refused(data)
        assert f"{name} of episode {episode}, step {step} in some.hdf5 holds {value}" in message


def test_a_final_state_counts(make_trajectories: Make) -> None:
    data = make_trajectories((5, 2, 9))
    data.observations[5, 3] = np.nan
    assert "observations of episode 0, step 5" in refused(data)


def test_large_finite_values_pass(make_trajectories: Make) -> None:
    data = make_trajectories(dtype=np.float64)
    data.rewards[:] = 1e308  # their sum overflows, they do not
    with np.errstate(over="ignore"):
        validate(data, path="some.hdf5")


def test_one_step_episode(make_trajectories: Make) -> None:
    data = make_trajectories((5, 1, 1, 9))
    origins = np.array([Origin.RECORDED, Origin.GENERATED, Origin.RECORDED, Origin.RECORDED])
    message = refused(replace(data, episode_origin=origins.astype(np.int8)))
    assert "at least two steps. Episode 2 of some.hdf5 has 1 (1 such in all)" in message


def test_what_generation_and_stitching_leave_may_be_one_step(make_trajectories: Make) -> None:
    data = make_trajectories((1, 1))
    origins = np.array([Origin.GENERATED, Origin.STITCHED], dtype=np.int8)
    validate(replace(data, episode_origin=origins), path="some.hdf5")


def test_no_complete_episode(make_trajectories: Make) -> None:
    data = make_trajectories()
    never = np.zeros(data.n_episodes, dtype=bool)
    assert "None of the 3 in some.hdf5 does" in refused(
        replace(data, terminated=never, truncated=never)
    )


def test_action_outside_its_space(make_trajectories: Make) -> None:
    data = make_trajectories((5, 2, 9))
    data.actions[6, 2] = 1.5
    message = refused(data)
    assert "Episode 1, step 1 in some.hdf5 has 1.5 in dimension 2, outside [-1, 1]" in message
    validate(replace(data, environment=None), path="nothing known, nothing checked")
    data.actions[6, 2] = -1.5
    assert "has -1.5 in dimension 2" in refused(data)


def test_rounded_bounds_pass(make_trajectories: Make) -> None:
    data = make_trajectories()
    data.actions[0, 0] = 1.0 + 1e-4
    validate(data, path="some.hdf5")


def test_unbounded_space_passes(make_trajectories: Make) -> None:
    free = EnvironmentSpec(id="Free-v0", action_low=(-np.inf,) * 3, action_high=(np.inf,) * 3)
    validate(make_trajectories(environment=free), path="some.hdf5")


def test_unknown_origin(make_trajectories: Make) -> None:
    data = make_trajectories()
    data.origin[3] = 7
    assert "Origins are 0 recorded, 1 generated, 2 stitched. some.hdf5 has 7" in refused(data)


def test_widths_of_another_environment(make_trajectories: Make) -> None:
    data = make_trajectories()
    assert data.environment is not None
    wide = replace(data.environment, observation_dim=105)
    assert "width of Hopper-v5's, 105. some.hdf5 has 11" in refused(
        replace(data, environment=wide)
    )
    more = replace(data.environment, action_low=(-1.0,) * 6, action_high=(1.0,) * 6)
    assert "action space, 6. some.hdf5 has 3" in refused(replace(data, environment=more))
