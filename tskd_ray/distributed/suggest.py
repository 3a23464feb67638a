"""Optuna's TPE, each trial's draws from a stream of its own."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.samplers import BaseSampler, TPESampler

from tskd_ray.seeding import seed_sequence


class ByNumber(BaseSampler):
    """TPE whose randomness depends on the seed and the trial's number alone.

    A resumed search takes its earlier points from the record instead of drawing them; with one
    stream for all it would begin the stream again and draw the same points anew.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._current: tuple[int, BaseSampler] | None = None

    def _of(self, trial: Any) -> BaseSampler:
        if self._current is None or self._current[0] != trial.number:
            words = seed_sequence(self._seed, "tpe", trial.number).generate_state(1)
            self._current = (trial.number, TPESampler(seed=int(words[0])))
        return self._current[1]

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, Any]:
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial, search_space: dict[str, Any]
    ) -> dict[str, Any]:
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        param_name: str,
        param_distribution: optuna.distributions.BaseDistribution,
    ) -> Any:
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)
