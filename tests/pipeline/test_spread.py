"""Generation spread over workers: what its trajectories are called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.tiny import tiny_config
from toy_world import toy_trajectories
from tskd_ray.pipeline.spread import _first_id


def test_generated_episodes_have_ids_that_no_recorded_step_comes_from(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)  # four trajectories per epoch
    recorded = toy_trajectories(5)
    assert [_first_id(recorded, config, epoch) for epoch in (1, 2)] == [5, 9]
    # An augmented dataset, recorded anew: episode 80 is gone, but for a step of it.
    source = np.where(np.arange(recorded.n_steps) == 3, 80, recorded.source_episode)
    augmented = replace(recorded, source_episode=source)
    assert [_first_id(augmented, config, epoch) for epoch in (1, 2)] == [81, 85]
