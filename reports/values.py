"""The report as plain values, for report.json and stages.csv: enums and numbers, no sentence."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np
import pandas as pd

from reports.arm import Versus
from reports.compare import Comparison
from reports.report import Report
from runner.record import Results, Timings
from stages.ladder import Stage

FORMAT = 1
MEANS = [entry.name for kind in (Results, Timings) for entry in fields(kind) if entry.type is float]
WHOLE = ("answer", "worth", "rates", "alternatives", "busy", "shared")  # of a report


def as_json(r: Report) -> str:
    """What report.json holds; estimates are in nats/token, speed-ups are ratios."""
    found = {
        "format": FORMAT,
        "rules": asdict(r.rules),
        **{name: _plain(getattr(r, name)) for name in WHOLE},
        "comparisons": _rows(r),
        "plans": [
            {
                "plan": plan.name,
                "rows": [
                    {"what": row.what, "against": row.against, **_plain(verdict)}
                    for row, verdict in zip(plan.rows, plan.verdicts, strict=True)
                ],
            }
            for plan in r.plans
        ],
        "problems": r.records.problems,
    }
    return json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_frame(r: Report) -> pd.DataFrame:
    """A row a comparison, in full precision, with columns such as reference_loss_value."""
    frame = pd.json_normalize(_rows(r), sep="_")
    # A column whose first value is null and whose others are estimates is empty there.
    empty = [c for c in frame if any(str(other).startswith(f"{c}_") for other in frame)]
    return frame.drop(columns=[c for c in empty if frame[c].isna().all()])


def _rows(r: Report) -> list[dict[str, Any]]:
    """The comparisons; those of group 0, the main ladder, come first, with their verdicts."""
    order = {group.key: number for number, group in enumerate(r.groups)}
    found = sorted(r.comparisons, key=lambda each: order[each.key])
    verdicts = {id(stage): _plain(r.verdicts[stage.name]) for stage in r.main.stages}
    return [{"group": order[s.key], **_row(s), **verdicts.get(id(s), {})} for s in found]


def _row(found: Comparison) -> dict[str, Any]:
    arm = found.arm
    return {
        "experiment": found.key[0],
        "what": found.what,
        **{name: _plain(getattr(found, name)) for name in ("stage", "number", "title", "aim")},
        **{name: ",".join(sorted(getattr(found, name))) for name in ("without", "plus", "plans")},
        "typed": json.dumps(found.typed),
        "scale": arm.newest.scale,
        "status": arm.status.value,
        "seeds": " ".join(str(run.seed) for run in arm.runs),
        "finished_runs": len(arm.finished),
        "runs": " ".join(run.run for run in arm.rounds),
        **{name: _plain(arm.mean(name)) for name in MEANS},
        "held_out_spread": _plain(arm.spread("held_out")),
        "clipped": arm.clipped and arm.clipped[0],
        "not_applied": "; ".join(f"{what}: {why}" for what, why in arm.not_applied.items()),
        "findings": "; ".join(f"{name} ({n})" for name, (n, _) in arm.findings.items()),
        **{name: getattr(found, name) for name in ("against", "same_as", "claimed")},
        "reference": _versus(found.versus),
        "baseline": _versus(found.baseline),
    }


def _versus(versus: Versus) -> dict[str, Any]:
    found = {"loss": versus.loss, "speed": versus.speed, "at_tokens": versus.at_tokens}
    return {name: _plain(value) for name, value in found.items() if value}


def _plain(value: Any) -> Any:
    """Dataclasses as dictionaries, comparisons, stages and runs by their names."""
    match value:
        case Enum():
            return value.value
        case Comparison():
            return value.what
        case Stage():
            return value.name
        case np.ndarray():
            return value.tolist()
        case dict():
            return {str(_plain(key)): _plain(each) for key, each in value.items()}
        case list() | tuple():
            return value.run if hasattr(value, "run") else [_plain(each) for each in value]
        case float() if not math.isfinite(value):
            return None
    if is_dataclass(value):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value)}
    return value
