"""The report as plain values, for report.json and stages.csv: enums and numbers, no sentence."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np
import pandas as pd

from reports.arm import Versus
from reports.comparison import Comparison
from reports.report import Report
from runner.record import Results, Timings
from stages.ladder import Stage

FORMAT = 2
# The columns of stages.csv that people read.
MAIN = [
    "group", "what", "stage", "title", "status", "finished_runs", "worst", "best", "held_out",
    "tokens_per_second", "against", "outcome", "reference_loss_value", "reference_loss_low",
    "reference_loss_high", "reference_speed_estimate_value", "reference_speed_estimate_low",
    "reference_speed_estimate_high", "seeds_needed", "findings",
]  # fmt: skip
ABOUT = ("what", "stage", "number", "beyond", "title", "aim")
MEANS = [entry.name for kind in (Results, Timings) for entry in fields(kind) if entry.type is float]


def as_json(r: Report, rows: list[dict[str, Any]]) -> str:
    """What report.json holds, given `comparisons`; in nats/token, and speed-ups as ratios."""
    whole = ("rules", "answer", "worth", "beyond", "rates", "alternatives", "busy", "shared")
    found = {
        "format": FORMAT,
        **{name: getattr(r, name) for name in whole},
        "comparisons": rows,
        "plans": [{"plan": plan.name, "rows": [
            {"what": row.what, "against": row.against, **vars(verdict)}
            for row, verdict in zip(plan.rows, plan.verdicts, strict=True)
        ]} for plan in r.plans],
        "problems": r.records.problems,
    }  # fmt: skip
    return dumped(found)


def dumped(found: Any) -> str:
    """Plain values of a report as JSON."""
    compact = (",", ":")
    return json.dumps(plain(found), ensure_ascii=False, allow_nan=False, separators=compact) + "\n"


def as_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The `comparisons` in full precision, with columns such as reference_loss_value."""
    frame = pd.json_normalize(rows, sep="_")
    # A column whose first value is null and whose others are estimates is empty there.
    empty = [c for c in frame if any(str(other).startswith(f"{c}_") for other in frame)]
    return frame.drop(columns=[c for c in empty if frame[c].isna().all()])


def comparisons(r: Report) -> list[dict[str, Any]]:
    """The comparisons; those of group 0, the main ladder, come first; with their verdicts."""
    order = {group.key: number for number, group in enumerate(r.groups)}
    verdicts = {row: vars(v) for p in r.plans for row, v in zip(p.rows, p.verdicts, strict=True)}
    verdicts |= {stage: vars(r.verdicts[stage.name]) for stage in r.main.stages}
    rows = []
    for found in sorted(r.comparisons, key=lambda each: order[each.key]):
        arm = found.arm
        rows.append({
            "group": order[found.key],
            "experiment": found.key[0],
            **{name: getattr(found, name) for name in ABOUT},
            **{k: ",".join(sorted(getattr(found, k))) for k in ("without", "plus", "plans")},
            "typed": json.dumps(found.typed),
            "scale": arm.newest.scale,
            "status": arm.status,
            "seeds": " ".join(str(run.seed) for run in arm.runs),
            "finished_runs": len(arm.finished),
            "runs": " ".join(run.run for run in arm.rounds),
            **{name: arm.mean(name) for name in MEANS},
            "held_out_spread": arm.spread("held_out"),
            "clipped": arm.clipped and arm.clipped[0],
            "not_applied": "; ".join(f"{what}: {why}" for what, why in arm.not_applied.items()),
            "findings": "; ".join(f"{name} ({n})" for name, (n, _) in arm.findings.items()),
            **{name: getattr(found, name) for name in ("against", "same_as", "claimed")},
            "reference": found.versus,
            "baseline": found.baseline,
            **verdicts.get(found, {}),
        })  # fmt: skip
    return [plain(row) for row in rows]


def plain(value: Any) -> Any:
    """Dataclasses as dictionaries, comparisons, stages and runs by their names."""
    match value:
        case Enum():
            return value.value
        case Comparison():
            return value.what
        case Stage():
            return value.name
        case Versus():
            found = {name: getattr(value, name) for name in ("loss", "speed", "at_tokens")}
            return {name: plain(each) for name, each in found.items() if each}
        case np.ndarray():
            return value.tolist()
        case dict():
            return {str(plain(key)): plain(each) for key, each in value.items()}
        case list() | tuple():
            return value.run if hasattr(value, "run") else [plain(each) for each in value]
        case float() if not math.isfinite(value):
            return None
    if is_dataclass(value):
        return {entry.name: plain(getattr(value, entry.name)) for entry in fields(value)}
    return value
