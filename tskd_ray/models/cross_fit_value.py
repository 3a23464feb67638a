"""V of the recorded behaviour for each state, by a network that never saw its episode (D25).

M folds · N steps · E episodes · S observation dim
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from tskd_ray.config.schema import FitConfig
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.models.batches import BatchSampler, gather, steps_of
from tskd_ray.models.fit import fit
from tskd_ray.models.mlp import BatchedMLP, predict
from tskd_ray.models.saved import SavedModel
from tskd_ray.models.standardizer import Standardizer
from tskd_ray.models.value import correlation, monte_carlo_returns
from tskd_ray.progress import Progress, silent
from tskd_ray.seeding import numpy_rng
from tskd_ray.types import Float64Array, IntArray

KIND = "cross-fit-value"
FOLDS = 3
HIDDEN = (256, 256)


@dataclass(frozen=True, eq=False)
class CrossFitValue(SavedModel):
    """Regressions on Monte-Carlo returns, each of all episodes but those of its fold.

    A network that has seen an episode remembers how it went on, and what it remembers is
    missing from the episode's advantages: the luck and the skill alike.
    """

    kind = KIND

    network: BatchedMLP
    state: Standardizer
    output: Standardizer  # of values, one dimension
    folds: IntArray  # (E,) member whose network does not know the episode
    metrics_: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def fit(
        cls,
        trajectories: Trajectories,
        settings: FitConfig,
        seed: int,
        *,
        discount: float = 0.99,
        resume: Path | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Minimise the squared error of Monte-Carlo returns.

        A single episode has no others: its network learns from itself. `metrics_` has the
        learning curve and the `correlation` of values with the Monte-Carlo returns of episodes
        that their networks do not know.
        """
        episodes = trajectories.n_episodes
        members = min(FOLDS, episodes)
        folds = np.arange(episodes) % members
        folds = numpy_rng(seed, KIND, "folds").permutation(folds)
        pools = [
            steps_of(trajectories, np.flatnonzero((folds != member) | (members == 1)))
            for member in range(members)
        ]
        returns = monte_carlo_returns(trajectories, discount)
        state = Standardizer.fit(trajectories.observations)
        output = Standardizer.fit(returns[:, None])
        normal = torch.from_numpy(state.normalize(trajectories.observations))
        goal = torch.from_numpy(output.normalize(returns[:, None]))
        source = torch.from_numpy(trajectories.step_state)
        known = torch.from_numpy(np.concatenate(pools))
        sizes = [len(pool) for pool in pools]
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).tolist()
        keys = [(KIND, member) for member in range(members)]
        network = BatchedMLP(normal.shape[1], 1, HIDDEN, seed=seed, keys=keys)
        batches = BatchSampler(starts, sizes, settings.batch_size, seed=seed, keys=keys)

        def loss(number: int) -> Tensor:
            steps = known[batches(number)]
            predicted = network(gather(normal, source[steps]))
            return (predicted - gather(goal, steps)).square().mean(dim=(1, 2)).sum()

        curve = fit(network, loss, settings, resume=resume, progress=progress)
        model = cls(network, state, output, folds)
        values = model.of_recorded(trajectories)[trajectories.step_state]
        model.metrics_.update(curve=curve, correlation=correlation(values, returns))
        return model

    def of_recorded(self, trajectories: Trajectories) -> Float64Array:
        """V of each state of the trajectories it was fitted on, final ones too, (N + E,)."""
        outputs = predict(self.network, self.state.normalize(trajectories.observations))
        values = self.output.unnormalize(outputs)[..., 0]
        states = np.repeat(self.folds, trajectories.lengths + 1)
        return values[states, np.arange(len(states))]
