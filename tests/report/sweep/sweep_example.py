"""A made-up sweep with all that its report can show; nothing in it was measured."""

from __future__ import annotations

import numpy as np

from tskd_ray.config.schema import Config
from tskd_ray.report.sweep.data import FinalRow, SweepRecord, TrialRow

W, RHO, K, SLACK = (
    "generate.sampler.guidance", "stitch.radius.neighbours", "stitch.epochs", "select.slack",
)  # fmt: skip


def sweep_example(trials: int = 64) -> SweepRecord:
    rng = np.random.default_rng(0)
    rows: list[TrialRow] = []
    for number in range(trials):
        w, rho = float(rng.choice([1.2, 1.4, 1.6, 1.8])), int(rng.choice([20, 50, 200]))
        epochs, slack = int(rng.integers(1, 5)), float(rng.integers(50, 101) * 10)
        truth = 70 + 12 * (w - 1.2) - 0.03 * (slack - 500) + 2 * epochs
        truth += 6 * (w > 1.5) * (rho == 50)
        score = truth + rng.normal(scale=3)
        offline = 150 + 0.6 * truth + rng.normal(scale=6)
        rows.append(
            TrialRow(
                number=number,
                settings={W: w, RHO: rho, K: epochs, SLACK: slack},
                state="done",
                score=score,
                score_error=1.0 + abs(rng.normal()),
                offline=offline,
                offline_low=offline - 15,
                offline_high=offline + 12,
                marginal_cpu_seconds=20.0 + 400.0 * (number == 0) + 60.0 * (number % 4 == 0),
                full_cpu_seconds=500.0 + 160.0 * epochs + 20.0 * rng.normal(),
                wall_seconds=40.0,
                keys={"students-tskd": f"students-{number}"},
            )
        )
    best = max(rows, key=lambda row: row.score or 0.0)
    return SweepRecord(
        name="example-sweep",
        objectives=(("score", "maximize"), ("cpu_seconds", "minimize")),
        rollout="dynamics",
        environment="Hopper-v5",
        base=Config().model_dump(mode="json"),
        space={
            W: {"grid": [1.2, 1.4, 1.6, 1.8]},
            RHO: {"grid": [20, 50, 200]},
            K: {"grid": [1, 2, 3, 4]},
            SLACK: {"quniform": [500, 1000, 10]},
        },
        trials=tuple(rows),
        winner=best.number,
        final=FinalRow(
            settings=best.settings,
            run_folder="tskd_storage/runs/example-sweep-final",
            seeds=5,
            episodes=20,
            score=84.2,
            score_error=1.9,
            offline=203.0,
            offline_low=190.0,
            offline_high=214.0,
            sweep_score=best.score,
        ),
        cpu_seconds=2940.0,
        wall_seconds=1800.0,
        single_run_cpu_seconds=720.0,
        artifacts={
            "ddr1": (1, trials),
            "generate": (16, 160),
            "stitch": (48, 160),
            "students": (61, trials),
        },
    )
