"""What an epoch counts, against the verdicts of the literal loop."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from stitching.cases import random_case
from stitching.literal import literal_decision, literal_states
from tskd_ray.stitching.epoch import stitch_epoch


def test_an_epoch_counts_its_decisions_by_verdict() -> None:
    seen = Counter[str]()
    for seed in range(15):
        case = random_case(seed)
        options: dict[str, Any] = {**case.options, "metric": "raw"}
        states = literal_states(case.trajectories.episodes(), options["value"])
        scale = [1.0] * case.trajectories.observation_dim
        asked: Any = (options["log_density"], options["radius"], scale, options["candidate"])
        verdicts = Counter(
            literal_decision(states, source, *asked)[1]
            for source in case.trajectories.step_state
        )
        counts = stitch_epoch(case.trajectories, **options).counts
        n = case.trajectories.n_steps
        assert (counts.decided, counts.transitions) == (n, n)
        assert counts.hops_accepted == verdicts["accepted"]
        assert counts.refused_no_neighbour == verdicts["no_neighbour"]
        assert counts.refused_no_better == verdicts["no_better"]
        assert counts.refused_dynamics == verdicts["dynamics"]
        better = verdicts["accepted"] + verdicts["dynamics"]
        assert counts.better_share == pytest.approx(better / n)
        seen += verdicts
    assert min(seen[kind] for kind in ("accepted", "no_better", "dynamics")) > 8, seen
