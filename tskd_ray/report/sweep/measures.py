"""What a sweep's pictures and words are made of: metrics, bins, the front, importance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tskd_ray.report.sweep.data import Direction, SweepRecord, TrialRow, Value

BINS = 5
"""Of a setting with more values than `FEW` in a heat map."""
FEW = 6


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What trials are ranked by: the score in the environment, or the offline estimate."""

    key: str  # "score" or "offline"
    label: str
    direction: Direction

    def of(self, trial: TrialRow) -> float | None:
        """The trial's value; None without a finite one."""
        value = trial.score if self.key == "score" else trial.offline
        return value if value is not None and math.isfinite(value) else None

    def error(self, trial: TrialRow) -> tuple[float, float] | None:
        """How far the value's interval reaches below and above it."""
        value = self.of(trial)
        if value is None:
            return None
        if self.key == "score":
            half = trial.score_error
            return None if half is None else (half, half)
        if trial.offline_low is None or trial.offline_high is None:
            return None
        return max(0.0, value - trial.offline_low), max(0.0, trial.offline_high - value)


def metric_of(record: SweepRecord) -> Metric:
    """The first objective that says how good a policy is; without one, what was measured."""
    named = [pair for pair in record.objectives if pair[0] in ("score", "offline")]
    scored = any(trial.score is not None for trial in record.trials)
    key, direction = named[0] if named else ("score" if scored else "offline", "maximize")
    if key == "offline":
        label = "estimated discounted return (offline)"
    else:
        label = "normalized score" if is_normalized(record) else "return"
    return Metric(key=key, label=label, direction=direction)


def is_normalized(record: SweepRecord) -> bool:
    """Whether reference returns were known, so that scores are D4RL-normalised."""
    from tskd_ray.data.environments import reference_scores

    if record.base.get("data", {}).get("reference_scores") is not None:
        return True
    if record.environment is None:
        return False
    return reference_scores(record.environment, record.environment_kwargs) is not None


def ranked(record: SweepRecord, metric: Metric) -> list[TrialRow]:
    """All trials, best first; those without a value last."""
    sign = -1.0 if metric.direction == "maximize" else 1.0

    def order(trial: TrialRow) -> tuple[bool, float, int]:
        value = metric.of(trial)
        return value is None, 0.0 if value is None else sign * value, trial.number

    return sorted(record.trials, key=order)


def measured(record: SweepRecord, metric: Metric) -> list[tuple[TrialRow, float]]:
    """Finished trials with their values."""
    pairs = [(trial, metric.of(trial)) for trial in record.trials if trial.state == "done"]
    return [(trial, value) for trial, value in pairs if value is not None]


def varied(record: SweepRecord, trials: Sequence[TrialRow]) -> list[str]:
    """Settings of which these trials have more than one value."""
    return [
        name
        for name in record.names
        if len({repr(trial.settings.get(name)) for trial in trials}) > 1
    ]


def is_numeric(values: Sequence[Value]) -> bool:
    """Whether all are numbers; true and false are not."""
    return all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )


def value_text(value: Value) -> str:
    """A setting's value for a label."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def levels(values: Sequence[Value]) -> tuple[list[int], list[str]]:
    """The level of each value, and the levels' names: each value its own, or bins of many."""
    if is_numeric(values):
        numbers = np.array([float(value or 0) for value in values])
        distinct = np.unique(numbers)
        if len(distinct) <= FEW:
            place = np.searchsorted(distinct, numbers).tolist()
            return place, [f"{number:.4g}" for number in distinct]
        edges = np.unique(np.quantile(numbers, np.linspace(0, 1, BINS + 1)))
        place = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, len(edges) - 2)
        names = [f"{a:.3g} to {b:.3g}" for a, b in pairwise(edges)]
        return place.tolist(), names
    names = sorted({value_text(value) for value in values})
    return [names.index(value_text(value)) for value in values], names


def pareto(points: Sequence[tuple[float, float]], direction: Direction) -> list[int]:
    """Indices of the (cost, value) points that no other beats in both, cheapest first."""
    sign = -1.0 if direction == "maximize" else 1.0
    order = sorted(range(len(points)), key=lambda i: (points[i][0], sign * points[i][1]))
    front: list[int] = []
    for index in order:
        if not front or sign * points[index][1] < sign * points[front[-1]][1]:
            front.append(index)
    return front


def importance(record: SweepRecord, metric: Metric) -> Mapping[str, float]:
    """The share that each setting has in reaching the best tenth of trials; sums to 1.

    PED-ANOVA (Watanabe, Bansal & Hutter 2023) as Optuna has it. Empty with fewer than eight
    trials or nothing that varies.
    """
    pairs = measured(record, metric)
    names = varied(record, [trial for trial, _ in pairs])
    if len(pairs) < 8 or not names or len({value for _, value in pairs}) < 2:
        return {}
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        distributions: dict[str, CategoricalDistribution | FloatDistribution] = {}
        columns: dict[str, list[float] | list[str]] = {}
        for name in names:
            values = [trial.settings.get(name) for trial, _ in pairs]
            if is_numeric(values) and len(set(values)) > FEW:
                numbers = [float(value or 0) for value in values]
                distributions[name] = FloatDistribution(min(numbers), max(numbers))
                columns[name] = numbers
            else:
                texts = [value_text(value) for value in values]
                distributions[name] = CategoricalDistribution(sorted(set(texts)))
                columns[name] = texts
        study = optuna.create_study(direction=metric.direction)
        for row, (_, value) in enumerate(pairs):
            study.add_trial(
                optuna.trial.create_trial(
                    params={name: columns[name][row] for name in names},
                    distributions=dict(distributions),
                    value=value,
                )
            )
        found = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
        )
    finally:
        optuna.logging.set_verbosity(verbosity)
    known = {name: float(share) for name, share in found.items() if math.isfinite(share)}
    total = sum(known.values())
    if total <= 0:
        return {}
    return dict(sorted(((n, s / total) for n, s in known.items()), key=lambda pair: -pair[1]))


def interaction(record: SweepRecord, shares: Mapping[str, float]) -> tuple[str, str] | None:
    """Guidance w and radius ρ where both vary, else the two most important settings."""
    done = [trial for trial in record.trials if trial.state == "done"]
    names = varied(record, done)
    w = [name for name in names if name == "generate.sampler.guidance"]
    rho = [name for name in names if name.startswith("stitch.radius")]
    if w and rho:
        return w[0], rho[0]
    order = [name for name in shares if name in names]
    order += [name for name in names if name not in order]
    return (order[0], order[1]) if len(order) > 1 else None
