"""Settings of generation and stitching."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from tskd_ray.config.schema.section import Count, Positive, Section
from tskd_ray.config.schema.teacher import FitConfig, SamplerConfig
from tskd_ray.entry_points import BUILT_IN, choice


class GenerateConfig(Section):
    """Algorithm 1: trajectories from DDR-I."""

    method: Annotated[str, choice("generators")] = "ddr"
    """DDR-I, or the name of an extension, to which only `trajectories` and `shard_size`
    apply."""
    settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Of an extension."""
    trajectories: Annotated[int, Field(ge=0)] = 300
    """n, new trajectories per stitching epoch; 0 leaves generation out."""
    rollout: Literal["model", "dynamics", "environment"] = "dynamics"
    """Where the next state comes from (D8)."""
    sampler: SamplerConfig = SamplerConfig()
    target_return: float = 1.0
    """Condition y, in units of the return scale (D5); a rank where `teacher.label` is
    advantage."""
    replan_every: Count = 1
    """m: environment steps taken from one plan (D11)."""
    warm_steps: Count | None = None
    """Begin a plan from the one before, moved on in time and made as noisy as the sampler is
    that many steps before its end. Default: each plan begins from noise."""
    max_steps: Count | None = None
    """Length limit; default: the environment's, else the longest recorded episode. Evaluation
    ends there, too, where neither the data nor Gymnasium know a limit."""
    box_margin: Annotated[float, Field(ge=0)] = 1.0
    """How far, as a share of each dimension's range, a state may leave the data's box (D10)."""
    max_disagreement: Positive | None = None
    """Cut a `dynamics` rollout where the ensemble disagrees by more (sd of a true step)."""
    shard_size: Count = 25
    """Trajectories per unit of work: what the death of a worker may cost."""

    @property
    def extended(self) -> bool:
        """Whether an extension generates."""
        return self.method not in BUILT_IN["generators"]

    @property
    def mode(self) -> Literal["model", "dynamics", "environment", "extension", "none"]:
        """Where next states come from: the rollout, if there is one."""
        if not self.trajectories:
            return "none"
        return "extension" if self.extended else self.rollout


class RadiusConfig(Section):
    """ρ as the radius whose median neighbourhood has that many states (D19)."""

    neighbours: Count


class StitchConfig(Section):
    """Algorithm 4."""

    epochs: Annotated[int, Field(ge=0)] = 2
    """K; 0 leaves stitching out (generated trajectories still join the data)."""
    method: Annotated[str, choice("stitchers")] = "tskd"
    """Candidates of tskd are the states near s'; mbts (Hepburn & Montana 2022) adds those that
    follow a state near s, and has models of its own. The published mbts uses `best_members` 5
    and no generated trajectories. Or the name of an extension, which decides the walks: the
    settings of hops do not apply to it."""
    settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Of an extension that stitches."""
    action: Literal["inverse", "vae"] | None = None
    """Who acts in a hop: the inverse dynamics, or a conditional VAE. Default: the method's,
    inverse for tskd, vae for mbts."""
    reward: Annotated[str, choice("reward_models")] | None = None
    """Who prices a hop: DDR-II from (s, s'), an MLP or a Wasserstein GAN from (s, a, s').
    Default: the method's, ddr2 for tskd, wgan for mbts. simulator: the true reward of (s, a),
    to see what wrong rewards cost; that touches the environment. Or an extension's name."""
    reward_settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Of an extension that prices hops."""
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
    first. Default: half of the smallest node's memory. faiss-ivf always has one shard."""
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
    def extended(self) -> bool:
        """Whether an extension stitches."""
        return self.method not in BUILT_IN["stitchers"]

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
