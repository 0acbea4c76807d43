"""The figures of a ladder's stages: their curves, their gradients' norms, and their effects."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from conf.schema import ReportConf
from reports import drawing
from reports.arm import Arm
from reports.compare import Comparison
from reports.curves import Band
from reports.drawing import Curve, Picture, Row, band, by_step, curves, cut, rows
from reports.formats import number, signed, times
from reports.ladders import Group
from reports.palette import BAD, GREY, INK, MUTED, Look
from reports.reference import guide_log
from reports.statistics import Estimate
from reports.verdicts import Verdict
from runner.record import Status

# A report with more panels is hard to read; the tables and files still hold every stage.
MOST_STAGES = 24
# Evaluations up to which each is a mark; more are a line.
MOST_MARKS = 12
# What a curve can show: its axis, and whether that is logarithmic.
QUANTITIES = {"loss": ("loss, nats/token", ""), "grad_norm": ("L2 norm", "y")}
# The figures of all stages' curves: title, the columns on both axes, and the x axis' label.
ALL_STAGES = {
    "loss-steps": ("Loss against steps", "step", "loss", "optimizer step"),
    "loss-tokens": ("Loss against tokens", "tokens_seen", "loss", "tokens seen"),
    "loss-seconds": (
        "Loss against seconds", "seconds", "loss", "seconds of training, compilation apart",
    ),
    "gradient-norms": ("Gradient norm before clipping", "step", "grad_norm", "optimizer step"),
}  # fmt: skip
AGAINST_GUIDE = {"guide-loss": ("Loss", "loss"), "guide-norm": ("Gradient norm", "grad_norm")}


class Painter:
    """Draws the figures of one group of comparable runs.

    `busy` says that the machine was busy or shared, for the head of each figure of speeds.
    """

    def __init__(self, group: Group, look: dict[str, Look], busy: bool) -> None:
        self.look = look
        self.notice = "the machine was not always free" if busy else ""
        self.stages = [stage for stage in group.ladder if stage.arm.curves][:MOST_STAGES]
        self._baseline = group.baseline
        self._numbered = len({stage.number for stage in self.stages}) == len(self.stages)
        norms = [run.clip_grad_norm for run in group.runs]
        self._threshold = min((norm for norm in norms if pd.notna(norm)), default=None)

    def loss_limits(self) -> tuple[float, float]:
        """The one axis of the stages' losses."""
        return drawing.loss_limits([stage.arm for stage in self.stages])

    def long(self, stage: Comparison, length: int = 23) -> str:
        """A stage beside its row or above its panel."""
        return cut(f"{stage.number} {stage.title}" if self._numbered else stage.name, length)

    def stage_panels(self) -> list[Picture]:
        """A panel a stage on common axes: its loss, the baseline's behind it, both intervals."""
        last = [curve["step"].iloc[-1] for stage in self.stages for curve in stage.arm.curves]
        return [self._panel(stage, max(*last, 1.0)) for stage in self.stages]

    def _panel(self, stage: Comparison, steps: float) -> Picture:
        arm, look, base = stage.arm, self.look[stage.stage], self._baseline
        (low, high), said = self.loss_limits(), [f"{stage.name} {_span(arm)}"]
        with drawing.blank(2.9) as figure:
            axes = figure.add_axes((0.095, 0.17, 0.80, 0.68))
            if base and base is not stage and base.arm.curves:
                behind = band(base.arm.curves, "step", "loss")
                axes.plot(behind.x, behind.y, color=GREY, linewidth=1.3)
                _interval(axes, steps * 1.045, base.arm, GREY)
                said.append(f"{base.name} {_span(base.arm)}")
            Curve(stage.name, look, band(arm.curves, "step", "loss")).draw(axes)
            held_out = pd.DataFrame(arm.evaluations).mean().sort_index()
            few = len(held_out) <= MOST_MARKS
            style, colour = ("D", look.hex) if few else ("-", INK)
            axes.plot(held_out.index - 1, held_out, style, color=colour, ms=3.5, lw=1.1)
            _interval(axes, steps * 1.085, arm, look.hex)
            for run in (run for run in arm.runs if run.status == Status.diverged):
                at, place = (run.diverged_at, high), (8, 8 - 12 * len(said))
                said.append(f"diverged at step {run.diverged_at:.0f}")
                axes.plot(*at, "X", color=BAD, markersize=9, clip_on=False)
                text = axes.annotate(said[-1], at, place, textcoords="offset points", va="top")
                text.set_color(BAD)
            limits = {"xlim": (-0.02 * steps, steps * 1.11), "ylim": (low, high)}
            axes.set(xlabel="step", ylabel=QUANTITIES["loss"][0], **limits)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.set_title(self.long(stage, 30), color=INK, fontweight="bold")
            axes.set_title(_span(arm), loc="right", color=MUTED)
            alt = f"Loss against steps: {'; '.join(said)}."
            return drawing.picture(figure, f"stage-{drawing.slug(stage.name)}", alt)

    def _curves(self, of: Callable[[Arm], Band | None]) -> list[Curve]:
        """A curve of each stage that has one, labelled with its number or name."""
        found = [
            (s, of(s.arm), str(s.number) if self._numbered else cut(s.name, 12))
            for s in self.stages
        ]
        return [Curve(s.name, self.look[s.stage], each, end) for s, each, end in found if each]

    def all_stages(self, name: str) -> Picture:
        """The curves of all stages; `name` is a key of ALL_STAGES."""
        title, x, y, label = ALL_STAGES[name]
        axis, log = QUANTITIES[y]
        drawn = self._curves(lambda arm: band(arm.curves, x, y))
        limits, level = (self.loss_limits(), None) if y == "loss" else (None, self._threshold)
        log, notice = log + "x" * (x != "step"), self.notice * (x == "seconds")
        return curves(name, (title, label, axis), drawn, log, limits, level, notice)

    def evaluations(self) -> list[Picture]:
        """The held-out loss and HellaSwag over the run, where stages have enough of them."""
        x, found = "steps trained for", []
        if drawn := self._curves(lambda arm: by_step(arm.evaluations)):
            found.append(curves("held-out", ("Held-out loss", x, QUANTITIES["loss"][0]), drawn))
        if drawn := self._curves(lambda arm: by_step(map(_hellaswag, arm.measured))):
            labels = "HellaSwag, by the mean loss of an ending", x, "% of the items; dashed: chance"
            found.append(curves("hellaswag", labels, drawn, level=25.0))
        return found

    def row(self, stage: Comparison, found: Estimate, text: str, is_claim: bool = True) -> Row:
        """A stage's row in a figure."""
        colour = self.look[stage.stage].hex
        return Row(self.long(stage), stage.name, found, colour, text, is_claim)

    def spread(self, stage: Comparison, values: Sequence[pd.Series]) -> Row:
        """A stage's row: the median of the values that are above zero, and 5 to 95% of them."""
        every = pd.concat(values)
        shown = every[every.between(0, math.inf, inclusive="neither")]
        low, middle, high = shown.quantile([0.05, 0.5, 0.95])
        return self.row(stage, Estimate(middle, low, high), number(middle, ",.3g"))

    def norm_spread(self) -> Picture:
        """The gradient norms of each stage: median and spread."""
        drawn = [self.spread(s, [c["grad_norm"] for c in s.arm.curves]) for s in self.stages]
        labels = "Its median, and 5 to 95% of the steps", QUANTITIES["grad_norm"][0]
        return rows("norm-spread", labels, drawn, log=True, level=self._threshold)

    def against_guide(self, name: str, stage: Comparison) -> Picture:
        """The guide's published losses or norms, over this stage's; a key of AGAINST_GUIDE."""
        (title, y), published = AGAINST_GUIDE[name], guide_log()
        (axis, log), dashed = QUANTITIES[y], Look(INK, drawing.DASHED)
        # Of a longer run only as many steps, else the guide's could not be seen.
        ours = band(stage.arm.curves, "step", y, most=len(published))
        drawn = [
            Curve("the guide's published run", dashed, band([published], "step", y)),
            Curve(f"{stage.name} here", self.look[stage.stage], ours),
        ]
        return curves(name, (title, "optimizer step", axis), drawn, log)


def effects(painter: Painter, verdicts: Mapping[str, Verdict], rules: ReportConf) -> list[Picture]:
    """Each stage's difference in loss and its speed-up, against its reference."""
    losses, speeds, found = [], [], []
    for stage in painter.stages:
        if loss := stage.versus.loss:
            is_claim = verdicts[stage.name].outcome is not None
            losses.append(painter.row(stage, loss, signed(loss.value), is_claim))
        if speed := stage.versus.speed:
            speeds.append(painter.row(stage, speed.estimate, times(speed), not speed.doubt))
    if losses:
        labels = "Held-out loss against the stage below", "nats/token; grey: within the margin"
        found.append(rows("effect-loss", labels, losses, margin=rules.margin))
    if speeds:
        labels = "Speed against the stage below", "times the tokens/s"
        found.append(rows("effect-speed", labels, speeds, level=1, notice=painter.notice))
    return found


def _interval(axes: Axes, x: float, arm: Arm, colour: str) -> None:
    """The interval from worst to best loss as a capped line at the right."""
    (line,) = axes.plot([x, x], [arm.mean("worst"), arm.mean("best")], color=colour, lw=2.6)
    line.set(marker="_", markersize=7, solid_capstyle="butt")


def _hellaswag(run: Any) -> pd.Series:
    """The accuracy by the mean loss of an ending, in percent, by step."""
    return pd.Series({each.step: 100 * each.acc_norm for each in run.hellaswag}, dtype=float)


def _span(arm: Arm) -> str:
    ends = arm.mean("worst"), arm.mean("best")
    return " → ".join(number(end, ".2f" if end < 1000 else ".0e") for end in ends)
