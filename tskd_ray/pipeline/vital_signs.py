"""Vital signs of a run (D23): what to look at before believing a score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tskd_ray.report.data import EpochCounts, VitalSign

Folders = Mapping[str, Path]
"""Folder of each finished node of the run, by name."""


def vital_signs(folders: Folders, epochs: Sequence[EpochCounts]) -> list[VitalSign]:
    """Every sign that the finished stages allow, each with its threshold."""
    return [*_teacher_signs(folders), *_value_signs(folders), *_stitch_signs(epochs)]


def named(folders: Folders, prefix: str) -> list[str]:
    """Finished nodes whose name is `prefix` and a number, in order."""
    return sorted(
        (name for name in folders if name.startswith(prefix)),
        key=lambda n: int(n.split("-")[1]),
    )


def read_json(folders: Folders, node: str, name: str) -> Any:
    """The JSON part `name` of a node, or None if there is none."""
    if node not in folders:
        return None
    path = folders[node] / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _teacher_signs(folders: Folders) -> list[VitalSign]:
    signs: list[VitalSign] = []
    for name in named(folders, "generate-")[:1]:
        vitals = read_json(folders, name, "vitals")
        if vitals is None:  # an extension's
            continue
        first, inside = vitals["first_step_error"], vitals["interior_step_error"]
        signs.append(
            VitalSign(
                name="Plan: first step out of the history",
                value=first,
                threshold="below 0.3 sd of a true step, nor twice that inside the plan",
                warns=first > 0.3 or first > 2 * max(inside, 0.1),
                meaning=f"inside the plan {inside:.2f}; when far above, train DDR-I longer",
            )
        )
        cut, dropped = vitals["cut_share"], vitals.get("dropped", 0)
        spared = f"; {dropped} dropped, spared what steps cost here" if dropped else ""
        signs.append(
            VitalSign(
                name="Generated episodes cut",
                value=cut,
                threshold="below 0.2",
                warns=cut > 0.2,
                meaning="left the data's box, or the ensemble disagreed; lower the guidance"
                + spared,
            )
        )
    fidelity = read_json(folders, "fidelity", "fidelity")
    if fidelity and "unavailable" not in fidelity:
        bias, error = fidelity["reward_error_bias"], fidelity["step_error_median"]
        claimed, earned = fidelity["claimed_return"], fidelity["replayed_return"]
        signs += [
            VitalSign(
                name="Generated: one-step error against the simulator",
                value=error,
                threshold="below 0.3 sd of a true step",
                warns=error > 0.3,
                meaning="median over sampled steps",
            ),
            VitalSign(
                name="Generated: claimed − true reward, mean per step",
                value=bias,
                threshold="within 0.05 sd of a reward",
                warns=abs(bias) > 0.05 * fidelity["reward_sd"],
                meaning=f"rms {fidelity['reward_error_rms']:.3f}; "
                f"a reward's sd {fidelity['reward_sd']:.2f}",
            ),
            VitalSign(
                name="Generated: replayed over claimed return",
                value=earned / claimed if claimed else None,
                threshold="above 0.05",
                warns=claimed > 0 and earned < 0.05 * claimed,
                meaning=f"{earned:.0f} of {claimed:.0f}, actions played open loop: "
                "small errors grow, so below 1 is normal",
            ),
        ]
    return signs


def _value_signs(folders: Folders) -> list[VitalSign]:
    signs: list[VitalSign] = []
    for name in named(folders, "value-"):
        metrics = read_json(folders, name, "metrics") or {}
        value, truth = metrics["mean_value"], metrics["mean_monte_carlo"]
        ratio = value / truth if truth else None  # nothing was earned anywhere
        signs.append(
            VitalSign(
                name=f"{name}: mean V over Monte-Carlo return",
                value=ratio,
                threshold="0.67 to 1.5",
                warns=ratio is not None and not 0.67 <= ratio <= 1.5,
                meaning=f"{value:.1f} against {truth:.1f}; when far below, fit V longer",
            )
        )
    return signs


def _stitch_signs(epochs: Sequence[EpochCounts]) -> list[VitalSign]:
    signs: list[VitalSign] = []
    for epoch in epochs:
        share = epoch.ends.get("cycle", 0) / max(epoch.trajectories, 1)
        extension = epoch.radius is None  # whose walks end where it says, be it after laps
        if epoch.argmax_recall is not None:
            signs.append(
                VitalSign(
                    name=f"stitch-{epoch.epoch}: approximate search, best neighbours found",
                    value=epoch.argmax_recall,
                    threshold="1: every one",
                    warns=epoch.argmax_recall < 1,
                    meaning="on a sample; for exact hops set stitch.search to auto",
                )
            )
        artificial = epoch.replaced_by_cycle_or_clock / max(epoch.replaced, 1)
        signs += [
            VitalSign(
                name=f"stitch-{epoch.epoch}: hops used by walks",
                value=float(epoch.hops_used),
                threshold="above 0",
                warns=not epoch.hops_used,
                meaning="of an extension's walks"
                if extension
                else f"{epoch.hops_accepted} accepted; when none, raise the radius",
            ),
            VitalSign(
                name=f"stitch-{epoch.epoch}: share of walks that go in circles",
                value=None if extension else share,
                threshold="below 0.2",
                warns=share > 0.2,
                meaning="laps collect predicted rewards; lower the radius",
            ),
            VitalSign(
                name=f"stitch-{epoch.epoch}: replaced by a lap or another's time limit",
                value=artificial,
                threshold="below 0.5 of the replaced",
                warns=artificial > 0.5,
                meaning=f"of {epoch.replaced} replaced trajectories",
            ),
        ]
    return signs
