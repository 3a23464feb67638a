"""The stage that compares models of rewards with the simulator (the paper's Figure 5)."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from tskd_ray.data.arrays import load_arrays
from tskd_ray.errors import DataError
from tskd_ray.evaluation.reward_error import RewardModel, errors_on_fresh, errors_on_recorded
from tskd_ray.pipeline.hop_models import action_model, load_rewards, reward_model

if TYPE_CHECKING:
    from tskd_ray.pipeline.stages import Work


def measure_reward_errors(work: Work) -> None:
    """Errors of DDR-II, MLP and WGAN on fresh true transitions, and on recorded ones.

    MLP and WGAN are told the action taken, and once more only the inverse dynamics' answer:
    what a hop has to do with, and as little as DDR-II is told. Without a simulator whose state
    can be set there is nothing fresh.
    """
    recorded = load_arrays(work.inputs["data"])
    (generated,) = (load_arrays(p) for n, p in work.inputs.items() if n.startswith("generate-"))
    models, seed = _models(work), work.config.seed
    found = {"recorded": errors_on_recorded(models, recorded, seed)}
    try:
        if recorded.environment is None:
            raise DataError(
                "Fresh true transitions come from the simulator. The data name no environment. "
                "Set data.environment."
            )
        found["fresh"] = errors_on_fresh(models, generated, recorded.environment, seed)
    except DataError as error:
        work.info["unavailable"] = str(error)
    rows: dict[str, dict[str, float]] = {name: {} for name in models}
    for part, errors in found.items():
        for name, one in errors.models.items():
            figures = {**asdict(one), "steps": errors.steps, "reward_sd": errors.reward_sd}
            rows[name] |= {f"{part}_{figure}": value for figure, value in figures.items()}
    work.write_json("reward-errors", rows)


def _models(work: Work) -> dict[str, RewardModel]:
    action = action_model("inverse", work.inputs)

    def of_states(name: str) -> RewardModel:
        of_pair = reward_model(name, work.inputs, work.config, action)
        return lambda s, _, s2: of_pair(s, s2)

    models: dict[str, RewardModel] = {"DDR-II": of_states("ddr2")}
    for name in ("mlp", "wgan"):
        models[name.upper()] = load_rewards(name, work.inputs)
        models[f"{name.upper()}, inferred action"] = of_states(name)
    return models
