"""Which figures the report has: of a ladder's stages, of their speeds, and of plans."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from conf.schema import Aim
from reports import tables
from reports.arm import Arm
from reports.comparison import Comparison
from reports.curves import Band, thin
from reports.drawing import DASHED, Curve, Picture, Row, blank, curves, in_style, picture, rows
from reports.formats import number, signed, times
from reports.palette import BAD, GOOD, GREY, INK, MUTED, Look, looks
from reports.read import Floats
from reports.reference import guide_log
from reports.report import PlanRuns, Report
from reports.statistics import Estimate
from reports.verdicts import keeps_loss, raises_loss
from reports.worth import Worth

MOST_STAGES = 24  # more panels are hard to read; the tables and files still hold every stage
MOST_MARKS = 12  # evaluations up to which each is a mark; more are a line
FLOOR = 1e-12  # what is drawn of a signal that is smaller, or nothing
STEP, LOSS, NORM = "optimizer step", "training loss, nats/token", "L2 norm"
HELD_OUT = "held-out loss, nats/token"
BETTER = "← lower is better, nats/token"
FASTER = "higher is better →; hollow: no claim"
MOST_RUNS = 10  # up to which each run is a thin line beside its stage's mean


class Painter:
    """Draws the figures of a report; `stages` are those of its main ladder that are shown."""

    def __init__(self, report: Report, look: Mapping[str, Look]) -> None:
        main = report.main
        self.stages = [stage for stage in main.ladder if stage.arm.curves][:MOST_STAGES]
        self._losses = _losses([stage.arm for stage in self.stages])
        self.loss_limits = _with_margin(self._losses)
        self._report, self._look, self._baseline = report, look, main.baseline
        self._places = Counter(stage.number for stage in self.stages if not stage.beyond)
        norms = [run.clip_grad_norm for run in main.runs]
        self._threshold = min((norm for norm in norms if pd.notna(norm)), default=math.nan)

    def differences(self) -> list[Picture]:
        """Each stage's difference in held-out loss from its parent, and its speed-up."""
        losses = [
            self._row(s, loss, signed(loss.value), self._is_decided(s, loss))
            for s in self.stages
            if (loss := s.versus.loss)
        ]
        speeds = [
            self._row(s, speed.estimate, times(speed), speed.is_claim)
            for s in self.stages
            if s.arm.finished and (speed := s.versus.speed)
        ]
        labels = "Held-out loss minus the parent's", f"{BETTER}; hollow: undecided"
        found = rows("effect-loss", labels, losses, margin=self._report.rules.margin)
        return found + rows("effect-speed", ("Tokens/s over the parent's", FASTER), speeds, level=1)

    def plan(self, number: int, plan: PlanRuns) -> list[Picture]:
        """The differences in held-out loss of a plan's runs, and their speed-ups.

        Speeds come first if all its stages are for speed. A long plan has its table alone.
        """
        losses, speeds = [], []
        if len(plan.rows) > tables.MOST_ROWS:
            return []
        for row, verdict in zip(plan.rows, plan.verdicts, strict=True):
            what, colour = f"{row.what} against {row.against}", self._look[row.stage].hex
            if loss := row.versus.loss:
                text, is_claim = signed(loss.value), verdict.is_decided
                losses.append(Row(row.what, what, loss, colour, text, is_claim))
            if speed := row.versus.speed:
                claim, text = speed.is_claim, times(speed)
                speeds.append(Row(row.what, what, speed.estimate, colour, text, claim))
        about = "Held-out loss minus the reference's", f"{BETTER}; hollow: undecided"
        found = rows(f"plan-{number}", about, losses, margin=self._report.rules.margin)
        about = "Tokens/s over the reference's", FASTER
        found += rows(f"plan-{number}-speed", about, speeds, level=1)
        compared = {row.aim for row in plan.rows if row.versus.other}
        return found[::-1] if compared == {Aim.speed} else found

    def worth(self, picture: str, of: Worth) -> list[Picture]:
        """A row for each way to say what a step is worth, and a row a pair of steps."""
        rules, steps, pairs = self._report.rules, [], []
        for step in of.steps:
            stage, title = step.stage, step.stage.about.title
            title = title if stage.beyond else f"{stage.number} {title}"
            for way, change in step.ways.items():
                label, name, title = f"{title} {way.value}", f"{stage.name} {way.value}", ""
                colour, text = self._look[stage.name].hex, signed(change.value)
                steps.append(Row(label, name, change, colour, text, change.above or change.below))
        for each in of.interactions:
            name, change = f"{each.one} and {each.other}", each.change
            colour, is_claim = BAD if change.value > 0 else GOOD, each.p < 1 - rules.confidence
            pairs.append(Row(name, name, change, colour, signed(change.value), is_claim))
        labels = "Change of the held-out loss", f"{BETTER}; hollow: interval includes 0"
        pictures = rows(picture, labels, steps, margin=rules.margin)
        labels = "Two steps together, beyond their sum", f"{BETTER}; filled: significant"
        return pictures + rows(f"{picture}-interactions", labels, pairs, margin=0)

    def rates(self) -> list[Picture]:
        """Held-out losses by learning rate, a dot at the best, up to the highest of the ladder."""
        drawn = []
        for each in self._report.rates:
            name, look = each.stage.name, self._look[each.stage.name]
            x, y = np.array(each.rates), np.array(each.losses)
            drawn.append(Curve(name, look, Band(x, y, y, y), name))
            x, y = x[x == each.best], y[x == each.best]
            drawn.append(Curve(f"{name} at {each.best:g}", look, Band(x, y, y, y)))
        labels = "Held-out loss by learning rate", "learning rate (peak, if scheduled)", HELD_OUT
        losses = [x for each in self._report.rates for x in each.losses if math.isfinite(x)]
        limits = _with_margin(losses, self._losses[1] or math.inf)
        return curves("learning-rates", labels, drawn, "x", limits)

    def settings(self) -> list[Picture]:
        """The training loss of a stage at each of its settings, a figure a stage."""
        found = []
        for sweep in self._report.answer.sweeps:
            shown = [each for each in sweep.rows if each.found.arm.curves][:MOST_STAGES]
            style = looks([(str(number), number, "") for number in range(len(shown))]).values()
            drawn = []
            for each, look in zip(shown, style, strict=True):
                steps = _band(each.found.arm.curves, "step", "loss")
                drawn.append(Curve(tables.settings(each.differs), look, steps))
            limits = _with_margin(_losses([each.found.arm for each in shown]))
            labels = f"{sweep.name} {sweep.title}", STEP, LOSS
            found += curves(f"settings-{sweep.name}", labels, drawn, limits=limits)
        return found

    def panels(self) -> list[Picture]:
        """A panel a stage on common axes: its loss, the baseline's behind it, both intervals."""
        last = [curve["step"].iloc[-1] for stage in self.stages for curve in stage.arm.curves]
        return [self._panel(stage, max(*last, 1.0)) for stage in self.stages]

    @in_style
    def _panel(self, stage: Comparison, steps: float) -> Picture:
        look, base, said = self._look[stage.stage], self._baseline, []
        figure, axes = blank(_cut(self.title(stage), 34), 2.9)
        behind = [base] if base and base is not stage and base.arm.curves else []
        for each, place in zip([stage, *behind], (1.085, 1.045), strict=False):
            ends = [each.arm.mean("worst"), each.arm.mean("best")]
            span = " → ".join(number(end, ".2f" if end < 1000 else ".0e") for end in ends)
            said.append(f"{each.name} {span}")
            style: Any = {"color": self._look[each.stage].hex, "solid_capstyle": "butt"}
            axes.plot([place * steps] * 2, ends, lw=2.6, marker="_", ms=7, **style)
        for each in behind:
            curve = _band(each.arm.curves, "step", "loss")
            axes.plot(curve.x, curve.y, color=GREY, linewidth=1.3)
        Curve(stage.name, look, _band(stage.arm.curves, "step", "loss")).draw(axes)
        held_out = pd.DataFrame(stage.arm.evaluations).mean().sort_index()
        form, colour = ("D", look.hex) if len(held_out) <= MOST_MARKS else ("-", INK)
        axes.plot(held_out.index - 1, held_out, form, color=colour, ms=3.5, lw=1.1)
        for run in (run for run in stage.arm.runs if pd.notna(run.diverged_at)):
            said.append(f"diverged at step {run.diverged_at:.0f}")
            at, offset = (run.diverged_at, self.loss_limits[1]), (8, 20 - 12 * len(said))
            axes.plot(*at, "X", color=BAD, markersize=9, clip_on=False)
            style = {"textcoords": "offset points", "va": "top", "color": BAD}
            axes.annotate(said[-1], at, offset, **style)
        limits = {"xlim": (-0.02 * steps, 1.11 * steps), "ylim": self.loss_limits}
        axes.set(xlabel=STEP, ylabel=LOSS, **limits)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_title(said[0].removeprefix(f"{stage.name} "), loc="right", color=MUTED)
        return picture(figure, f"stage-{stage.name}", "Loss against steps", said)

    def first(self) -> list[Picture]:
        """The training losses of all stages against steps, over the baseline's range."""
        drawn = []
        for curve, stage in self._of_stages(lambda arm: _band(arm.curves, "step", "loss")):
            runs = [_band([steps], "step", "loss") for steps in stage.arm.curves]
            shown = runs if 1 < len(runs) <= MOST_RUNS else []
            band = curve.band  # runs that are drawn are its range
            band = replace(band, low=band.y, high=band.y) if shown else band
            drawn.append(replace(curve, band=band, runs=shown))
        arm = self._baseline and self._baseline.arm
        span = (arm.mean("best"), arm.mean("worst")) if arm and arm.curves else None
        axis = f"{STEP}; grey: the baseline's range" if span else STEP
        axis += "; thin: single seeds" if any(curve.runs for curve in drawn) else ""
        # A spike above where training begins would press together where the curves part.
        firsts = [loss for s in self.stages if math.isfinite(loss := s.arm.mean("first"))]
        limits = _with_margin(self._losses, max([*firsts, *(span or ())], default=math.inf))
        labels = "Loss against steps", axis, LOSS
        return curves("loss-steps", labels, drawn, "", limits, span=span, height=4.9)

    def tokens(self) -> list[Picture]:
        """The losses of all stages against the tokens seen."""
        labels = "Loss against tokens", "tokens seen", LOSS
        drawn = self._steps("tokens_seen", "loss")
        return curves("loss-tokens", labels, drawn, "x", self.loss_limits)

    def norms(self) -> list[Picture]:
        """The gradient norms of all stages; dashed: the threshold for clipping."""
        labels = "Gradient norm before clipping", STEP, NORM
        drawn = self._steps("step", "grad_norm")
        return curves("gradient-norms", labels, drawn, "y", level=self._threshold)

    def evaluations(self) -> list[Picture]:
        """The held-out loss and HellaSwag over the run, where stages have enough of them."""
        x, drawn = "steps trained for", self._curves(lambda arm: _by_step(arm.evaluations))
        found = curves("held-out", ("Held-out loss", x, HELD_OUT), drawn)
        drawn = self._curves(lambda arm: _by_step([_hellaswag(run) for run in arm.measured]))
        labels = "HellaSwag, by the mean loss of an ending", x, "% of the items; dashed: chance"
        return found + curves("hellaswag", labels, drawn, level=25)

    def speeds(self) -> list[Picture]:
        """Each stage's use of the machine's peak, and the losses of all against seconds."""
        stages = [stage for stage in self.stages if stage.arm.finished]
        # One machine has one ceiling: the highest product measured in any of the runs.
        peak = max((p for s in stages if (p := s.arm.mean("peak_flops")) > 0), default=math.nan)
        title, use = "Model FLOPs use", []
        for stage in stages:
            quoted = 100 * stage.arm.mean("datasheet_mfu")
            share = 100 * stage.arm.mean("mfu") * stage.arm.mean("peak_flops") / peak
            text = number(share, ".0f", "%") + f"  ({quoted:.0f}%)" * math.isfinite(quoted)
            use.append(self._row(stage, Estimate(share), text))
            if math.isfinite(quoted):
                title = "Model FLOPs use (in brackets: of the datasheet's bf16)"
        about = title, "% of the fastest matrix product measured, higher is better →"
        found = rows("speed-mfu", about, use if peak > 0 else [], bars=True)
        labels = "Loss against seconds", "seconds of training, without compilation", LOSS
        drawn = self._steps("seconds", "loss")
        return found + curves("loss-seconds", labels, drawn, "x", self.loss_limits)

    def signals(self) -> list[Picture]:
        """What each stage lets through, forward and backward, before the first and last step."""
        found, axes = [], ("layer", "signal; dashed: gradient (1 where it starts)")
        ways = ("signal", "activation", "solid"), ("gradient", "gradient", DASHED)
        for which, at in (("first", 0), ("last", -1)):
            drawn = []
            for what, of, dash in ways:
                for curve in self._curves(partial(_signal, at=at, of=of)):
                    name, look = f"{curve.name} {what}", Look(curve.look.hex, dash)
                    drawn.append(Curve(name, look, curve.band, curve.end * (dash == "solid")))
            found += curves(f"signal-{which}", (f"Before the {which} step", *axes), drawn, "y")
        return found

    def guide(self, stage: Comparison) -> list[Picture]:
        """The guide's published losses and norms, over this stage's."""
        found, guide = [], guide_log()
        of_loss, of_norm = ("Loss", STEP, LOSS), ("Gradient norm", STEP, NORM)
        for y, labels, log in (("loss", of_loss, ""), ("grad_norm", of_norm, "y")):
            # Of a longer run only as many steps, else the guide's could not be seen.
            ours = _band([steps[: len(guide)] for steps in stage.arm.curves], "step", y)
            theirs = Curve("the guide's run", Look(INK, DASHED), _band([guide], "step", y))
            drawn = [theirs, Curve(f"{stage.name} here", self._look[stage.stage], ours)]
            found += curves(f"guide-{y.removeprefix('grad_')}", labels, drawn, log)
        return found

    def _is_decided(self, stage: Comparison, loss: Estimate) -> bool:
        decided, rules = self._report.verdicts[stage.name].is_decided, self._report.rules
        kept_or_not = keeps_loss(loss, rules) or raises_loss(loss, rules)
        return decided or (stage.aim is Aim.speed and kept_or_not)

    def label(self, stage: Comparison) -> str:
        """Its number, as short as a label at a line's end; its name as `title` has it."""
        return str(stage.number) if self._has_place(stage) else _cut(stage.name, 12)

    def title(self, stage: Comparison) -> str:
        """Its number and title; its name where another stage has its number, or it has none."""
        return f"{stage.number} {stage.title}" if self._has_place(stage) else stage.name

    def _has_place(self, stage: Comparison) -> bool:
        """Whether its place on the guide's ladder is its own."""
        return not stage.beyond and self._places[stage.number] == 1

    def _row(self, stage: Comparison, found: Estimate, text: str, is_claim: bool = True) -> Row:
        colour = self._look[stage.stage].hex
        return Row(self.title(stage), stage.name, found, colour, text, is_claim)

    def _steps(self, x: str, y: str) -> list[Curve]:
        return self._curves(lambda arm: _band(arm.curves, x, y))

    def _curves(self, of: Callable[[Arm], Band | None]) -> list[Curve]:
        return [curve for curve, _ in self._of_stages(of)]

    def _of_stages(self, of: Callable[[Arm], Band | None]) -> list[tuple[Curve, Comparison]]:
        """A curve of each stage that has one, labelled with its number or name."""
        return [
            (Curve(stage.name, self._look[stage.stage], band, self.label(stage)), stage)
            for stage in self.stages
            if (band := of(stage.arm))
        ]


def _losses(arms: Sequence[Arm]) -> tuple[float, float]:
    """What one axis shows: from the best loss to the worst, but no higher than 1.3 x the first."""
    best, first, worst = (
        [value for arm in arms if math.isfinite(value := arm.mean(column))] or [0.0]
        for column in ("best", "first", "worst")
    )
    return min(best), min(max(worst), 1.3 * max(first))


def _with_margin(losses: Sequence[float], highest: float = math.inf) -> tuple[float, float]:
    """An axis for losses, of which those above `highest` are cut off."""
    low, high = min(losses, default=0.0), min(max(losses, default=1.0), highest)
    margin = 0.06 * max(high - low, 0.1)
    return low - margin, high + margin


def _band(found: Sequence[pd.DataFrame], x: str, y: str) -> Band:
    """`y` against `x`, two columns of the steps that all runs have."""
    length = min(map(len, found))
    xs, ys = (np.stack([steps[name][:length] for steps in found]) for name in (x, y))
    return thin(_over_runs(xs.mean(axis=0), pd.DataFrame(ys)), log=x != "step")


def _by_step(found: Sequence[pd.Series]) -> Band | None:
    """The values at each step of some runs; None for fewer than three steps."""
    table = pd.DataFrame(found).sort_index(axis=1)
    return _over_runs(table.columns.to_numpy(float), table) if table.shape[1] > 2 else None


def _over_runs(x: Floats, table: pd.DataFrame) -> Band:
    """The mean over the runs, a row each, and their range."""
    return Band(x, table.mean().to_numpy(), table.min().to_numpy(), table.max().to_numpy())


def _signal(arm: Arm, at: int, of: str) -> Band | None:
    """Activations by layer, or gradients from the last layer to the first; each 1 at its start.

    Geometric means over the runs, from the first or last look of each that saw layers and a step
    taken. Without the last layer: that is the norm before the head, which changes only their size.
    """
    order, found = (1 if of == "activation" else -1), []
    for run in arm.runs:
        seen = [look for look in run.looks if len(look.layers) > 2 and look.step_norm is not None]
        for look in seen[at:][:1]:
            found.append([getattr(layer, of) for layer in look.layers[:-1]][::order])
    if not found:
        return None
    values = np.array(found, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.nan_to_num(values / values[:, :1], posinf=0).clip(FLOOR)
    y = np.exp(np.log(shares).mean(axis=0))
    return Band(np.arange(1.0, len(y) + 1)[::order], y, y, y)


def _hellaswag(run: Any) -> pd.Series:
    """The accuracy by the mean loss of an ending, in percent, by step."""
    return pd.Series({each.step: 100 * each.acc_norm for each in run.hellaswag}, dtype=float)


def _cut(text: str, length: int) -> str:
    """The text on one line, with at most so many characters."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
