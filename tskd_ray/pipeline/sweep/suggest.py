"""The space of a sweep as draws of Optuna's, one setting after the other, conditions held."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tskd_ray.config.load_sweep import Point, Sweep, in_order


@dataclass(frozen=True)
class SpaceDraw:
    """Draws a point; values that are no plain numbers travel as JSON text."""

    sweep: Sweep

    def __call__(self, trial: Any) -> None:
        """Draw every setting whose condition holds, given those before."""
        point: Point = {}
        for key in in_order(self.sweep):
            if self.sweep.applies(key, point):
                point[key] = _decode(self.sweep, key, self._draw(trial, key))

    def _draw(self, trial: Any, key: str) -> Any:
        domain = self.sweep.settings.space[key]
        if domain.uniform is not None:
            return trial.suggest_float(key, *domain.uniform)
        if domain.loguniform is not None:
            return trial.suggest_float(key, *domain.loguniform, log=True)
        if domain.randint is not None:
            return trial.suggest_int(key, *domain.randint)
        values = domain.values() or ()
        if domain.quniform is not None:
            return trial.suggest_int(key, 0, len(values) - 1)  # of the steps: no rounding
        return trial.suggest_categorical(key, [json.dumps(value) for value in values])


def decode(sweep: Sweep, drawn: Mapping[str, Any]) -> Point:
    """A point from what was drawn."""
    return {key: _decode(sweep, key, value) for key, value in drawn.items()}


def encode(sweep: Sweep, point: Mapping[str, Any]) -> dict[str, Any]:
    """What would have to be drawn for a point."""
    drawn: dict[str, Any] = {}
    for key, value in point.items():
        domain = sweep.settings.space[key]
        if domain.quniform is not None:
            drawn[key] = (domain.values() or ()).index(value)
        elif domain.choice is not None or domain.grid is not None:
            drawn[key] = json.dumps(value)
        else:
            drawn[key] = value
    return drawn


def _decode(sweep: Sweep, key: str, value: Any) -> Any:
    domain = sweep.settings.space[key]
    if domain.quniform is not None:
        return (domain.values() or ())[value]
    return json.loads(value) if domain.choice is not None or domain.grid is not None else value
