"""Actions in the units of their students, and back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from toy_world import SPACE, toy_trajectories
from tskd_ray.models.batches import action_bounds
from tskd_ray.models.policy import unscale_actions
from tskd_ray.models.standardizer import Standardizer
from tskd_ray.training.cloning import Lessons

ASKEW = replace(SPACE, action_low=(-1.0,), action_high=(7.0,))


def test_actions_are_learned_in_units_that_acting_undoes() -> None:
    data = toy_trajectories(4)
    actions = np.linspace(-1.0, 7.0, data.n_steps, dtype=np.float32)[:, None]
    data = replace(data, actions=actions, environment=ASKEW)
    lesson = Lessons(data, Standardizer.fit(data.observations), *action_bounds(data))
    learned = lesson.actions()
    np.testing.assert_allclose(learned[:, 0], np.linspace(-1.0, 1.0, data.n_steps), atol=1e-6)
    np.testing.assert_allclose(
        unscale_actions(learned, *action_bounds(data)), actions, atol=1e-5
    )
