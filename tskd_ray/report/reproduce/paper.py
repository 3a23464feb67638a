"""What the paper reports (arXiv 2402.00807): on D4RL's v2 files, so other data than here."""

from __future__ import annotations

from collections.abc import Mapping

_METHODS = ("BC", "CQL", "IQL", "DT", "TT", "Diffuser", "DD", "MBTS + BC", "TSKD")
_TABLE1: Mapping[str, tuple[float | None, ...]] = {
    "halfcheetah-medium-expert": (55.2, 91.6, 86.7, 86.8, 95.0, 79.8, 90.6, 86.9, 86.8),
    "hopper-medium-expert": (52.5, 105.4, 91.5, 107.6, 110.0, 107.2, 111.8, 94.8, 105.1),
    "walker2d-medium-expert": (107.5, 108.8, 109.6, 108.1, 101.9, 108.4, 108.8, 108.8, 109.1),
    "halfcheetah-medium": (42.6, 44.0, 47.4, 42.6, 46.9, 44.2, 49.1, 43.2, 44.1),
    "hopper-medium": (52.9, 58.5, 66.3, 67.6, 61.1, 58.5, 79.3, 64.3, 83.2),
    "walker2d-medium": (75.3, 72.5, 78.3, 74.0, 79.0, 79.7, 82.5, 78.8, 78.5),
    "halfcheetah-medium-replay": (36.6, 45.5, 44.2, 36.6, 41.9, 42.2, 39.3, 39.8, 38.9),
    "hopper-medium-replay": (18.1, 95.0, 94.7, 82.7, 91.5, 96.8, 100.0, 50.2, 96.4),
    "walker2d-medium-replay": (26.0, 77.2, 73.9, 66.6, 82.6, 61.2, 75.0, 61.5, 74.5),
    "kitchen-mixed": (51.5, 52.4, 51.0, None, None, None, 65.0, None, 60.0),
    "kitchen-partial": (38.0, 50.1, 46.3, None, None, None, 57.0, None, 44.4),
}
TABLE1: Mapping[str, Mapping[str, float]] = {
    task: {m: v for m, v in zip(_METHODS, values, strict=True) if v is not None}
    for task, values in _TABLE1.items()
}
"""Task → method → D4RL-normalised score, mean of 5 seeds."""

TSKD_ERROR: Mapping[str, float] = {
    "halfcheetah-medium-expert": 0.7,
    "hopper-medium-expert": 6.1,
    "walker2d-medium-expert": 0.1,
    "halfcheetah-medium": 0.7,
    "hopper-medium": 8.1,
    "walker2d-medium": 2.0,
    "halfcheetah-medium-replay": 3.2,
    "hopper-medium-replay": 6.8,
    "walker2d-medium-replay": 6.5,
    "kitchen-mixed": 4.8,
    "kitchen-partial": 3.9,
}
"""Standard errors of TSKD in Table 1."""

TABLE2 = {"DD": (236.89, 5.93), "TSKD student": (2.08, 0.02)}
"""Seconds per 200 steps and their spread, on an RTX 3080."""

TABLE3 = {"DD": 59.73, "DT": 0.86, "TT": 1.23, "TSKD student": 0.07}
"""Millions of parameters on Hopper."""

OURS = {"bc": "BC", "mbts": "MBTS + BC", "tskd": "TSKD", "dd-planner": "DD"}
"""Row here → method in the paper's Table 1."""
