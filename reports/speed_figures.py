"""The figures of speeds: tokens per second, step times, compilation, and use of the machine."""

from __future__ import annotations

import math

import numpy as np

from reports.compare import Comparison
from reports.drawing import Picture, rows
from reports.figures import Painter
from reports.formats import count, number, times
from reports.statistics import Estimate


def speeds(painter: Painter) -> list[Picture]:
    """Tokens per second, step times, compilation apart, and use of the machine's peak."""
    stages, notice = [stage for stage in painter.stages if stage.arm.finished], painter.notice
    if not stages:
        return []
    # One machine has one ceiling: the highest product measured in any of the runs.
    peak = max((p for s in stages if (p := s.arm.mean("peak_flops")) > 0), default=math.nan)
    rates, steps, compilation, use = [], [], [], []
    for stage in stages:
        arm, speed = stage.arm, stage.baseline.speed
        rate, quoted = arm.mean("tokens_per_second"), 100 * arm.mean("datasheet_mfu")
        share = 100 * arm.mean("mfu") * arm.mean("peak_flops") / peak
        versus, of_datasheet = f"  ({times(speed)})" * bool(speed), f"  ({quoted:.0f}%)"
        rates.append(painter.row(stage, Estimate(rate), count(rate) + versus))
        text = number(share, ".0f", "%") + of_datasheet * math.isfinite(quoted)
        use.append(painter.row(stage, Estimate(share), text))
        steps.append(painter.spread(stage, [c["step_ms"][c["warm"]] for c in arm.curves]))
        seconds, words = _compilation(stage)
        compilation.append(painter.row(stage, Estimate(seconds), words))
    labels = "Tokens per second, and times the baseline's", "tokens/s, median of warm steps"
    found = [rows("speed-tokens", labels, rates, notice=notice, bars=True)]
    labels = "Step time: median, and 5 to 95% of the steps", "milliseconds a step"
    found.append(rows("speed-steps", labels, steps, log=True, notice=notice))
    labels = "Compilation, once a run", "seconds, in no other figure"
    found.append(rows("speed-compile", labels, compilation, notice=notice, bars=True))
    if not math.isnan(peak):
        title, axis = "Model FLOPs use", "% of the highest matrix-product rate measured"
        if any(math.isfinite(stage.arm.mean("datasheet_mfu")) for stage in stages):
            title += " (in brackets: of the datasheet's bf16)"
        found.append(rows("speed-mfu", (title, axis), use, notice=notice, bars=True))
    return found


def _compilation(stage: Comparison) -> tuple[float, str]:
    """The longest mean of its compilations, cold and warm apart, and both in words."""
    seconds = {
        state: [run.compile_s for run in stage.arm.measured if run.compile_cache == state]
        for state in ("cold", "warm")
    }
    means = {state: float(np.mean(found)) for state, found in seconds.items() if found}
    words = ", ".join(f"{mean:,.1f} s {state}" for state, mean in means.items())
    return max(means.values(), default=0.0), words or "none"
