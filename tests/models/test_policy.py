from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tskd_ray.models.mlp import BatchedMLP
from tskd_ray.models.policy import Policy
from tskd_ray.models.standardizer import Standardizer

LOW, HIGH = np.array([-1.0, 0.0], dtype=np.float32), np.array([1.0, 4.0], dtype=np.float32)


@pytest.fixture
def policy() -> Policy:
    rng = np.random.default_rng(0)
    scale = Standardizer.fit(rng.normal(size=(100, 3)) * [1.0, 50.0, 0.01] + [0.0, 400.0, 0.0])
    network = BatchedMLP(3, 2, (16, 16), seed=0, keys=[("p",)])
    return Policy(network, scale, LOW, HIGH, {"dataset": "x", "seed": 0})


def rows(policy: Policy, n: int) -> np.ndarray:
    return policy.observation.unnormalize(np.random.default_rng(1).normal(size=(n, 3)))


def test_act_is_the_network_written_out(policy: Policy) -> None:
    x = rows(policy, 20)
    h = (x - policy.observation.mean_) / policy.observation.std_
    for layer in range(3):
        weight = policy.network.weights[layer][0].detach().numpy()
        h = h @ weight + policy.network.biases[layer][0].detach().numpy()
        h = np.maximum(h, 0.0) if layer < 2 else np.tanh(h)
    expected = h * [1.0, 2.0] + [0.0, 2.0]
    np.testing.assert_allclose(policy.act(x), expected, atol=1e-5)
    assert policy.act(x).dtype == np.float32


def test_an_action_is_the_same_to_the_last_bit_in_any_company(policy: Policy) -> None:
    x = rows(policy, 150)
    together = policy.act(x)
    assert np.array_equal(policy.act(x[::-1]), together[::-1])
    for start, stop in ((0, 1), (149, 150), (60, 73)):
        assert policy.act(x[start:stop]).tobytes() == together[start:stop].tobytes()


def test_actions_stay_within_the_bounds(policy: Policy) -> None:
    with torch.no_grad():
        policy.network.weights[-1].mul_(1e4)
    actions = policy.act(rows(policy, 50))
    assert (actions >= LOW).all()
    assert (actions <= HIGH).all()
    assert (actions == LOW).any()


def test_a_checkpoint_acts_the_same_bytes(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "config.json"}
    again = Policy.load(tmp_path)
    assert again.act(rows(policy, 7)).tobytes() == policy.act(rows(policy, 7)).tobytes()
    assert again.details == policy.details


def test_parameters_are_counted(policy: Policy) -> None:
    assert policy.n_parameters == (3 * 16 + 16) + (16 * 16 + 16) + (16 * 2 + 2)
