from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tskd_ray.config.schema import FitConfig
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.models.cross_fit_value import FOLDS, CrossFitValue

SHORT = FitConfig(
    steps=400, batch_size=64, learning_rate=3e-3, schedule="cosine", ema_decay=0.0
)


def lucky(episodes: int) -> Trajectories:
    """Episodes that differ in what can be seen of them, and in their luck, independently."""
    rng = np.random.default_rng(0)
    return Trajectories.from_episodes(
        [
            {
                "observations": np.tile(rng.normal(size=4), (9, 1)),
                "actions": np.zeros((8, 1)),
                "rewards": np.full(8, rng.choice([-1.0, 1.0])),
                "terminated": True,
            }
            for _ in range(episodes)
        ]
    )


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def test_no_network_knows_the_luck_of_the_episodes_that_it_judges() -> None:
    data = lucky(30)
    model = CrossFitValue.fit(data, SHORT, 0, discount=1.0)
    starts = data.step_state[data.offsets[:-1]]
    assert abs(correlation(model.of_recorded(data)[starts], data.returns)) < 0.5
    # The other networks have seen them, and know it by heart.
    told = CrossFitValue(model.network, model.state, model.output, (model.folds + 1) % FOLDS)
    assert correlation(told.of_recorded(data)[starts], data.returns) > 0.95


def test_each_state_is_judged_by_the_network_of_its_episode() -> None:
    data = lucky(7)
    model = CrossFitValue.fit(data, SHORT.model_copy(update={"steps": 5}), 0)
    assert sorted(np.bincount(model.folds)) == [2, 2, 3]
    values = model.of_recorded(data)
    for episode, fold in enumerate(model.folds):
        alone = model.network.members([fold])
        rows = np.arange(data.offsets[episode] + episode, data.final_states[episode] + 1)
        one = CrossFitValue(alone, model.state, model.output, np.zeros(1, np.int64))
        expected = one.of_recorded(data.take(np.array([episode])))
        np.testing.assert_allclose(values[rows], expected, rtol=1e-5)


def test_values_are_the_discounted_sums_where_nothing_is_left_to_luck() -> None:
    states = np.linspace(0.0, 1.0, 11)[:, None]
    episode = {
        "observations": states,
        "actions": np.zeros((10, 1)),
        "rewards": np.ones(10),
        "terminated": True,
    }
    data = Trajectories.from_episodes([episode] * 12)
    model = CrossFitValue.fit(data, SHORT, 0, discount=0.9)
    expected = [sum(0.9**k for k in range(10 - t)) for t in range(10)]
    np.testing.assert_allclose(model.of_recorded(data)[:10], expected, atol=0.3)
    assert model.metrics_["correlation"] > 0.99


def test_a_single_episode_is_judged_by_itself() -> None:
    model = CrossFitValue.fit(lucky(1), SHORT.model_copy(update={"steps": 3}), 0)
    assert model.network.n_members == 1
    assert model.metrics_["correlation"] == pytest.approx(0.0, abs=1.0)


def test_a_checkpoint_gives_the_same_values(tmp_path: Path) -> None:
    data = lucky(5)
    model = CrossFitValue.fit(data, SHORT.model_copy(update={"steps": 5}), 0)
    model.save(tmp_path)
    again = CrossFitValue.load(tmp_path)
    assert again.of_recorded(data).tobytes() == model.of_recorded(data).tobytes()
