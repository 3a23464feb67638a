"""A made-up run with all that a report can show; nothing in it was measured."""

from __future__ import annotations

import numpy as np

from tskd_ray.config.schema import Config
from tskd_ray.report.agreement import Agreement
from tskd_ray.report.data import (
    Curve,
    EpochCounts,
    Metrics,
    OfflineRow,
    Panel,
    PlotData,
    ReportData,
    RunRecord,
    Score,
    ScoreRow,
    StageCost,
    VitalSign,
    Walk,
    WalkPart,
)
from tskd_ray.report.projection import project_states


def score(mean: float, error: float, seeds: int = 3) -> Score:
    rng = np.random.default_rng(int(mean * 10))
    values = mean + error * np.sqrt(seeds) * rng.normal(size=seeds)
    return Score(
        mean_return=mean * 32.5,
        return_error=error * 32.5,
        normalized=mean,
        normalized_error=error,
        per_seed=tuple(float(value) for value in values),
    )


def example() -> ReportData:
    rng = np.random.default_rng(0)
    config = Config()
    stages = (
        ("data", 0.8, False),
        ("teacher", 243.0, True),
        ("generate 1", 131.0, False),
        ("stitch 1", 38.0, False),
        ("generate 2", 128.0, False),
        ("stitch 2", 41.0, False),
        ("distill", 62.0, False),
        ("evaluate", 24.0, False),
    )
    run = RunRecord(
        name="example",
        created="2026-01-31T12:00:00Z",
        source=config.data.source,
        environment="Hopper-v5",
        rollout="dynamics",
        seed=0,
        config=config.model_dump(mode="json"),
        versions={"python": "3.11.7", "tskd_ray": "0.1.0", "torch": "2.13.0", "ray": "2.60.0"},
        stages=tuple(
            StageCost(
                name=name,
                wall_seconds=wall,
                cpu_seconds=wall * 1.7,
                cached=cached,
                key=f"{name.replace(' ', '')}-5f0c9a",
            )
            for name, wall, cached in stages
        ),
        compute="Ray, 2 workers",
        wall_seconds=754.0,
    )
    recorded = np.abs(rng.gamma(1.2, 300, 765))
    generated, stitched = rng.normal(1900, 500, 160), rng.normal(2300, 400, 120)
    everything = np.concatenate([recorded, generated, stitched])
    selected = everything[everything > 2300]
    metrics = Metrics(
        scores=(
            ScoreRow(
                name="recorded data",
                final=Score(mean_return=224.0, normalized=7.5),
                episodes=765,
                detail="mean return of the dataset itself",
            ),
            ScoreRow(
                name="plain BC",
                final=score(5.9, 1.1),
                best=score(9.9, 2.2),
                seeds=3,
                episodes=765,
            ),
            ScoreRow(
                name="BC on selected recorded",
                final=score(60.2, 3.0),
                best=score(66.0, 2.6),
                seeds=3,
                episodes=6,
            ),
            ScoreRow(
                name="TSKD student",
                final=score(71.8, 2.1),
                best=score(79.9, 2.0),
                seeds=3,
                episodes=len(selected),
                detail="4 recorded, 31 generated, 88 stitched",
            ),
        ),
        offline=(
            OfflineRow(
                name="plain BC",
                value=61.3,
                low=52.0,
                high=70.1,
                per_seed=(60.0, 61.0, 62.9),
                best_recorded=246.6,
                mean_recorded=74.8,
                share_of_best=0.2486,
            ),
            OfflineRow(
                name="TSKD student",
                value=203.4,
                low=181.8,
                high=223.4,
                per_seed=(200.1, 203.0, 207.1),
                best_recorded=246.6,
                mean_recorded=74.8,
            ),
        ),
        offline_agreement=Agreement(correlation=0.77, low=0.1, high=1.0, pairs=6),
        epochs=tuple(
            EpochCounts(
                epoch=epoch,
                transitions=79_015 + 40_000 * epoch,
                radius=0.73,
                neighbours={"5%": 3.0, "50%": 100.0, "95%": 1490.0},
                hops_accepted=2100 * epoch,
                refused={
                    "no neighbour": 4100,
                    "density": 61_000 + 40_000 * (epoch - 1),
                    "value": 51_815 - 2100 * (epoch - 1),
                },
                hops_used=412,
                trajectories=765,
                replaced=96,
                replaced_by_cycle_or_clock=3,
                ends={"terminated": 700, "truncated": 130, "cycle": 14, "cap": 1},
            )
            for epoch in (1, 2)
        ),
        vital_signs=(
            VitalSign(
                name="first step out of the history",
                value=0.41,
                threshold="below 0.3",
                warns=True,
                meaning="Error of the first planned step, in standard "
                "deviations of a true step. Above 0.3 the plan tears away from its "
                "history: train longer, or use the residual parameterisation.",
            ),
            VitalSign(
                name="step inside the plan",
                value=0.16,
                threshold="below 0.3",
                meaning="The same, for later steps of the plan.",
            ),
            VitalSign(
                name="predicted − replayed return",
                value=None,
                meaning="Not measured: no environment at hand.",
            ),
            VitalSign(
                name="mean V / Monte-Carlo return",
                value=0.93,
                threshold="0.7 to 1.3",
                meaning="Far below 1, the value function is under-trained.",
            ),
        ),
        survivors={"recorded": 4, "generated": 31, "stitched": 88},
        warnings=("First step out of the history: 0.41 sd of a true step.",),
    )
    steps = tuple(float(step) for step in range(0, 4500, 50))
    x = np.array(steps)

    def curve(name: str, scale: float) -> Curve:
        noise = rng.normal(0, 0.03, len(x))
        values = scale * (0.05 + np.exp(-x / 600)) * np.exp(noise)
        return Curve(name=name, x=steps, y=tuple(float(value) for value in values))

    states = np.concatenate(
        [rng.normal(size=(6000, 11)), rng.normal(0.6, 0.7, size=(2000, 11))]
    )
    states[:, 1] += 2.5 * np.sin(states[:, 0] * 1.5)
    states[:, 2] += 3 * states[:, 0]
    origin = np.repeat([0, 1, 2], [6000, 1500, 500]).astype(np.int8)
    hops = rng.integers(0, 8000, size=(60, 2))
    evaluation = Panel(
        title="Student score by checkpoint",
        y_label="normalized score",
        curves=tuple(
            Curve(
                name=name,
                x=(1000.0, 2000.0, 3000.0, 4000.0, 5000.0),
                y=tuple(height * f for f in (0.5, 0.8, 0.95, 1.05, 1.0)),
                error=(2.0,) * 5,
            )
            for name, height in (
                ("plain BC", 6.0),
                ("BC on selected recorded", 60.0),
                ("TSKD student", 72.0),
            )
        ),
    )
    panels = (
        Panel(
            title="Teacher",
            log_y=True,
            curves=(
                curve("DDR-I", 1),
                curve("DDR-II", 0.4),
                curve("inverse dynamics", 0.2),
                curve("transition", 0.1),
            ),
        ),
        evaluation,
    )
    return ReportData(
        run=run,
        metrics=metrics,
        plots=PlotData(
            returns={
                "recorded": tuple(recorded.tolist()),
                "generated": tuple(generated.tolist()),
                "stitched": tuple(stitched.tolist()),
                "selected": tuple(selected.tolist()),
            },
            panels=panels,
            projection=project_states(states, origin, hops),
            walks=(_walk(1, (40, 7, 73), 2310.0), _walk(12, (120,), 1640.0)),
        ),
    )


def _walk(rank: int, lengths: tuple[int, ...], before: float) -> Walk:
    """Parts of these lengths, in turn recorded and generated, along a spiral."""
    firsts = np.cumsum((0, *lengths))
    steps = np.arange(firsts[-1] + 1)
    ends = len(lengths) > 1
    return Walk(
        rank=rank,
        of=120,
        before=before,
        parts=tuple(
            WalkPart(
                episode=100 * rank + number,
                origin=number % 2,
                first=int(first),
                source_step=5 * number,
                steps=length,
            )
            for number, (first, length) in enumerate(zip(firsts[:-1], lengths, strict=True))
        ),
        hops=tuple(int(first) - 1 for first in (firsts[1:-1] if ends else firsts[1:])),
        steps=tuple(steps.tolist()),
        values=tuple((100 + 50 * np.sin(steps / 17)).round(3).tolist()),
        claimed=tuple((3.0 * steps).tolist()),
        places=tuple(
            (round(float(step * np.cos(step / 9)) / 40, 3), round(float(step) / 40, 3))
            for step in steps
        ),
    )
