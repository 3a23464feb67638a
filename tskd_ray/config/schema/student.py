"""Settings of selection, distillation and evaluation."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tskd_ray.config.schema.section import Count, Fraction, Positive, Section
from tskd_ray.config.schema.teacher import FitConfig
from tskd_ray.entry_points import choice

METHODS = {
    "bc": "BC",
    "awr": "AWR",
    "td3bc": "TD3+BC",
    "iql": "IQL",
    "cql": "CQL",
    "dt": "Decision Transformer",
}
"""What people call our methods of distillation, by `distill.method`."""


class SelectConfig(Section):
    """Which trajectories of D_K the student learns from."""

    by: Annotated[str, choice("selectors")] = "return"
    """Their return, or the name of an extension, to which only `minimum_episodes` applies."""
    settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Of an extension."""
    slack: Annotated[float, Field(ge=0)] | Annotated[str, Field(pattern=r"^\d+(\.\d+)?%$")] = (
        "20%"
    )
    """δ: keep returns of at least max − δ; a number, or a share of the return range (D20)."""
    best: Annotated[str, Field(pattern=r"^\d+(\.\d+)?%$")] | None = None
    """Keep that share of the episodes instead, those with the highest returns."""
    scope: Literal["global", "per_origin"] = "global"
    """One threshold, or one for each of recorded, generated and stitched."""
    minimum_episodes: Count = 5

    @field_validator("best")
    @classmethod
    def _some_share(cls, best: str | None) -> str | None:
        if best is not None and not 0 < float(best.removesuffix("%")) <= 100:
            raise ValueError(
                f"select.best must be above 0% and at most 100%. Got {best}. Choose a share."
            )
        return best


class AWRConfig(Section):
    """Advantage-weighted regression (Peng et al. 2019, Wang et al. 2018): unequal steps.

    A step's squared error is multiplied by exp(scale · advantage / its standard deviation), at
    most e⁴, over the mean of that. Steps can be left out, as by BAIL (Chen et al. 2020).
    """

    discount: Fraction = 0.999
    """γ of V and of a window's rewards; far-sighted, since a window is short."""
    steps: Count = 31
    """Of the window that tells a step's advantage: its rewards, and V of the state after it."""
    scale: Annotated[float, Field(ge=0)] = 2.0
    """One over the published temperature, in standard deviations; 0 is plain cloning."""
    share: Fraction = 1.0
    """Of the steps, those with the highest advantages; only they are cloned."""
    fit: FitConfig = FitConfig(
        steps=1_500, batch_size=512, learning_rate=1e-3, schedule="cosine", ema_decay=0.0
    )
    """Of V, once for each dataset."""


class CriticConfig(Section):
    """Of methods that learn Q: how it is backed up."""

    discount: Fraction = 0.99
    target_rate: Fraction = 0.005
    """τ: how far the target networks move towards the trained ones at each update."""


class TD3BCConfig(CriticConfig):
    """TD3+BC (Fujimoto & Gu 2021): the actions that Q rates best, held to those of the data."""

    alpha: Positive = 2.5
    """Weight of Q, over the mean of its absolute values, against cloning."""
    policy_noise: Annotated[float, Field(ge=0)] = 0.2
    noise_clip: Annotated[float, Field(ge=0)] = 0.5
    """Standard deviation and bound of noise on the next action, in half action ranges."""
    policy_delay: Count = 2
    """Steps of the critics for one of the policy and of the target networks."""


class IQLConfig(CriticConfig):
    """Implicit Q-learning (Kostrikov et al. 2022): backs up the values of recorded actions."""

    expectile: Annotated[float, Field(gt=0, lt=1)] = 0.7
    temperature: Positive = 3.0
    """β: cloning weighs a step by exp(β · advantage), at most 100; rewards are scaled so that
    returns range over 1000."""


class CQLConfig(CriticConfig):
    """Conservative Q-learning (Kumar et al. 2020), CQL(H) on soft actor-critic."""

    conservatism: Annotated[float, Field(ge=0)] = 5.0
    """Weight of log Σ exp Q(s, ·) − Q(s, a), by which Q is low where nothing was recorded."""
    actions: Count = 10
    """Drawn of each kind for that sum: at random, and from the policy at s and at s'."""


class TransformerConfig(Section):
    """Decision Transformer (Chen et al. 2021): a policy that remembers."""

    context: Count = 20
    """Steps that it sees."""
    width: Count = 128
    layers: Count = 3
    heads: Count = 1
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    target_return: float | None = None
    """Undiscounted return to ask for; default: the highest of the student's data."""

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.width % self.heads:
            raise ValueError(
                "distill.dt.width must be a multiple of distill.dt.heads. Got "
                f"{self.width} and {self.heads}. Change one of them."
            )
        return self


class DistillConfig(Section):
    """The student: a 2 x 256 MLP, but for `dt` and extensions."""

    method: Annotated[str, choice("students")] = "bc"
    """Behaviour cloning, of all steps alike or (`awr`) by their advantage; TD3+BC, IQL, CQL or
    a Decision Transformer by TorchRL, which are extras (docs/students.md); or the name of an
    extension."""
    settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Of an extension."""
    awr: AWRConfig = AWRConfig()
    td3bc: TD3BCConfig = TD3BCConfig()
    iql: IQLConfig = IQLConfig()
    cql: CQLConfig = CQLConfig()
    dt: TransformerConfig = TransformerConfig()
    seeds: Count = 5
    first_seed: Annotated[int, Field(ge=0)] = 0
    """Students are numbered from it; other numbers, other students."""
    hidden: tuple[Count, ...] = (256, 256)
    """Widths of the policy, and of critics."""
    fit: FitConfig = FitConfig(steps=50_000, batch_size=256, learning_rate=1e-3, ema_decay=0.0)


class EvaluateConfig(Section):
    """Rollouts of the students in the environment; never seen by training or selection."""

    episodes: Annotated[int, Field(ge=0)] = 10
    """Per student seed; 0 leaves evaluation out."""
    first_episode: Annotated[int, Field(ge=0)] = 0
    """Episodes are numbered from it; other numbers, other resets."""
    checkpoints: Count = 5
    """Evenly spaced in training, the last one final; the best one is labelled as such."""
    offline: bool = True
    """Also estimate the final students' returns from the recorded data alone."""
    film: bool = True
    """Show an episode of the TSKD student and of plain BC in the report: some five seconds, and
    one line instead where nothing renders off-screen."""
