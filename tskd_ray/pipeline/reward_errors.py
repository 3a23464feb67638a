"""The stage that compares models of rewards with the simulator (the paper's Figure 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tskd_ray.data.arrays import load_arrays
from tskd_ray.errors import DataError
from tskd_ray.evaluation.reward_error import RewardModel, errors_on_fresh, errors_on_recorded
from tskd_ray.pipeline.graph import REWARD_MODELS
from tskd_ray.pipeline.hop_models import PairModel, action_model, load_rewards, reward_model

if TYPE_CHECKING:
    from tskd_ray.pipeline.stages import Work


def measure_reward_errors(work: Work) -> None:
    """Errors of DDR-II, MLP and WGAN on fresh true transitions, and on recorded ones.

    `mlp` and `wgan` are told the action taken, `mlp-inferred` and `wgan-inferred` the inverse
    dynamics' answer: what a hop has to do with, and as little as DDR-II is told.
    """
    recorded = load_arrays(work.inputs["data"])
    (generated,) = (load_arrays(p) for n, p in work.inputs.items() if n.startswith("generate-"))
    environment, seed = recorded.environment, work.config.seed
    models = _models(work)
    known = errors_on_recorded(models, recorded, seed)
    document = {"recorded": known.as_dict()}
    try:
        if environment is None:
            raise DataError(
                "Fresh true transitions come from the simulator. The data name no environment. "
                "Set data.environment."
            )
        document["fresh"] = errors_on_fresh(models, generated, environment, seed).as_dict()
    except DataError as error:
        work.write_json("reward-errors", {**document, "unavailable": str(error)})
        return
    work.write_json("reward-errors", document)


def _models(work: Work) -> dict[str, RewardModel]:
    action = action_model("inverse", work.inputs)
    models: dict[str, RewardModel] = {}
    for name in REWARD_MODELS:
        of_pair = reward_model(name, work.inputs, work.config, action)
        if name == "ddr2":
            models[name] = _without_action(of_pair)
        else:
            models[name] = load_rewards(name, work.inputs)
            models[f"{name}-inferred"] = _without_action(of_pair)
    return models


def _without_action(of_pair: PairModel) -> RewardModel:
    return lambda s, _, s2: of_pair(s, s2)
