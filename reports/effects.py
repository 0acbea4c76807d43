"""Pictures of differences: each stage's with its interval, and how it depends on the last step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.ticker import FuncFormatter, MaxNLocator

from conf.schema import ReportConf
from reports import formats
from reports.compare import StageRuns
from reports.curves import SMOOTHED_STEPS, Band, difference_curve, last_half, thin
from reports.figures import BAD, DASHED, GRID, INK, MUTED, Painter, blank
from reports.statistics import Estimate
from reports.svg import Picture, picture
from reports.verdicts import FAMILY, Verdict

# Differences in loss span two orders of magnitude: up to this one the axis is linear.
LINEAR_NATS = 0.1


def forest(painter: Painter, verdicts: Mapping[str, Verdict], rules: ReportConf) -> list[Picture]:
    """The differences in loss and the speed-ups of the stages against those below, as intervals."""
    stages = [stage for stage in painter.stages if stage.vs_previous.loss]
    if not stages:
        return []
    losses = [stage.vs_previous.loss for stage in stages]
    speeds = [stage.vs_previous.speed for stage in stages]
    claimed = [verdicts[stage.name].outcome is not None for stage in stages]
    found = [
        _intervals(
            painter,
            "effect-loss",
            "Held-out loss against the stage below",
            "nats/token; grey: within the margin",
            stages,
            losses,
            claimed,
            [formats.signed(e.value) if e else "" for e in losses],
            rules.margin,
        )
    ]
    if any(speeds):
        found.append(
            _intervals(
                painter,
                "effect-speed",
                "Speed against the stage below",
                "times the tokens/s",
                stages,
                [speed.estimate if speed else None for speed in speeds],
                [bool(speed and speed.claims) for speed in speeds],
                [formats.times(speed) for speed in speeds],
            )
        )
    return found


def _intervals(
    painter: Painter,
    name: str,
    title: str,
    axis: str,
    stages: Sequence[StageRuns],
    estimates: Sequence[Estimate | None],
    claimed: Sequence[bool],
    labels: Sequence[str],
    margin: float | None = None,
) -> Picture:
    """A row a stage: a value with its interval; hollow where nothing is claimed."""
    notice = painter.notice if margin is None else ""
    with blank(0.95 + 0.26 * len(stages)) as figure:
        axes = painter.rows(figure, title, stages, notice)
        known = [e for e in estimates if e]
        axes.axvline(known[0].neutral, color=MUTED, linewidth=1)
        if margin is not None:
            axes.axvspan(-margin, margin, color=GRID, linewidth=0)
            axes.set_xscale("symlog", linthresh=LINEAR_NATS)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}".replace("-", "−")))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5))
        said = []
        rows = zip(stages, estimates, claimed, labels, strict=True)
        for at, (stage, found, is_claim, label) in enumerate(rows):
            if found is None:
                continue
            look = painter.look[stage.name]
            if not math.isnan(found.low):
                (line,) = axes.plot([found.low, found.high], [at, at], color=look.hex, alpha=0.6)
                line.set(linewidth=4, gid=f"stage-{look.index}-range{at}")
                line.set_solid_capstyle("butt")
            (point,) = axes.plot(found.value, at, "o", color=look.hex, markersize=6)
            point.set(gid=f"stage-{look.index}-value{at}", markeredgewidth=1.4)
            if not is_claim:
                point.set_markerfacecolor("white")
            axes.annotate(
                label, (1.0, at), (-2, 0), xycoords=axes.get_yaxis_transform(),
                textcoords="offset points", ha="right", va="center", color=INK, fontsize=8.5,
            )  # fmt: skip
            within = f" ({found.low:.3f} to {found.high:.3f})" if not math.isnan(found.low) else ""
            said.append(f"{stage.name} {label}{within}")
        low, high = axes.get_xlim()
        axes.set_xlim(low, high + 0.28 * (high - low) if margin is None else max(high, 0.1) * 8)
        axes.set_xlabel(axis)
        return picture(figure, name, f"{title}: {'; '.join(filter(None, [*said, notice]))}.")


def stops(painter: Painter, rules: ReportConf) -> list[Picture]:
    """For each loss and stability stage, its difference against the step at which one stops."""
    found = [_stop(painter, s, rules) for s in painter.stages if s.aim in FAMILY]
    return [each for each in found if each]


def _stop(painter: Painter, stage: StageRuns, rules: ReportConf) -> Picture | None:
    curve = difference_curve(stage.vs_previous.pairs, rules)
    if curve is None:
        return None
    look, (steps, mean, low, high) = painter.look[stage.name], curve
    with blank(2.6) as figure:
        axes = figure.add_axes((0.115, 0.19, 0.85, 0.65))
        axes.axhline(0, color=MUTED, linewidth=1)
        axes.axvline(last_half(steps), color=MUTED, linewidth=0.8, linestyle=DASHED)
        drawn = thin(Band(steps, mean, low, high))
        axes.fill_between(drawn.x, drawn.low, drawn.high, color=look.hex, alpha=0.18, linewidth=0)
        axes.plot(drawn.x, drawn.y, color=look.hex)
        stop = stage.vs_previous.stop
        if stop:
            axes.plot(stop.step, stop.difference, "v", color=BAD, markersize=7)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set(xlabel="step at which one stops", ylabel="nats/token")
        axes.set_title(painter.long(stage, 26), color=INK, fontweight="bold")
        axes.set_title(f"against {stage.vs_previous.other}", loc="right", color=MUTED)
        alt = (
            f"Training loss of {stage.name} less that of {stage.vs_previous.other}, mean of "
            f"{SMOOTHED_STEPS} steps: {mean[len(mean) // 2]:.3f} half way, {mean[-1]:.3f} at last"
        )
        if stop:
            alt += f"; {stop.difference:.3f} at step {stop.step}, so it depends on when you stop"
        plot = {look.index: (drawn.x, drawn.y)}
        return picture(figure, f"stop-{stage.number}-{look.index}", f"{alt}.", axes, plot)
