"""Generation: each mode against a plain loop over one trajectory, ends, and independence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import pytest

from diffusion.small_teacher import teacher_config, world
from tskd_ray.config.schema import FitConfig, GenerateConfig, SamplerConfig
from tskd_ray.data.trajectories import EnvironmentSpec, Origin
from tskd_ray.diffusion.ddr import TrajectoryDiffuser
from tskd_ray.diffusion.plan import Start
from tskd_ray.diffusion.rollout import End, Teacher, facts, generate
from tskd_ray.errors import ConfigError
from tskd_ray.evaluation.planner import evaluate_planner
from tskd_ray.evaluation.simulate import reset_seed
from tskd_ray.models.inverse_dynamics import InverseDynamics
from tskd_ray.models.termination import Termination
from tskd_ray.models.transition import Step, Transition
from tskd_ray.seeding import numpy_rng

FAST = SamplerConfig(name="ddim", steps=3, guidance=1.0)
FIT = FitConfig(steps=40, batch_size=32, learning_rate=1e-3)


class Linear(gymnasium.Env[Any, Any]):
    """The world of `small_teacher`, as a simulator."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.state = self.np_random.normal(size=2).astype(np.float32)
        return self.state, {}

    def step(self, action: Any) -> Any:
        self.state = (0.9 * self.state + 0.3 * np.asarray(action)).astype(np.float32)
        return self.state, 1e9, bool(self.state[0] > 0.3), False, {}


@pytest.fixture(scope="module")
def teacher() -> Iterator[Teacher]:
    make: Any = Linear
    gymnasium.register("Linear-v0", entry_point=make)
    data = world(terminated=True)
    diffuser = TrajectoryDiffuser(teacher_config(context=2, steps=60), 2)
    diffuser.fit(data, seed=0)
    yield Teacher(
        diffuser=diffuser,
        inverse_dynamics=InverseDynamics.fit(data, FIT, 0),
        transition=Transition.fit(data, FIT, 0),
        termination=Termination.fit(data, FIT, 0),
        **facts(data),
    )
    gymnasium.registry.pop("Linear-v0")


def settings(rollout: str, **extra: object) -> GenerateConfig:
    return GenerateConfig.model_validate(
        {
            "rollout": rollout,
            "sampler": FAST,
            "target_return": 0.4,
            "replan_every": 2,
            "box_margin": 5.0,
            **extra,
        }
    )


@pytest.mark.parametrize("warm_steps", [None, 2])
@pytest.mark.parametrize("rollout", ["model", "dynamics", "environment"])
def test_side_by_side_equals_a_plain_loop_over_one_trajectory(
    teacher: Teacher, rollout: str, warm_steps: int | None
) -> None:
    config = settings(rollout, warm_steps=warm_steps)
    generated = generate(teacher, config, ids=range(5), seed=7, epoch=1, first_id=100, slots=3)
    ends = 0
    for number in range(5):
        oracle, end = plain_loop(teacher, config, numpy_rng(7, "generate", 1, number))
        ours = generated.trajectories.episode(number)
        assert ours["episode_id"] == 100 + number
        assert len(ours["actions"]) == len(oracle["actions"])
        for name in ("observations", "actions", "rewards"):
            assert np.array_equal(ours[name], np.array(oracle[name], ours[name].dtype)), name
        assert generated.ends[number] == end
        ends += end == End.TERMINATED
    if rollout == "environment":
        assert ends, "no episode of this seed ended: the test would not see a wrong end"
        assert generated.trajectories.rewards.max() < 1e3, "the simulator's reward was read"


def plain_loop(
    teacher: Teacher,
    config: GenerateConfig,
    rng: np.random.Generator,
    reset: int | None = None,
) -> tuple[dict[str, Any], End]:
    """Algorithm 1, one trajectory, nothing batched."""
    environment = gymnasium.make("Linear-v0")
    if config.rollout == "environment":
        states = [environment.reset(seed=reset or int(rng.integers(2**31)))[0]]
    else:
        states = [teacher.starts[rng.integers(len(teacher.starts))]]
    actions, rewards, done = [], [], False
    context, end = teacher.diffuser.config.context, End.TIME_LIMIT
    plan: Any = None
    start: Start | None = None
    while len(actions) < teacher.max_steps:
        k = len(actions) % config.replan_every
        if k == 0:
            history = states[-context:]
            padded = np.zeros((1, context, 2), dtype=np.float32)
            padded[0, : len(history)] = history
            if plan is not None and config.warm_steps is not None:
                # The same moments seen from now: row `anchor` was then, and is now later.
                now = int(plan.anchor[0]) + config.replan_every
                at = now - (len(history) - 1) + np.arange(plan.states.shape[1])
                at = np.minimum(at, plan.states.shape[1] - 1)
                start = Start(
                    states=plan.states[:, at],
                    rewards=plan.rewards[:, at],
                    steps=config.warm_steps,
                )
            plan = teacher.diffuser.plan(
                padded,
                np.array([len(history)]),
                target_return=config.target_return,
                sampler=config.sampler,
                rngs=[rng],
                start=start,
            )
        at = int(plan.anchor[0]) + k
        planned = plan.states[:, at + 1]
        state = np.asarray(states[-1])[None]
        action = teacher.inverse_dynamics.predict(state, planned)
        reward = plan.rewards[0, at]
        if config.rollout == "model":
            after = planned[0]
        elif config.rollout == "dynamics":
            step = teacher.transition.predict(state, action)
            after, reward = step.next_states[0].astype(np.float32), step.rewards[0]
        else:
            after, _, done, _, _ = environment.step(action[0])
        if config.rollout != "environment":
            probability = teacher.termination.predict(state, after[None])[0]
            done = probability >= teacher.termination.threshold
        actions.append(action[0])
        rewards.append(reward)
        states.append(after)
        if done:
            end = End.TERMINATED
            break
    return {"observations": states, "actions": actions, "rewards": rewards}, end


def test_a_trajectory_is_the_same_in_any_company_order_and_number_of_slots(
    teacher: Teacher,
) -> None:
    config = settings("dynamics", warm_steps=2)
    alone = [
        generate(teacher, config, ids=[number], seed=0).trajectories for number in range(9)
    ]
    assert len({int(part.lengths[0]) for part in alone}) > 1, "none ends before the others"
    for ids, slots in ((range(9), 64), (range(9), 4), (range(8, -1, -1), 2), ([3, 8, 4], 1)):
        together = generate(teacher, config, ids=ids, seed=0, slots=slots).trajectories
        for row, number in enumerate(ids):
            for name in ("observations", "actions", "rewards"):
                ours, theirs = together.episode(row)[name], alone[number].episode(0)[name]
                assert np.array_equal(ours, theirs)
    other = generate(teacher, config, ids=[8], seed=0, epoch=2).trajectories
    assert not np.array_equal(other.observations[:1], alone[8].observations[:1])


def test_the_teacher_in_its_environment_is_a_plain_loop_that_is_truly_rewarded(
    teacher: Teacher,
) -> None:
    # Evaluation ends where the environment's limit is, not where generation does.
    config = settings("dynamics", replan_every=3, max_steps=2)
    returns = evaluate_planner(teacher, config, seeds=2, episodes=3, seed=7, first=4, slots=2)
    assert returns.shape == (2, 3)
    acting = settings("environment", replan_every=3)
    for k in range(2):
        for e in range(3):
            rng = numpy_rng(7, "planner", k, 4 + e)
            oracle, _ = plain_loop(teacher, acting, rng, reset=reset_seed(7, 4 + e))
            assert returns[k, e] == 1e9 * len(oracle["actions"])
    assert len(np.unique(returns)) > 1


def test_a_slot_that_is_free_is_taken_at_the_next_plan(teacher: Teacher) -> None:
    """Never more than the slots at a time, and never fewer while others wait."""
    config = settings("dynamics", replan_every=1)
    sizes: list[int] = []

    class Counting:
        config, settings = teacher.diffuser.config, teacher.diffuser.settings

        def plan(self, history: Any, *arguments: Any, **named: Any) -> Any:
            sizes.append(len(history))
            return teacher.diffuser.plan(history, *arguments, **named)

    counting: Any = Counting()
    made = generate(
        replace(teacher, diffuser=counting), config, ids=range(9), seed=0, slots=2
    ).trajectories
    assert sum(sizes) == made.n_steps
    assert max(sizes) == 2
    tail = sizes.index(1)
    assert set(sizes[tail:]) == {1}, "a slot was empty while others waited"


def test_provenance_names_the_generated_episode(teacher: Teacher) -> None:
    made = generate(teacher, settings("model"), ids=[2, 5], seed=0, first_id=40).trajectories
    assert made.episode_id.tolist() == [42, 45]
    assert set(made.origin) == {Origin.GENERATED}
    assert made.episode(1)["source_episode"].tolist() == [45] * int(made.lengths[1])
    assert made.episode(1)["source_step"].tolist() == list(range(int(made.lengths[1])))


def endless(teacher: Teacher, **parts: Any) -> Teacher:
    """The same with these parts, and no termination."""
    return replace(teacher, termination=replace(teacher.termination, network=None), **parts)


@dataclass(frozen=True)
class Runaway:
    """A dynamics model that leaves any box, or turns not-a-number, at the third step."""

    value: float

    def predict(self, states: Any, actions: Any) -> Any:
        after = np.where(states[:, :1] < 0.015, states + 0.01, self.value)
        doubt = np.where(states[:, 0] < 0.015, 0.0, 9.0)  # its members disagree there as well
        return Step(after, np.zeros(len(after)), doubt)


@pytest.mark.parametrize("value", [1e6, np.nan])
def test_an_episode_that_leaves_the_box_is_cut_there_and_truncated(
    teacher: Teacher, value: float
) -> None:
    nowhere: Any = Runaway(value)
    calm = endless(
        teacher,
        transition=nowhere,
        starts=np.zeros((1, 2), dtype=np.float32),
    )
    generated = generate(calm, settings("dynamics"), ids=[0], seed=0)
    made = generated.trajectories
    assert generated.ends.tolist() == [End.LEFT_BOX]
    assert made.lengths.tolist() == [2], "the step that went wrong is dropped"
    assert np.isfinite(made.observations).all()
    assert made.truncated.tolist() == [True]
    assert made.terminated.tolist() == [False]
    both = generate(calm, settings("dynamics", max_disagreement=1.0), ids=[0], seed=0)
    assert both.ends.tolist() == [End.LEFT_BOX], "the box tells more than the doubt"
    assert both.trajectories.lengths.tolist() == [2]


@dataclass(frozen=True)
class Drift:
    """A dynamics model under which one dimension moves on; its members disagree by where."""

    by: float

    def predict(self, states: Any, actions: Any) -> Any:
        after = states + np.array([self.by, 0.0])
        return Step(after, np.zeros(len(after)), states[:, 0] ** 2)


@pytest.mark.parametrize(
    ("by", "margin", "path"),
    [
        (0.25, 0.5, [0.25 * k for k in range(5)]),  # up to 0.5 + 0.5 · 1
        (0.25, 0.0, [0.0, 0.25, 0.5]),
        (-0.25, 0.25, [0.0, -0.25, -0.5, -0.75]),  # down to -0.5 - 0.25 · 1
        (9.0, 0.5, [0.0, 1.0]),  # the first step is kept, inside the box
        (-9.0, 0.5, [0.0, -1.0]),
        (np.nan, 0.5, [0.0, 0.0]),
    ],
)
def test_a_rollout_may_leave_the_datas_box_by_its_share_of_the_range(
    teacher: Teacher, by: float, margin: float, path: list[float]
) -> None:
    drifting: Any = Drift(by)
    boxed = endless(
        teacher,
        transition=drifting,
        starts=np.zeros((1, 2), dtype=np.float32),
        low=np.array([-0.5, -9.0], np.float32),
        high=np.array([0.5, 9.0], np.float32),
    )
    made = generate(boxed, settings("dynamics", box_margin=margin), ids=[0], seed=0)
    assert made.trajectories.observations[:, 0].tolist() == path
    assert made.ends.tolist() == [End.LEFT_BOX]
    assert made.disagreement.tolist() == [np.mean(np.square(path[:-1]))]


def test_what_generation_takes_from_the_data_is_recorded_there() -> None:
    data = world()
    states = [data.episode(number)["observations"] for number in range(data.n_episodes)]
    found = facts(data)
    np.testing.assert_array_equal(found["starts"], [episode[0] for episode in states])
    np.testing.assert_array_equal(found["low"], np.concatenate(states).min(axis=0))
    np.testing.assert_array_equal(found["high"], np.concatenate(states).max(axis=0))
    assert (found["max_steps"], found["environment"]) == (20, data.environment)
    short = data.take([1, 2])  # 19 and 18 steps
    assert facts(replace(short, environment=None))["max_steps"] == 19
    assert facts(short)["max_steps"] == 20


def test_a_constant_dimension_does_not_end_a_rollout(teacher: Teacher) -> None:
    still = endless(
        teacher,
        low=np.array([teacher.low[0], 0.3], np.float32),
        high=np.array([teacher.high[0], 0.3], np.float32),
    )
    generated = generate(still, settings("dynamics"), ids=range(3), seed=0)
    assert generated.ends.tolist() == [End.TIME_LIMIT] * 3


def test_disagreement_cuts_when_asked(teacher: Teacher) -> None:
    generated = generate(
        teacher, settings("dynamics", max_disagreement=1e-9), ids=range(3), seed=0
    )
    assert generated.ends.tolist() == [End.DISAGREEMENT] * 3
    assert generated.trajectories.lengths.tolist() == [1] * 3


def test_max_steps_is_a_truncation(teacher: Teacher) -> None:
    calm = endless(teacher)
    generated = generate(calm, settings("model", max_steps=7), ids=range(3), seed=0)
    assert generated.trajectories.lengths.tolist() == [7] * 3
    assert generated.trajectories.truncated.all()


def test_an_environment_rollout_without_an_environment_says_what_to_do(
    teacher: Teacher,
) -> None:
    homeless = replace(teacher, environment=None)
    with pytest.raises(ConfigError, match=r"Set data\.environment, or use rollout: dynamics"):
        generate(homeless, settings("environment"), ids=[0], seed=0)
    assert isinstance(teacher.environment, EnvironmentSpec)
