"""What is measured on demand, each figure of the data that it is said to be of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.tiny import tiny_config
from toy_world import toy_trajectories
from tskd_ray.config.schema import DistillConfig, EvaluateConfig
from tskd_ray.data.arrays import save_arrays
from tskd_ray.data.trajectories import Origin, Trajectories
from tskd_ray.diffusion.teacher import Teacher
from tskd_ray.evaluation import fidelity, planner, quality
from tskd_ray.evaluation.reward_error import RewardError, RewardErrors
from tskd_ray.pipeline import measures, reward_errors
from tskd_ray.pipeline.stages import Work


def work(name: str, folder: Path, inputs: dict[str, Trajectories]) -> Work:
    settings = tiny_config(folder, seed=7).model_copy(
        update={
            "distill": DistillConfig(seeds=3),
            "evaluate": EvaluateConfig(episodes=4, first_episode=9),
        }
    )
    compute = settings.compute.model_copy(update={"slots": 5})
    (folder / "out").mkdir()
    for node, data in inputs.items():
        save_arrays(data, folder / node)
    return Work(
        name=name,
        config=settings.model_copy(update={"compute": compute}),
        inputs={node: folder / node for node in inputs},
        out=folder / "out",
        scratch=folder,
    )


def test_the_teacher_is_scored_as_its_students_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = work("scores-planner", tmp_path, {"data": toy_trajectories(3)})
    teacher = SimpleNamespace(diffuser=SimpleNamespace(model=SimpleNamespace(parameters=list)))
    asked: dict[str, Any] = {}

    def evaluate(*arguments: Any, **options: Any) -> Any:
        asked.update(options, arguments=arguments)
        return np.arange(12.0).reshape(3, 4)

    monkeypatch.setattr(Teacher, "load", lambda *_: teacher)
    monkeypatch.setattr(planner, "evaluate_planner", evaluate)
    measures.score_planner(one)
    assert asked.pop("arguments") == (teacher, one.config.generate)
    del asked["progress"]
    assert asked == {"seeds": 3, "episodes": 4, "seed": 7, "first": 9, "slots": 5}
    assert np.load(one.out / "returns.npy").tolist() == [np.arange(12.0).reshape(3, 4).tolist()]


def mixed(episodes: int, first: int) -> Trajectories:
    """Steps of all origins; episode n is recorded, generated or stitched by n mod 3."""
    data = toy_trajectories(episodes, seed=first)
    return replace(
        data,
        episode_id=np.arange(first, first + episodes),
        origin=(np.arange(data.n_steps) % 3).astype(np.int8),
        episode_origin=(np.arange(episodes) % 3).astype(np.int8),
    )


def test_origins_are_told_apart_by_step_and_by_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded, last, selected = toy_trajectories(4), mixed(5, 100), mixed(7, 200)
    inputs = {"data": recorded, "stitch-2": last, "select": selected}
    one = work("origins", tmp_path, inputs)
    looked_at: dict[int, Any] = {}

    def steps(data: Trajectories, environment: Any, seed: int, **options: Any) -> Any:
        among = options["among"]
        np.testing.assert_allclose(options["step_std"], recorded.step_std())
        looked_at[int(data.origin[among[0]])] = data.episode_id[0], among.tolist()
        return SimpleNamespace(summary=lambda: {"step_error_median": float(len(among))})

    def away(states: Any, data: Trajectories, seed: int) -> Any:
        assert (data.n_episodes, seed) == (4, 7)
        return states[:, 0]

    monkeypatch.setattr(fidelity, "one_step_fidelity", steps)
    monkeypatch.setattr(
        fidelity, "replay_returns", lambda data, _, rows: 2 * data.returns[rows]
    )
    monkeypatch.setattr(quality, "distances", away)
    monkeypatch.setattr(quality, "coverage", lambda states, data, seed: float(states.sum()))
    monkeypatch.setattr(measures, "REPLAYED", 5)
    measures.check_origins(one)
    told = json.loads((one.out / "origins.json").read_text())
    arrived = [state for e in range(5) for state in last.episode(e)["observations"][1:]]
    for origin in Origin:
        entry = told[origin.name.lower()]
        numbers = [step for step in range(last.n_steps) if step % 3 == origin]
        assert looked_at[origin] == (100, numbers)
        assert entry["steps"] == entry["step_error_median"] == len(numbers)
        states = np.array([arrived[step] for step in numbers])
        assert entry["distance_median"] == pytest.approx(np.median(states[:, 0]))
        assert entry["coverage"] == pytest.approx(states.sum(), rel=1e-4)
        claimed = [selected.returns[number] for number in range(5) if number % 3 == origin]
        assert entry["episodes_replayed"] == len(claimed)
        assert entry["claimed_return"] == pytest.approx(np.mean(claimed))
        assert entry["replayed_return"] == pytest.approx(2 * np.mean(claimed))


def test_models_of_rewards_are_told_the_action_or_infer_it_as_their_names_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded, generated = toy_trajectories(3), toy_trajectories(2, seed=1)
    inputs = {"data": recorded, "generate-1": generated}
    one = work("reward-errors", tmp_path, inputs)
    s, a, s2 = (np.full((2, 1), value) for value in (1.0, 10.0, 100.0))

    def priced(name: str, _: Any, config: Any, action: Any) -> Any:
        assert action == "inverse"
        return lambda s, s2: f"{name} of {s[0, 0]:g} and {s2[0, 0]:g}"

    def loaded(name: str, _: Any) -> Any:
        return lambda s, a, s2: f"{name} of {s[0, 0]:g}, {a[0, 0]:g}, {s2[0, 0]:g}"

    def measured(part: str) -> Any:
        def errors(models: Any, data: Trajectories, *more: Any) -> RewardErrors:
            assert data.n_episodes == (3 if part == "recorded" else 2)
            assert more == ((7,) if part == "recorded" else (recorded.environment, 7))
            answers = {name: model(s, a, s2) for name, model in models.items()}
            assert answers == {
                "DDR-II": "ddr2 of 1 and 100",
                "MLP": "mlp of 1, 10, 100",
                "MLP, inferred action": "mlp of 1 and 100",
                "WGAN": "wgan of 1, 10, 100",
                "WGAN, inferred action": "wgan of 1 and 100",
            }
            error = RewardError(mse=len(part), mse_error=0, mse_of_variance=0, bias=0)
            return RewardErrors(
                steps=2, reward_mean=0, reward_sd=0, models=dict.fromkeys(models, error)
            )

        return errors

    monkeypatch.setattr(reward_errors, "action_model", lambda name, _: name)
    monkeypatch.setattr(reward_errors, "reward_model", priced)
    monkeypatch.setattr(reward_errors, "load_rewards", loaded)
    monkeypatch.setattr(reward_errors, "errors_on_fresh", measured("fresh"))
    monkeypatch.setattr(reward_errors, "errors_on_recorded", measured("recorded"))
    reward_errors.measure_reward_errors(one)
    told = json.loads((one.out / "reward-errors.json").read_text())
    for row in told.values():
        assert (row["fresh_mse"], row["recorded_mse"]) == (len("fresh"), len("recorded"))
