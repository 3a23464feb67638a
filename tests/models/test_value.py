from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from toy_world import toy_trajectories
from tskd_ray.config.schema import FitConfig
from tskd_ray.data.trajectories import Trajectories
from tskd_ray.models import fit as fit_module
from tskd_ray.models.value import TwinValue, correlation, monte_carlo_returns

SHORT = FitConfig(steps=500, batch_size=32, learning_rate=2e-3, ema_decay=0.9)


def chain(length: int, *, terminated: bool) -> Trajectories:
    """Thirty walks along a line from 0 to `length`, a reward of 1 each step."""
    states = np.linspace(0.0, 1.0, length + 1)[:, None]
    episode = {
        "observations": states,
        "actions": np.zeros((length, 1)),
        "rewards": np.ones(length),
        "terminated": terminated,
    }
    return Trajectories.from_episodes([episode] * 30)


def test_a_terminal_chain_has_the_discounted_sum_as_its_value() -> None:
    data = chain(10, terminated=True)
    model = TwinValue.fit(data, SHORT, 0, discount=0.9)
    expected = [sum(0.9**k for k in range(10 - t)) for t in range(10)]
    np.testing.assert_allclose(model.predict(data.observations[:10]), expected, atol=0.4)


def test_time_outs_bootstrap() -> None:
    # One state that never ends but for the clock: V = 1 / (1 − γ), however short the episodes.
    episode = {
        "observations": np.zeros((6, 2)),
        "actions": np.zeros((5, 1)),
        "rewards": np.ones(5),
        "terminated": False,
    }
    model = TwinValue.fit(Trajectories.from_episodes([episode] * 5), SHORT, 0, discount=0.9)
    assert model.predict(np.zeros((1, 2)))[0] == pytest.approx(10.0, rel=0.05)


def test_td_corrects_a_wrong_warm_start(monkeypatch: pytest.MonkeyPatch) -> None:
    # Half of the walks are cut in the middle. Their Monte-Carlo tail is wrong on purpose; TD(0)
    # sees from the others how it goes on.
    whole = chain(10, terminated=True).take(np.arange(15))
    half = chain(10, terminated=True).episode(0)
    cut = {
        "observations": half["observations"][:6],
        "actions": half["actions"][:5],
        "rewards": half["rewards"][:5],
        "terminated": False,
    }
    data = Trajectories.concatenate(
        [whole, Trajectories.from_episodes([cut] * 15, first_id=100)]
    )
    settings = SHORT.model_copy(update={"steps": 1500, "batch_size": 32})
    model = TwinValue.fit(data, settings, 0, discount=0.9)
    expected = [sum(0.9**k for k in range(10 - t)) for t in range(10)]
    np.testing.assert_allclose(model.predict(whole.observations[:10]), expected, atol=0.6)


def test_monte_carlo_returns_by_the_slow_sum() -> None:
    toy = toy_trajectories(20)
    returns = monte_carlo_returns(toy, 0.9)
    for e in range(toy.n_episodes):
        rewards = toy.episode(e)["rewards"].astype(float)
        tail = 0.0 if toy.terminated[e] else rewards.mean()
        longer = [*rewards, *[tail] * 400]
        for t in range(len(rewards)):
            expected = sum(0.9**k * r for k, r in enumerate(longer[t:]))
            assert returns[toy.offsets[e] + t] == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(
        monte_carlo_returns(toy, 1.0)[toy.offsets[:-1]], toy.returns, rtol=1e-6
    )


def test_vital_signs_compare_with_monte_carlo() -> None:
    metrics = TwinValue.fit(toy_trajectories(100), SHORT, 0, discount=0.9).metrics_
    assert metrics["mean_value"] == pytest.approx(metrics["mean_monte_carlo"], rel=0.15)
    assert metrics["correlation"] > 0.5


def test_the_smaller_of_two_counts_and_a_checkpoint_keeps_both(tmp_path: Path) -> None:
    toy = toy_trajectories(20)
    model = TwinValue.fit(toy, SHORT.model_copy(update={"steps": 20}), 0)
    s = np.random.default_rng(0).normal(size=(30, 2))
    one, other = (
        TwinValue(model.network.members([member]), model.state, model.output).predict(s)
        for member in range(2)
    )
    np.testing.assert_allclose(model.predict(s), np.minimum(one, other), rtol=1e-5, atol=1e-5)
    assert not np.allclose(one, other)
    model.save(tmp_path)
    assert TwinValue.load(tmp_path).predict(s).tobytes() == model.predict(s).tobytes()


def test_a_killed_training_resumes_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The slow copy is part of the training state: without it the targets would start over.
    toy = toy_trajectories(20)
    settings = SHORT.model_copy(update={"steps": 200})
    whole = TwinValue.fit(toy, settings, 0)
    monkeypatch.setattr(fit_module, "SAVE_EVERY_SECONDS", 0.0)

    def killed(done: int, total: int, **metrics: float) -> None:
        if done >= 150:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TwinValue.fit(toy, settings, 0, resume=tmp_path, progress=killed)
    seen: list[int] = []
    resumed = TwinValue.fit(
        toy, settings, 0, resume=tmp_path, progress=lambda done, total, **_: seen.append(done)
    )
    assert min(seen) > 100
    s = np.random.default_rng(0).normal(size=(30, 2))
    assert resumed.predict(s).tobytes() == whole.predict(s).tobytes()


def test_correlation_is_pearsons_and_none_where_nothing_varies() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 40))
    for one, other in ((a, b), (a, 3.0 - 2.0 * a + b)):
        assert correlation(one, other) == pytest.approx(np.corrcoef(one, other)[0, 1])
    assert correlation(a, np.full(40, 7.0)) == 0.0
