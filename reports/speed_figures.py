"""The pictures of speeds: tokens per second, step times, compilation, and use of the machine."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from reports import formats
from reports.compare import StageRuns
from reports.figures import INK, Painter, blank
from reports.speed import warm
from reports.svg import Picture, picture


def speeds(painter: Painter) -> list[Picture]:
    """Tokens per second, step times, compilation apart, and use of the machine's peak."""
    stages = [stage for stage in painter.stages if stage.finished]
    if not stages:
        return []
    # One machine has one ceiling: the highest product measured in any of the runs.
    peak = max((s.mean.peak_flops for s in stages if s.mean.peak_flops > 0), default=math.nan)
    rates, compilation, use = [], [], []
    for stage in stages:
        rate, speed = stage.mean.tokens_per_second, stage.vs_baseline.speed
        versus = f"  ({formats.times(speed)})" if speed else ""
        rates.append((rate, f"{formats.count(rate)}{versus}"))
        compilation.append(_compilation(stage))
        share = 100 * stage.mean.mfu * stage.mean.peak_flops / peak
        label = formats.number(share, ".0f", "%")
        if math.isfinite(stage.mean.datasheet_mfu):
            label += f"  ({stage.mean.datasheet_mfu:.0%})"
        use.append((share, label))
    title, axis = (
        "Tokens per second, and times the baseline's",
        "tokens/s, median of warm steps",
    )
    found = [_bars(painter, "speed-tokens", title, axis, stages, rates)]
    title, axis = "Step time: median, and 5 to 95% of the steps", "milliseconds a step"
    found.append(
        painter.spread("speed-steps", title, axis, stages, warm, " ms", notice=painter.notice)
    )
    title, axis = "Compilation, once a run", "seconds, in no other figure"
    found.append(_bars(painter, "speed-compile", title, axis, stages, compilation))
    if not math.isnan(peak):
        title, axis = "Model FLOPs use", "% of the highest matrix-product rate measured"
        if any(math.isfinite(stage.mean.datasheet_mfu) for stage in stages):
            title += " (in brackets: of the datasheet's bf16)"
        found.append(_bars(painter, "speed-mfu", title, axis, stages, use))
    return found


def _bars(
    painter: Painter,
    name: str,
    title: str,
    axis: str,
    stages: Sequence[StageRuns],
    cells: Sequence[tuple[float, str]],
) -> Picture:
    """A bar a stage; `cells` are its value and label."""
    values = np.nan_to_num([value for value, _ in cells])
    with blank(0.95 + 0.26 * len(stages)) as figure:
        axes = painter.rows(figure, title, stages, painter.notice)
        looks = [painter.look[stage.name] for stage in stages]
        colours = [look.hex for look in looks]
        bars = axes.barh(range(len(stages)), values, height=0.62, color=colours)
        for at, (bar, look) in enumerate(zip(bars, looks, strict=True)):
            bar.set_gid(f"stage-{look.index}-bar{at}")
        axes.bar_label(bars, [label for _, label in cells], padding=4, color=INK)
        axes.set(xlim=(0, (max(values) or 1.0) * 1.42), xlabel=axis)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        rows = zip(stages, cells, strict=True)
        said = [f"{stage.name} {label}" for stage, (_, label) in rows]
        return picture(
            figure, name, f"{title}: {'; '.join(filter(None, [*said, painter.notice]))}."
        )


def _compilation(stage: StageRuns) -> tuple[float, str]:
    """The longest mean of its compilations, cold and warm apart, and both in words."""
    seconds: dict[str, list[float]] = {"cold": [], "warm": []}
    for run in stage.measured:
        if run.record.compile_cache:
            seconds[run.record.compile_cache].append(run.record.timings.compile_s)
    means = {state: float(np.mean(times)) for state, times in seconds.items() if times}
    if not means:  # not compiled, or recorded before the state of the cache was
        total = stage.timings.compile_s
        return total, f"{total:,.1f} s" if total else "none"
    words = ", ".join(f"{mean:,.1f} s {state}" for state, mean in means.items())
    return max(means.values()), words
