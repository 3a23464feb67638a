"""Who is asked what when a hop is acted and priced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.tiny import tiny_config
from tskd_ray.config.schema import SamplerConfig
from tskd_ray.diffusion.ddr import RewardDiffuser
from tskd_ray.models.arithmetic import Arithmetic
from tskd_ray.models.reward_mlp import RewardMLP
from tskd_ray.pipeline.hop_models import reward_model

S, S2 = np.arange(6.0).reshape(3, 2), 10 + np.arange(6.0).reshape(3, 2)


class Asked:
    """A model that answers with its first argument's first column and keeps the question."""

    def __init__(self) -> None:
        self.folder: Any = None
        self.computes: tuple[Any, ...] = ()
        self.question: tuple[Any, ...] = ()
        self.settings: dict[str, Any] = {}

    def load(self, folder: Path, *more: Any) -> Asked:
        self.folder, self.computes = folder, more
        return self

    def answer(self, *question: Any, **settings: Any) -> Any:
        self.question, self.settings = question, settings
        return question[0][:, 0]

    reward = predict = answer


def acted(states: Any, next_states: Any) -> Any:
    return next_states - 2 * states


@pytest.mark.parametrize(("name", "kind"), [("ddr2", RewardDiffuser), ("mlp", RewardMLP)])
def test_a_hop_is_priced_from_where_it_leaves_to_where_it_lands(
    name: str, kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, config = Asked(), tiny_config(tmp_path, seed=5)
    sampler = SamplerConfig(name="ddpm", steps=6, guidance=0.3)  # not as generation has it
    teacher = config.teacher.model_copy(update={"reward_sampler": sampler})
    compute = config.compute.model_copy(update={"precision": "bfloat16"})
    config = config.model_copy(update={"teacher": teacher, "compute": compute})
    monkeypatch.setattr(kind, "load", asked.load)
    folders = {node: tmp_path / node for node in ("ddr1", "ddr2", "reward-mlp", "reward-wgan")}
    rewards = reward_model(name, folders, config, acted)(S, S2)
    np.testing.assert_array_equal(rewards, S[:, 0])
    assert asked.folder == tmp_path / {"ddr2": "ddr2", "mlp": "reward-mlp"}[name]
    expected = (S, S2) if name == "ddr2" else (S, S2 - 2 * S, S2)
    for got, want in zip(asked.question, expected, strict=True):
        np.testing.assert_array_equal(got, want)
    # A small network computes as it is; a diffusion network as the run is configured.
    assert asked.computes == (("cpu", Arithmetic.of(compute)) if name == "ddr2" else ())
    of_ddr2 = {"sampler": sampler, "seed": 5}
    assert asked.settings == (of_ddr2 if name == "ddr2" else {})
