"""What a sweep is: a base configuration, what to vary, how to search, what to optimise.

`config/load_sweep.py` reads it from YAML; `pipeline/sweep/` does it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tskd_ray.config.schema import Count, Name, Positive, Section

LISTED = 1000
"""Values at most of a `randint` or `quniform`, each of which is checked."""

MOST_TRIALS = 100_000
"""Of a sweep, whose points are held in memory."""

Number = Annotated[int | float, Field(ge=-1e300, le=1e300)]  # differences are finite too
Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]
Metric = Literal["score", "offline", "cpu_seconds"]


class Domain(Section):
    """The values that one setting may take; exactly one kind of them."""

    choice: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    """Values to draw from."""
    grid: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    """Values that must all be tried: a random search takes them in turn."""
    uniform: tuple[Number, Number] | None = None
    """Any number between the two."""
    quniform: tuple[Number, Number, Number] | None = None
    """From the first to the second in steps of the third."""
    loguniform: tuple[Positive, Positive] | None = None
    """Any number between the two, each order of magnitude alike."""
    randint: tuple[Whole, Whole] | None = None
    """Any whole number from the first to the second, both included."""
    when: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Other settings and the value, or list of values, that they must have; otherwise this
    setting keeps the base's."""

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        given = [name for name in KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"be exactly one of {', '.join(KINDS)}. Got {' and '.join(given) or 'none'}"
            )
        bounds = self.uniform or self.quniform or self.loguniform or self.randint
        if bounds is not None and not bounds[0] < bounds[1]:
            raise ValueError(f"have its lower bound first. Got {given[0]}: {list(bounds)}")
        if self.quniform is not None:
            low, high, step = self.quniform
            if not 0 < step <= high - low:
                raise ValueError(
                    f"have a step between 0 and its width. Got quniform: {[low, high, step]}"
                )
        self._check_count()
        return self

    def _check_count(self) -> None:
        listed = self.quniform or (self.randint and (*self.randint, 1))
        if listed and listed[1] - listed[0] >= LISTED * listed[2]:
            kind = "quniform" if self.quniform else "randint"
            raise ValueError(
                f"stand for at most {LISTED} values, by larger steps or a choice of fewer. "
                f"Got {kind}: {list(getattr(self, kind))}"
            )

    def values(self) -> tuple[Any, ...] | None:
        """All values in order, or None if there is a continuum of them."""
        if self.randint is not None:
            return tuple(range(self.randint[0], self.randint[1] + 1))
        if self.quniform is not None:
            low, high, step = self.quniform
            count = int((high - low) / step + 1e-9) + 1
            return tuple(_clean(low + number * step) for number in range(count))
        return self.choice if self.choice is not None else self.grid


KINDS = ("choice", "grid", "uniform", "quniform", "loguniform", "randint")


def _clean(value: Number) -> Number:
    # 0.1 + 2 * 0.1 is 0.30000000000000004, and settings are compared as they are written.
    return value if isinstance(value, int) else round(value, 12)


class SearchConfig(Section):
    """Which points of the space are tried."""

    method: Literal["grid", "random", "tpe"] = "random"
    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)] | None = None
    """How many; a grid has as many as it has."""
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _trials_fit(self) -> Self:
        if (self.trials is None) != (self.method == "grid"):
            raise ValueError(
                "have trials where method is random or tpe, and none where it is grid, which "
                f"tries every value. Got method {self.method}, trials {self.trials}"
            )
        return self


class ObjectiveConfig(Section):
    """What makes a trial good."""

    metric: Metric = "score"
    """`score`: rollouts in the environment. `offline`: fitted-Q evaluation on recorded data.
    `cpu_seconds`: what the setting costs alone."""
    direction: Literal["max", "min"] = "max"

    @model_validator(mode="after")
    def _direction_fits(self) -> Self:
        if (self.metric == "cpu_seconds") != (self.direction == "min"):
            raise ValueError(
                "have direction min for cpu_seconds, max for score and offline. Got "
                f"{self.direction} for {self.metric}"
            )
        return self


class BudgetConfig(Section):
    """When to stop all trials, also those that run; earlier, interrupted commands count.

    What a stopped trial has finished is kept, for the same command with a larger budget.
    """

    hours: Positive | None = None
    """By the clock."""
    cpu_hours: Positive | None = None
    """Of all processes on the machine of the command, or of the command's own and the finished
    artifacts, whichever is more: work that other machines lost is not seen."""


class FinalConfig(Section):
    """The winner's run: students and evaluation episodes that no trial has seen."""

    seeds: Count = 5
    episodes: Count = 20


class SweepConfig(Section):
    """A whole sweep."""

    name: Name
    """Of its folder `<storage>/sweeps/<name>`, and of the final run."""
    base: str = "quickstart"
    """A preset, or a file beside this one."""
    config: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Settings of a run, laid over the base."""
    space: Annotated[dict[str, Domain], Field(min_length=1)]
    """What varies, by dotted key such as `generate.sampler.guidance`."""
    search: SearchConfig
    scheduler: Literal["none", "asha", "median"] = "none"
    """Stops trials early by their objective after each stitching epoch."""
    objective: Annotated[tuple[ObjectiveConfig, ...], Field(min_length=1)] = (
        ObjectiveConfig(),
    )
    """The first one names the winner."""
    budget: BudgetConfig = BudgetConfig()
    concurrent: Count | None = None
    """Trials at once; default: two more than the cluster has workers, at most 16."""
    final: FinalConfig | None = FinalConfig()
    """null leaves the winner's run out."""
    loggers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)

    @field_validator("objective")
    @classmethod
    def _each_once(cls, value: tuple[ObjectiveConfig, ...]) -> tuple[ObjectiveConfig, ...]:
        metrics = [objective.metric for objective in value]
        if len(set(metrics)) != len(metrics):
            raise ValueError(f"name each metric once. Got {', '.join(metrics)}")
        return value
