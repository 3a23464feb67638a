"""How fast a stage was, from the progress that it told."""

from __future__ import annotations

import pytest

from tskd_ray.pipeline import cost
from tskd_ray.pipeline.cost import Rate


def test_the_rate_is_that_between_the_first_and_the_last_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, heard = [100.0], list[tuple[int, int]]()
    monkeypatch.setattr(cost.time, "monotonic", lambda: now[0])
    rate = Rate(lambda done, total, **metrics: heard.append((done, total)))
    assert rate.figures() == {}
    for done, at in ((25, 103.0), (50, 104.0), (125, 108.0)):  # a start of three seconds
        now[0] = at
        rate(done, 125, loss=0.5)
    assert heard == [(25, 125), (50, 125), (125, 125)]
    assert rate.figures() == {"rate": 20.0}
    assert rate.figures(3e6) == {"rate": 20.0, "flop_per_second": 6e7}
