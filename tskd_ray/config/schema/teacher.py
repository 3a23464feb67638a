"""Settings of the teachers: networks, fits and samplers."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tskd_ray.config.schema.section import Count, Fraction, Positive, Section


class UNetConfig(Section):
    """Temporal U-Net (Janner et al. 2022), as the public Decision Diffuser sizes it."""

    base_width: Count = 128
    multipliers: tuple[Count, ...] = (1, 4, 8)
    embedding_width: Count = 128
    kernel_size: Count = 5

    @model_validator(mode="after")
    def _widths_fit(self) -> Self:
        rules = (
            (
                "base_width times each multiplier must be a multiple of 8, the groups of the "
                "group normalisation",
                all(self.base_width * m % 8 == 0 for m in self.multipliers),
                f"{self.base_width} times {list(self.multipliers)}",
            ),
            ("kernel_size must be odd", self.kernel_size % 2 == 1, f"{self.kernel_size}"),
            (
                "embedding_width must be even and at least 4",
                self.embedding_width % 2 == 0 and self.embedding_width >= 4,
                f"{self.embedding_width}",
            ),
            ("multipliers must not be empty", bool(self.multipliers), "none"),
        )
        for rule, holds, got in rules:
            if not holds:
                raise ValueError(f"unet.{rule}. Got {got}.")
        return self


class FitConfig(Section):
    """One optimisation."""

    steps: Count = 1_000_000
    batch_size: Count = 32
    learning_rate: Positive = 2e-4
    schedule: Literal["constant", "cosine"] = "constant"
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.995


class DiffusionConfig(Section):
    """One diffusion model: DDR-I or DDR-II."""

    horizon: Count = 101
    """Rows of x, history included: C + (H - C) (D2)."""
    unet: UNetConfig = UNetConfig()
    diffusion_steps: Count = 200
    fit: FitConfig = FitConfig()


class SamplerConfig(Section):
    """How a plan is denoised (D12) and guided (eq. 5)."""

    name: Literal["ddpm", "ddim", "dpmpp_2m"] = "ddpm"
    steps: Count = 200
    guidance: float = 1.2
    """w: 0 unconditional, 1 conditional, above 1 extrapolates."""
    temperature: Annotated[float, Field(ge=0)] = 0.5
    temperature_on: Literal["variance", "std"] = "variance"


class AdvantageConfig(Section):
    """V of the recorded states, which `label: advantage` compares plans with (D25)."""

    discount: Fraction = 0.999
    """γ of V and of a plan's rewards; far-sighted, since a plan is short."""
    fit: FitConfig = FitConfig(steps=20_000, batch_size=512, schedule="cosine")


class TeacherConfig(Section):
    """DDR-I, DDR-II and what serves them."""

    parameterization: Literal["residual", "absolute"] = "residual"
    context: Count = 1
    """C: states of history that are clamped."""
    normalizer: Literal["cdf", "minmax"] = "cdf"
    """Of `absolute` states and of rewards (D6); `residual` states are whitened per offset."""
    discount: Fraction = 0.99
    return_scale: Positive | None = None
    """Divides the return label; default: the largest label in the dataset (D5)."""
    termination_penalty: Annotated[float, Field(le=0)] = 0.0
    """Added to the label of episodes that terminate, never to the diffused reward (D4)."""
    label: Literal["return", "advantage"] = "return"
    """What DDR-I's plans are conditioned on: their return, or the rank, from 0 to 1, of their
    advantage over the value of the state that they start from (D25)."""
    advantage: AdvantageConfig = AdvantageConfig()
    condition_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.25
    diffuse_rewards: bool = True
    """False: DDR-I plans states alone, as the Decision Diffuser does (Ajay et al. 2023)."""
    trajectory: DiffusionConfig = DiffusionConfig()
    """DDR-I."""
    reward: DiffusionConfig = DiffusionConfig()
    """DDR-II."""
    reward_sampler: SamplerConfig = SamplerConfig()
    inverse_dynamics: FitConfig = FitConfig(steps=100_000, batch_size=256)
    transition: FitConfig = FitConfig(steps=100_000, batch_size=256)
    """Action-conditioned ensemble of the `dynamics` rollout, and the termination classifier."""

    @model_validator(mode="after")
    def _history_fits(self) -> Self:
        if self.context >= self.trajectory.horizon:
            raise ValueError(
                "teacher.trajectory.horizon must be larger than teacher.context, since the "
                f"plan lies after the history. Got horizon {self.trajectory.horizon}, context "
                f"{self.context}. Raise the horizon."
            )
        return self


DIFFUSER_SETTINGS = (
    "parameterization",
    "context",
    "normalizer",
    "discount",
    "return_scale",
    "termination_penalty",
    "condition_dropout",
)
"""Of `teacher`, what both diffusers depend on besides a section of their own."""
