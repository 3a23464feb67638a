"""What is told of a run before its score is believed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tskd_ray.pipeline.vital_signs import vital_signs


@pytest.mark.parametrize(
    ("value", "truth", "ratio", "warns"),
    [(9.0, 10.0, 0.9, False), (4.0, 10.0, 0.4, True), (0.3, 0.0, None, False)],
)
def test_v_is_compared_with_the_returns_unless_nothing_was_earned(
    tmp_path: Path, value: float, truth: float, ratio: float | None, warns: bool
) -> None:
    metrics = {"mean_value": value, "mean_monte_carlo": truth}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    (sign,) = vital_signs({"value-1": tmp_path}, [])
    assert (sign.value, sign.warns) == (ratio, warns)
