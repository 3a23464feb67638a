"""What every exported file says of where it comes from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tskd_ray.models.policy import Policy
from tskd_ray.report.data import RunRecord

LICENSE = "Apache-2.0"
"""Of the code in exported files; the weights follow the terms of the data."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """Names that come from users are made harmless for any comment or table."""

    key: str  # of the artifact that the policy is from
    dataset: str
    environment: str
    seed: int  # the run's
    student_seed: str

    @classmethod
    def of(cls, run: RunRecord, policy: Policy) -> Description:
        """Of a run's policy; equal for runs that share it, whatever their names."""
        keys = {stage.name: stage.key for stage in run.stages}
        source = run.source
        if source.startswith(("/", "~", ".")):
            source = Path(source).name  # where it lay is nobody else's business
        return cls(
            key=harmless(keys.get("students-tskd") or "unknown"),
            dataset=harmless(source),
            environment=harmless(run.environment or "unknown"),
            seed=run.seed,
            student_seed=harmless(str(policy.details.get("seed", "unknown"))),
        )

    def items(self) -> dict[str, str]:
        """Name to value, in a fixed order."""
        return {
            "key": self.key,
            "dataset": self.dataset,
            "environment": self.environment,
            "seed": str(self.seed),
            "student_seed": self.student_seed,
            "license_of_the_code": LICENSE,
        }


def harmless(text: str) -> str:
    """`text` without what could end a comment of C, a cell of Markdown or a line."""
    return re.sub(r"[^A-Za-z0-9 _.,:;=+%()/-]", "_", text)[:200]
