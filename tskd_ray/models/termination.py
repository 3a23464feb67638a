"""Which transitions end the task: a classifier on (s, s'), so that offline rollouts end (D10).

N rows · S observation dim
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from tskd_ray.config.schema import FitConfig
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.models.batches import BatchSampler, gather, hold_out_episodes
from tskd_ray.models.checkpoint import open_model, save_model
from tskd_ray.models.fit import fit
from tskd_ray.models.mlp import BatchedMLP, predict
from tskd_ray.models.standardizer import Standardizer
from tskd_ray.progress import Progress, silent
from tskd_ray.types import BoolArray, Float32Array, Float64Array, FloatArray, IntArray

KIND = "termination"
HIDDEN = (256, 256)
HELD_OUT = 0.2
LATE_STEPS = 20
"""Steps before a termination that count as hard: they lie closest to the boundary."""


@dataclass(frozen=True, eq=False)
class Termination:
    """Probability that the step from s to s' terminated, and the threshold to act on.

    Terminations are about one step in a hundred or rarer, while one false alarm cuts a rollout
    short. So training draws a quarter of each batch from terminations and a quarter from the
    steps just before them, the logit is corrected for that, and the threshold is the one that
    predicts as many terminations on held-out episodes as there were.
    """

    network: BatchedMLP | None
    state: Standardizer
    step: Standardizer
    threshold: float  # a probability
    metrics_: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def exists(self) -> bool:
        """False when the dataset has no terminations: then nothing ever terminates."""
        return self.network is not None

    @classmethod
    def fit(
        cls,
        trajectories: Trajectories,
        settings: FitConfig,
        seed: int,
        *,
        resume: Path | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Minimise the cross-entropy on balanced batches, then choose the threshold.

        `metrics_` has the learning curve and, on held-out episodes at the threshold,
        `precision`, `recall`, `false_positive_rate` (per step), `early_false_positive_rate` and
        the counts behind them. Early is more than `LATE_STEPS` before a termination: a step or
        two too soon costs nothing, an early alarm costs a rollout. With fewer than two
        terminated episodes nothing is held out and the counts are those of training.
        """
        from_NS = trajectories.observations[trajectories.step_state]
        difference_NS = trajectories.observations[trajectories.step_state + 1] - from_NS
        state, step = Standardizer.fit(from_NS), Standardizer.fit(difference_NS)
        ends = np.zeros(trajectories.n_steps, dtype=np.bool_)
        ends[trajectories.offsets[1:][trajectories.terminated] - 1] = True
        if not ends.any():
            return cls(None, state, step, 1.0, {"terminations": 0})
        inputs = np.concatenate(
            [state.normalize(from_NS), step.normalize(difference_NS)], axis=1
        )
        train_steps, held_steps = _split(trajectories, seed)
        pools = _pools(trajectories, ends, train_steps)
        network = BatchedMLP(inputs.shape[1], 1, HIDDEN, seed=seed, keys=[(KIND,)])
        x, y = torch.from_numpy(inputs), torch.from_numpy(ends.astype(np.float32))[:, None]
        samplers = [
            BatchSampler.shared(
                len(pool),
                max(1, round(share * settings.batch_size)),
                seed=seed,
                keys=[(KIND, name)],
            )
            for name, (pool, share) in pools.items()
        ]
        tables = [torch.from_numpy(pool) for pool, _ in pools.values()]

        def loss(number: int) -> Tensor:
            drawn = [table[draw(number)] for table, draw in zip(tables, samplers, strict=True)]
            rows = torch.cat(drawn, dim=1)
            return binary_cross_entropy_with_logits(network(gather(x, rows)), gather(y, rows))

        curve = fit(network, loss, settings, resume=resume, progress=progress)
        model = cls(network, state, step, 1.0, {"log_odds_shift": _log_odds_shift(ends, pools)})
        probability = model._probability(inputs[held_steps])
        threshold = _threshold(probability, ends[held_steps])
        late = _late(trajectories, ends)
        metrics = {
            **model.metrics_,
            **_confusion(probability >= threshold, ends[held_steps], late[held_steps]),
            "terminations": int(ends.sum()),
            "curve": curve,
        }
        return replace(model, threshold=threshold, metrics_=metrics)

    def predict(self, s: FloatArray, s2: FloatArray) -> Float64Array:
        """Probability (N,) that each step from s to s2 (N, S), raw units, terminated.

        Compare with `threshold` (inclusive); without terminations in the data all are 0.
        """
        if self.network is None:
            return np.zeros(len(s))
        return self._probability(
            np.concatenate([self.state.normalize(s), self.step.normalize(s2 - s)], axis=1)
        )

    def _probability(self, inputs: Float32Array) -> Float64Array:
        assert self.network is not None
        logit = predict(self.network, inputs)[0, :, 0].astype(np.float64)
        logit = logit + self.metrics_["log_odds_shift"]
        return 1.0 / (1.0 + np.exp(-np.clip(logit, -500.0, 500.0)))

    def save(self, folder: Path) -> None:
        """Write a checkpoint folder."""
        tensors = {**self.state.tensors("state"), **self.step.tensors("step")}
        if self.network is not None:
            tensors.update(self.network.tensors("network."))
        config = {"kind": KIND, "threshold": self.threshold, "metrics": self.metrics_}
        save_model(folder, tensors, {**config, "exists": self.exists})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a checkpoint folder.

        Raises:
            DataError: If it holds no termination classifier.
        """
        with open_model(folder, KIND) as (tensors, config):
            return cls(
                BatchedMLP.from_tensors(tensors, "network.") if config["exists"] else None,
                Standardizer.from_tensors(tensors, "state"),
                Standardizer.from_tensors(tensors, "step"),
                config["threshold"],
                config["metrics"],
            )


def _split(trajectories: Trajectories, seed: int) -> tuple[BoolArray, BoolArray]:
    """Steps to train on and to choose the threshold on, (N,) each; both see terminations."""
    train = np.ones(trajectories.n_episodes, dtype=np.bool_)
    if trajectories.terminated.sum() >= 2:
        for group in (True, False):  # held out from each kind, so that neither split lacks one
            members = np.flatnonzero(trajectories.terminated == group)
            if len(members) >= 2:
                part = trajectories.take(members)
                _, held = hold_out_episodes(part, HELD_OUT, seed=seed, key=f"{KIND}-{group}")
                train[members[held]] = False
    held_out = ~train if not train.all() else train
    return train[trajectories.step_episode], held_out[trajectories.step_episode]


def _pools(
    trajectories: Trajectories, ends: BoolArray, train: BoolArray
) -> dict[str, tuple[IntArray, float]]:
    """Step numbers by kind and the share of a batch: ends, steps just before, all others."""
    late = _late(trajectories, ends)
    kinds = {"end": (ends, 0.25), "late": (late, 0.25), "other": (~ends & ~late, 0.5)}
    pools = {
        name: (np.flatnonzero(rows & train), share) for name, (rows, share) in kinds.items()
    }
    return {name: (rows, share) for name, (rows, share) in pools.items() if len(rows)}


def _late(trajectories: Trajectories, ends: BoolArray) -> BoolArray:
    """Steps shortly before a termination, (N,)."""
    last = trajectories.offsets[1:][trajectories.step_episode] - 1
    left = last - np.arange(trajectories.n_steps)
    return trajectories.terminated[trajectories.step_episode] & (left <= LATE_STEPS) & ~ends


def _log_odds_shift(ends: BoolArray, pools: dict[str, tuple[IntArray, float]]) -> float:
    """True log-odds of a termination minus those of a batch: makes the output a probability."""
    positive = pools["end"][1]
    negative = sum(share for name, (_, share) in pools.items() if name != "end")
    n_ends = int(ends.sum())
    n_others = max(1, len(ends) - n_ends)
    return float(np.log(n_ends / n_others) - np.log(positive / max(negative, 1e-9)))


def _threshold(probability: Float64Array, ends: BoolArray) -> float:
    """The probability above which there are as many steps as there were terminations."""
    count = int(ends.sum())
    ordered = np.sort(probability)[::-1]
    if count == 0 or count == len(ordered):
        return 0.5
    # Between two scores, so that neither last-bit noise nor a tie decides.
    return float((ordered[count - 1] + ordered[count]) / 2)


def _confusion(predicted: BoolArray, ends: BoolArray, late: BoolArray) -> dict[str, float]:
    true_positives = int((predicted & ends).sum())
    false_positives = int((predicted & ~ends).sum())
    early = ~ends & ~late
    return {
        "precision": true_positives / max(1, int(predicted.sum())),
        "recall": true_positives / max(1, int(ends.sum())),
        "false_positive_rate": false_positives / max(1, int((~ends).sum())),
        "early_false_positive_rate": int((predicted & early).sum()) / max(1, int(early.sum())),
        "held_out_terminations": int(ends.sum()),
        "held_out_steps": len(ends),
        "held_out_false_positives": false_positives,
    }
