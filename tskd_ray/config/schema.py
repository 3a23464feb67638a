"""The configuration tree. Every field is an option a user may set; unknown ones are errors.

Frozen, and checked at birth: relations between fields raise here, not after an hour of work.
`tskd_ray/presets/*.yaml` hold complete settings; `config/load.py` reads them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tskd_ray.entry_points import choice

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """Base of every section: frozen, strict, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DataConfig(Section):
    """Where the recorded trajectories come from."""

    source: str = "builtin:hopper-medium-replay"
    """`builtin:NAME`, a Minari id or folder, a D4RL `.hdf5` file or a Parquet folder."""
    environment: str | None = None
    """Gymnasium id; default: what the dataset says."""
    environment_kwargs: dict[str, Any] = {}
    reference_scores: tuple[float, float] | None = None
    """(random, expert) returns for the normalized score; default: the table by environment."""


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


class GenerateConfig(Section):
    """Algorithm 1: trajectories from DDR-I."""

    trajectories: Annotated[int, Field(ge=0)] = 300
    """n, new trajectories per stitching epoch; 0 leaves generation out."""
    rollout: Literal["model", "dynamics", "environment"] = "dynamics"
    """Where the next state comes from (D8)."""
    sampler: SamplerConfig = SamplerConfig()
    target_return: float = 1.0
    """Condition y, in units of the return scale (D5)."""
    replan_every: Count = 1
    """m: environment steps taken from one plan (D11)."""
    warm_steps: Count | None = None
    """Begin a plan from the one before, moved on in time and made as noisy as the sampler is
    that many steps before its end. Default: each plan begins from noise."""
    max_steps: Count | None = None
    """Length limit; default: the environment's, else the longest recorded episode."""
    box_margin: Annotated[float, Field(ge=0)] = 1.0
    """How far, as a share of each dimension's range, a state may leave the data's box (D10)."""
    max_disagreement: Positive | None = None
    """Cut a `dynamics` rollout where the ensemble disagrees by more (sd of a true step)."""
    shard_size: Count = 25
    """Trajectories per unit of work: what the death of a worker may cost."""


class RadiusConfig(Section):
    """ρ as the radius whose median neighbourhood has that many states (D19)."""

    neighbours: Count


class StitchConfig(Section):
    """Algorithm 4."""

    epochs: Annotated[int, Field(ge=0)] = 2
    """K; 0 leaves stitching out (generated trajectories still join the data)."""
    method: Literal["tskd", "mbts"] = "tskd"
    """Candidates of tskd are the states near s'; mbts (Hepburn & Montana 2022) adds those that
    follow a state near s, and has models of its own. The published mbts uses `best_members` 5
    and no generated trajectories."""
    action: Literal["inverse", "vae"] | None = None
    """Who acts in a hop: the inverse dynamics, or a conditional VAE. Default: the method's,
    inverse for tskd, vae for mbts."""
    reward: Annotated[str, choice("reward_models")] | None = None
    """Who prices a hop: DDR-II from (s, s'), an MLP or a Wasserstein GAN from (s, a, s').
    Default: the method's, ddr2 for tskd, wgan for mbts. simulator: the true reward of (s, a),
    to see what wrong rewards cost; that touches the environment. Or an extension's name."""
    reward_settings: dict[str, Any] = {}
    """Of an extension."""
    radius: Positive | RadiusConfig = 1.0
    metric: Literal["raw", "standardized"] = "raw"
    acceptance: Annotated[float, Field(ge=0)] = 0.1
    """p̃."""
    candidate: Literal["dynamics_first", "best_value_first"] = "dynamics_first"
    improvement: Literal["absolute", "paper"] = "absolute"
    on_cycle: Literal["stop", "cap"] = "stop"
    search: Literal["auto", "cells", "blocks", "faiss-flat", "faiss-ivf"] = "auto"
    """All find the same hops but for faiss-ivf, which is approximate and misses some. auto:
    cells or blocks, whichever is faster on a sample of the data."""
    decide: Literal["auto", "all", "reached"] = "auto"
    """Which hops: all, or only those that walks reach, which is cheaper where many are
    accepted. auto: the latter in epochs of half a million transitions or more. Same
    trajectories."""
    index_gib: Positive | None = None
    """Search index that a node maps at a time; a larger one is searched in shards, best values
    first. Default: half of the smallest node's memory."""
    members: Count = 7
    best_members: Count = 3
    dynamics: FitConfig = FitConfig(steps=100_000, batch_size=256, learning_rate=3e-4)
    """State-only Gaussian ensemble (eq. 8)."""
    value: FitConfig = FitConfig(steps=100_000, batch_size=256, learning_rate=3e-4)
    """Twin value functions (eq. 10), fitted anew in each epoch."""
    value_on: Literal["joined", "recorded"] = "joined"
    """What V is fitted on: D ∪ new, or the recorded data alone."""
    action_fit: FitConfig = FitConfig(steps=100_000, batch_size=256, learning_rate=1e-4)
    """Of `action: vae`."""
    reward_fit: FitConfig = FitConfig(steps=100_000, batch_size=256, learning_rate=1e-4)
    """Of `reward: mlp` and `wgan`."""

    @property
    def action_model(self) -> Literal["inverse", "vae"]:
        """`action`, or the method's own."""
        return self.action or ("vae" if self.method == "mbts" else "inverse")

    @property
    def reward_model(self) -> str:
        """`reward`, or the method's own."""
        return self.reward or ("wgan" if self.method == "mbts" else "ddr2")

    @model_validator(mode="after")
    def _order_fits(self) -> Self:
        if self.method == "mbts" and self.candidate != "dynamics_first":
            raise ValueError(
                "stitch.method mbts tests the dynamics first. Got stitch.candidate "
                f"{self.candidate}. Leave that at dynamics_first."
            )
        return self

    @model_validator(mode="after")
    def _members_fit(self) -> Self:
        if self.best_members > self.members:
            raise ValueError(
                "stitch.best_members cannot exceed stitch.members. Got "
                f"{self.best_members} of {self.members}."
            )
        return self


class SelectConfig(Section):
    """Which trajectories of D_K the student learns from."""

    by: Annotated[str, choice("selectors")] = "return"
    """Their return, or the name of an extension, to which only `minimum_episodes` applies."""
    settings: dict[str, Any] = {}
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


class DistillConfig(Section):
    """The student: behaviour cloning by a 2 x 256 MLP."""

    seeds: Count = 5
    first_seed: Annotated[int, Field(ge=0)] = 0
    """Students are numbered from it; other numbers, other students."""
    hidden: tuple[Count, ...] = (256, 256)
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


class ComputeConfig(Section):
    """Where and how the work runs.

    Only `device`, `threads`, `precision`, `compile` and `training_workers` change results: in
    their last bits, for bfloat16 beyond.
    """

    mode: Literal["ray", "local"] = "ray"
    workers: Annotated[int, Field(ge=0)] = 0
    """Generation and stitching workers; 0: as many as the cluster has room for."""
    training_workers: Count = 1
    """Processes that train a diffusion model together, each on its part of every batch, by Ray
    Train: NCCL between GPUs, gloo between CPUs. Each holds as much as a worker does."""
    device: Literal["cpu", "cuda"] = "cpu"
    gpus_per_worker: Annotated[float, Field(gt=0, le=1)] = 1.0
    threads: Count = 1
    """Torch threads per worker; also the CPUs that a worker holds."""
    slots: Count = 64
    """Trajectories that a generation worker advances side by side; one that ends makes room for
    the next of its shard."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the diffusion networks' passes; weights and optimiser stay float32. On a CPU it is for
    training alone: generation there computes in float32, by kernels of its own."""
    compile: bool = False
    """Have torch.compile make kernels for the diffusion networks: minutes at first, for shapes
    that are then fast."""
    max_attempts: Count = 5
    """Attempts per shard when workers die."""
    ready_timeout: Positive = 300.0
    """Seconds that a new worker may take to load the teacher."""
    hang_timeout: Positive = 900.0
    """Seconds at work without using any processor time, as when it is stopped or waits for a
    lock or a file system that never answers, after which a worker is killed and its shard or
    task tried again. Slow work uses some, and may take as long as it likes."""

    @model_validator(mode="after")
    def _together_on_ray(self) -> Self:
        if self.mode == "local" and self.training_workers > 1:
            raise ValueError(
                "compute.training_workers above 1 needs compute.mode=ray. Got "
                f"{self.training_workers} with mode local. Use one of them."
            )
        return self


class Config(Section):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] = "run"
    seed: Annotated[int, Field(ge=0)] = 0
    storage: str = "tskd_storage"
    """Root folder or URI of artifacts and runs."""
    data: DataConfig = DataConfig()
    teacher: TeacherConfig = TeacherConfig()
    generate: GenerateConfig = GenerateConfig()
    stitch: StitchConfig = StitchConfig()
    select: SelectConfig = SelectConfig()
    distill: DistillConfig = DistillConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    compute: ComputeConfig = ComputeConfig()

    @model_validator(mode="after")
    def _samplers_fit(self) -> Self:
        pairs = (
            ("generate.sampler", self.generate.sampler, self.teacher.trajectory),
            ("teacher.reward_sampler", self.teacher.reward_sampler, self.teacher.reward),
        )
        for name, sampler, model in pairs:
            if sampler.steps > model.diffusion_steps:
                raise ValueError(
                    f"{name}.steps cannot exceed the model's diffusion steps. Got "
                    f"{sampler.steps} of {model.diffusion_steps}. Lower the sampler's steps."
                )
        batch = min(self.teacher.trajectory.fit.batch_size, self.teacher.reward.fit.batch_size)
        if self.compute.training_workers > batch:
            raise ValueError(
                "compute.training_workers cannot exceed the batch sizes of teacher.trajectory "
                f"and teacher.reward. Got {self.compute.training_workers} for {batch}. Use "
                "fewer workers."
            )
        warm = self.generate.warm_steps
        if warm is not None and warm > self.generate.sampler.steps:
            raise ValueError(
                "generate.warm_steps cannot exceed generate.sampler.steps. Got "
                f"{warm} of {self.generate.sampler.steps}. Lower the former."
            )
        rewarded = self.teacher.diffuse_rewards or self.generate.rollout == "dynamics"
        if self.generate.trajectories and not rewarded:
            raise ValueError(
                f"generate.rollout={self.generate.rollout} takes rewards from the plan, which "
                "teacher.diffuse_rewards=false leaves out. Use generate.rollout=dynamics."
            )
        plan = self.teacher.trajectory.horizon - self.teacher.context
        if self.generate.replan_every > plan:
            raise ValueError(
                "generate.replan_every cannot exceed the planned steps, horizon − context. Got "
                f"{self.generate.replan_every} of {plan}. Replan more often."
            )
        return self
