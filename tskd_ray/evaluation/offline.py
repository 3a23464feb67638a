"""What a policy would earn, from recorded data alone: fitted-Q evaluation by neighbours.

The action value of a policy π is fitted to the recorded steps by

    Q(s, a) ← r + γ Q(s', π(s')),   Q(s', π(s')) = Σⱼ wⱼ Q(sⱼ, aⱼ)

over the recorded steps j nearest to s', weighted by how near (s', π(s')) is to (sⱼ, aⱼ).
Weights that sum to one make this an averager: its fixed point exists whatever the policy, and
extrapolates nothing (Gordon 1995; Ormoneit & Sen 2002). Linear and neural regressions promise
neither; docs/decisions/007-offline-objective.md has the comparison, and how little the estimate
tells between good policies.

N steps · E episodes · K neighbours · P policies · B bootstrap replicates
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tskd_ray.data.returns import returns_to_go
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.errors import DataError, StageError
from tskd_ray.evaluation.simulate import Acts
from tskd_ray.models.standardizer import Standardizer
from tskd_ray.models.value import monte_carlo_returns
from tskd_ray.seeding import numpy_rng
from tskd_ray.types import Float32Array, Float64Array, Int32Array, IntArray

DISCOUNT = 0.99
NEIGHBOURS = 16
STATE_WIDTH = 0.2
ACTION_WIDTH = 0.4
"""Widths of the kernel in standard deviations of each dimension, times √dimensions."""
SMALLEST_WEIGHT = 1e-3
"""Of a neighbour, relative to the nearest one's; further ones do not count."""
REPLICATES = 19
"""The 90% interval is then from the second smallest replicate to the second largest."""
TOLERANCE = 1e-4
REPLICATE_TOLERANCE = 1e-3
"""Residuals of the fixed point, relative to the rewards: of the estimate, of each replicate."""
MAX_ITERATIONS = 2_000
MAX_STEPS = 20_000
"""Of larger datasets whole episodes are drawn, up to so many steps: that bounds the cost."""
UNSEEN = 1e-6
"""Weight of an episode that a replicate did not draw: tells only where it drew no neighbour."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OfflineEstimate:
    """Estimated discounted return from the recorded initial states; 90% bootstrap intervals.

    An interval tells what another draw of the same episodes would have changed. It does not
    cover the error of the method, which is larger.
    """

    per_seed: Float64Array  # (P,)
    per_seed_low: Float64Array  # (P,)
    per_seed_high: Float64Array  # (P,)
    value: float  # mean over policies
    low: float
    high: float
    best_recorded: float  # largest discounted return of a recorded episode
    mean_recorded: float
    episodes: int  # recorded ones that it rests on
    discount: float

    @property
    def share_of_best(self) -> float | None:
        """`value` as a share of the best recorded return; None if that is not positive."""
        return self.value / self.best_recorded if self.best_recorded > 0 else None


@dataclass(frozen=True, kw_only=True, eq=False)
class RecordedNeighbours:
    """What every policy's estimate needs of the data: built once, used for all of them."""

    trajectories: Trajectories
    action: Standardizer
    actions: Float32Array  # (N, A) standardised
    after: Int32Array  # (N, K) steps whose states are nearest to s' of each step
    after_distance: Float32Array  # (N, K) squared, over widths
    first: Int32Array  # (E, K) the same for the initial states
    first_distance: Float32Array  # (E, K)

    @classmethod
    def build(cls, recorded: Trajectories, seed: int = 0) -> RecordedNeighbours:
        """Find the nearest recorded steps of every next and every initial state.

        Cost: a k-d tree over the states; 2.6 CPU seconds for 40,000 steps in 11 dimensions.

        Raises:
            DataError: If a value is not finite.
        """
        from scipy.spatial import KDTree

        some = _bounded(recorded, seed)
        numbers = (some.observations, some.actions, some.rewards)
        if not all(np.isfinite(part).all() for part in numbers):
            raise DataError(
                "Offline evaluation needs finite observations, actions and rewards. The "
                "dataset holds others. Repair it, or set evaluate.offline=false."
            )
        state, action = Standardizer.fit(some.observations), Standardizer.fit(some.actions)
        states = state.normalize(some.observations)
        tree = KDTree(states[some.step_state])
        k = min(NEIGHBOURS, some.n_steps)
        scale = np.float32(STATE_WIDTH**2 * some.observation_dim)

        def nearest(rows: IntArray) -> tuple[Int32Array, Float32Array]:
            distance, neighbour = tree.query(states[rows], k=k)
            squared = np.asarray(distance, dtype=np.float32).reshape(-1, k) ** 2
            return np.asarray(neighbour, dtype=np.int32).reshape(-1, k), squared / scale

        after, after_distance = nearest(some.step_state + 1)
        first, first_distance = nearest(some.step_state[some.offsets[:-1]])
        return cls(
            trajectories=some,
            action=action,
            actions=action.normalize(some.actions),
            after=after,
            after_distance=after_distance,
            first=first,
            first_distance=first_distance,
        )

    def weights(self, policy: Acts) -> tuple[Float32Array, Float32Array]:
        """Of each neighbour: after each step (N, K) and at first (E, K); rows sum to one."""
        some = self.trajectories
        return (
            self._kernel(policy, some.step_state + 1, self.after, self.after_distance),
            self._kernel(
                policy, some.step_state[some.offsets[:-1]], self.first, self.first_distance
            ),
        )

    def _kernel(
        self, policy: Acts, rows: IntArray, neighbours: Int32Array, distance: Float32Array
    ) -> Float32Array:
        chosen = self.action.normalize(policy.act(self.trajectories.observations[rows]))
        gap = np.square(self.actions[neighbours] - chosen[:, None]).sum(axis=2)
        far = distance + gap / (ACTION_WIDTH**2 * chosen.shape[1])
        weights = np.exp(far.min(axis=1, keepdims=True) - far)
        weights[weights < SMALLEST_WEIGHT] = 0.0  # sparser and so faster by half
        return weights / weights.sum(axis=1, keepdims=True)


def estimate_returns(
    policies: Sequence[Acts],
    recorded: Trajectories | RecordedNeighbours,
    *,
    discount: float = DISCOUNT,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> OfflineEstimate:
    """Estimate the discounted return of each policy from the recorded initial states.

    Nothing is executed. Terminal steps have value 0 after them; time-outs bootstrap. The
    interval resamples whole episodes, the same for all policies: their steps in the regression
    and their initial states in the mean.

    Args:
        policies: P policies, such as the seeds of one student.
        recorded: The data, or what `RecordedNeighbours.build` made of it.
        discount: γ below 1.
        seed: Of the bootstrap, and of the draw of episodes from a large dataset.
        replicates: B; 0 leaves the interval at the estimate.

    Raises:
        DataError: If there are no policies, γ is not below 1, or the data are not finite.
    """
    if not policies or not 0.0 <= discount < 1.0:
        raise DataError(
            "Offline evaluation needs a policy and a discount from 0 to below 1. Got "
            f"{len(policies)} policies and {discount:g}."
        )
    if isinstance(recorded, Trajectories):
        recorded = RecordedNeighbours.build(recorded, seed)
    some = recorded.trajectories
    counts = _draws(some.n_episodes, seed, replicates)  # (E, 1 + B)
    values = np.stack([_values(recorded, policy, counts, discount) for policy in policies])
    low, high = _interval(values[:, 1:], values[:, 0])
    mean = values.mean(axis=0, keepdims=True)
    total_low, total_high = _interval(mean[:, 1:], mean[:, 0])
    earned = returns_to_go(some.rewards, some.offsets, discount)[some.offsets[:-1]]
    return OfflineEstimate(
        per_seed=values[:, 0],
        per_seed_low=low,
        per_seed_high=high,
        value=float(mean[0, 0]),
        low=float(total_low[0]),
        high=float(total_high[0]),
        best_recorded=float(earned.max()),
        mean_recorded=float(earned.mean()),
        episodes=some.n_episodes,
        discount=discount,
    )


def _values(
    recorded: RecordedNeighbours, policy: Acts, counts: Float64Array, discount: float
) -> Float64Array:
    """Mean value of the initial states, (1 + B,), under each replicate's episode counts."""
    some = recorded.trajectories
    after, first = recorded.weights(policy)
    discounts = np.full(some.n_steps, discount)
    discounts[some.offsets[1:][some.terminated] - 1] = 0.0
    rewards = some.rewards.astype(np.float64)
    solution = monte_carlo_returns(some, discount)
    values = np.zeros(counts.shape[1])
    for number, count in enumerate(counts.T):
        per_step = np.maximum(count, UNSEEN)[some.step_episode]
        q = fixed_point(
            _shares(after, per_step[recorded.after]),
            recorded.after,
            rewards,
            discounts,
            solution,
            tolerance=REPLICATE_TOLERANCE if number else TOLERANCE,
        )
        if number == 0:
            solution = q
        initial = _shares(first, per_step[recorded.first]) * q[recorded.first]
        # A replicate's own initial states: those of the episodes that it drew.
        values[number] = (initial.sum(axis=1) * count).sum() / count.sum()
    return values


def fixed_point(
    weights: Float64Array,
    neighbours: Int32Array,
    rewards: Float64Array,
    discounts: Float64Array,
    start: Float64Array,
    *,
    tolerance: float,
) -> Float64Array:
    """The solution (N,) of Q = r + γ W Q, where W averages K neighbours of each step.

    Args:
        weights: (N, K); rows sum to one.
        neighbours: (N, K) steps.
        rewards: (N,).
        discounts: (N,) γ, or 0 after a terminal step.
        start: (N,) where the iteration begins.
        tolerance: Largest norm of the residual, relative to that of the rewards.

    Raises:
        StageError: If the iteration does not converge.
    """
    from scipy.sparse import csr_array, eye_array
    from scipy.sparse.linalg import bicgstab

    n, k = weights.shape
    entries = (discounts[:, None] * weights).ravel()
    steps = csr_array((entries, neighbours.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    steps.eliminate_zeros()
    system = eye_array(n, format="csr") - steps
    q, failed = bicgstab(system, rewards, x0=start, rtol=tolerance, maxiter=MAX_ITERATIONS)
    if failed:
        raise StageError(
            f"Fitted-Q evaluation must converge. It has not after {MAX_ITERATIONS} iterations. "
            "Please report this; evaluate.offline=false leaves it out."
        )
    return q


def _shares(weights: Float32Array, counts: Float64Array) -> Float64Array:
    shares = weights * counts
    return shares / shares.sum(axis=1, keepdims=True)


def _draws(episodes: int, seed: int, replicates: int) -> Float64Array:
    """How often each replicate drew each episode, (E, 1 + B); the first has each once."""
    rng = numpy_rng(seed, "offline", "bootstrap")
    drawn = rng.multinomial(episodes, np.full(episodes, 1.0 / episodes), size=replicates)
    return np.concatenate([np.ones((1, episodes)), drawn], dtype=np.float64).T


def _interval(
    replicates: Float64Array, estimates: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """The middle 90% of the replicates (P, B), moved so that their mean is the estimate (P,).

    A replicate draws two thirds of the episodes and so has fewer neighbours to choose from:
    all replicates lie below the estimate, which the interval must not take for its spread.
    """
    if not replicates.shape[1]:
        return estimates, estimates
    low, high = np.quantile(replicates, [0.05, 0.95], axis=1, method="nearest")
    shift = estimates - replicates.mean(axis=1)
    return low + shift, high + shift


def _bounded(recorded: Trajectories, seed: int) -> Trajectories:
    """All episodes, or as many as `MAX_STEPS` allow, drawn at random; at least one."""
    if recorded.n_steps <= MAX_STEPS:
        return recorded
    order = numpy_rng(seed, "offline", "episodes").permutation(recorded.n_episodes)
    within = int((np.cumsum(recorded.lengths[order]) <= MAX_STEPS).sum())
    return recorded.take(np.sort(order[: max(1, within)]))
