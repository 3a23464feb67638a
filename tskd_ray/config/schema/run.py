"""A whole run: data, the sections of each stage, and where it computes."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from tskd_ray.config.schema.augment import GenerateConfig, StitchConfig
from tskd_ray.config.schema.section import Count, Name, Positive, Section
from tskd_ray.config.schema.student import DistillConfig, EvaluateConfig, SelectConfig
from tskd_ray.config.schema.teacher import TeacherConfig


class DataConfig(Section):
    """Where the recorded trajectories come from."""

    source: str = "builtin:hopper-medium-replay"
    """`builtin:NAME`, a Minari id or folder, a D4RL `.hdf5` file or a Parquet folder."""
    environment: str | None = None
    """Gymnasium id; default: what the dataset says."""
    environment_kwargs: dict[str, Any] = Field(default_factory=dict[str, Any])
    reference_scores: tuple[float, float] | None = None
    """(random, expert) returns for the normalized score; default: the table by environment."""


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

    name: Name = "run"
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
        planned = self.generate.mode in ("model", "environment")
        if planned and not self.teacher.diffuse_rewards:
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
