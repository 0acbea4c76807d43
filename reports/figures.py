"""The report's pictures: what is drawn, each once, by matplotlib."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter
from pandas import Series

from reports.compare import Group, StageRuns
from reports.curves import Band, thin
from reports.palette import THEME, Look
from reports.read import Floats, ReadRun
from reports.reference import guide_log
from reports.svg import Picture, picture
from runner.record import Results, Status

STYLE = Path(__file__).with_name("style.mplstyle")
INK, MUTED, LINE, GRID, BAD, GREY = (
    THEME[name][0] for name in ("ink", "muted", "line", "grid", "bad", "baseline")
)
COLOURS: Any = {
    **dict.fromkeys(("text.color", "legend.labelcolor"), INK),
    **dict.fromkeys(("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), MUTED),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), LINE),
    "grid.color": GRID,
}
# A report with more panels is hard to read; the tables and files still hold every stage.
MOST_STAGES = 24
# Spikes that a picture's text names, of those that it marks.
MOST_SPIKES = 5
# Evaluations up to which each is a mark; more are a line.
MOST_MARKS = 12
WIDTH = 5.0
DASHED = (0, (3, 2))
# What a curve can show: its axis.
QUANTITIES = {"loss": "loss, nats/token", "grad_norm": "L2 norm"}
# The figures of all stages' curves: title, and the columns on both axes with the x axis' label.
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

    `disturbed` says that the machine was busy or shared, for the head of each figure of speeds.
    """

    def __init__(self, group: Group, look: dict[str, Look], disturbed: str) -> None:
        self.group = group
        self.look = look
        self.notice = "the machine was not always free" if disturbed else ""
        drawable = [s for s in group.ladder if any(len(run.curve.step) for run in s.runs)]
        self.stages = drawable[:MOST_STAGES]
        numbers = [stage.number for stage in self.stages]
        self.numbered = len(set(numbers)) == len(numbers)
        set_to = [run.settings.clip_grad_norm for run in group.runs]
        self.threshold = min((norm for norm in set_to if norm is not None), default=None)

    def short(self, stage: StageRuns) -> str:
        """A stage at the end of its curve."""
        return str(stage.number) if self.numbered else cut(stage.name, 8)

    def long(self, stage: StageRuns, length: int = 23) -> str:
        """A stage beside its row or above its panel."""
        return cut(f"{self.short(stage)} {stage.title}" if self.numbered else stage.name, length)

    def band(self, stage: StageRuns, x: str, y: str, most: int | None = None) -> Band:
        """`y` against `x`, two columns of the steps: the mean over the runs, and their range.

        Of all steps, or of the first `most`.
        """
        curves = [run.curve for run in stage.measured if len(run.curve.step)]
        length = min(len(curve.step[:most]) for curve in curves)
        xs, ys = (np.stack([getattr(c, column)[:length] for c in curves]) for column in (x, y))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a step where every run diverged
            over_runs = (function(ys, axis=0) for function in (np.nanmean, np.nanmin, np.nanmax))
            return thin(Band(xs.mean(axis=0), *over_runs), log=x != "step")

    def over_evaluations(
        self, stages: Sequence[StageRuns], of: Callable[[ReadRun], Series]
    ) -> dict[str, Band]:
        """What was measured at each evaluation, by step, of the stages with more than two."""
        bands = {}
        for stage in stages:
            found = pd.concat([of(run) for run in stage.measured])
            over_runs = found.groupby(level=0).agg(["mean", "min", "max"])
            if len(over_runs) > 2:
                bands[stage.name] = Band(over_runs.index.to_numpy(), *over_runs.to_numpy().T)
        return bands

    def loss_limits(self) -> tuple[float, float]:
        """One axis for all, from the best loss to the worst, but no higher than 1.3 x the first."""
        best, first, worst = (
            [v for s in self.stages if math.isfinite(v := getattr(s.mean, name))]
            for name in ("best", "first", "worst")
        )
        low = min(best, default=0.0)
        high = min(max(worst, default=low + 1), 1.3 * max(first, default=math.inf))
        margin = 0.06 * max(high - low, 0.1)
        return low - margin, high + margin

    def stage_panels(self) -> list[Picture]:
        """A panel a stage on common axes: its loss, the baseline's behind, intervals, spikes."""
        last = [max(run.curve.step, default=0) for stage in self.stages for run in stage.runs]
        return [self._panel(stage, max(*last, 1.0)) for stage in self.stages]

    def _panel(self, stage: StageRuns, steps: float) -> Picture:
        look, limits = self.look[stage.name], self.loss_limits()
        baseline = self.group.baseline if self.group.baseline is not stage else None
        with blank(2.9) as figure:
            axes = figure.add_axes((0.095, 0.17, 0.80, 0.68))
            if baseline is not None:
                behind = self.band(baseline, "step", "loss")
                axes.plot(behind.x, behind.y, color=GREY, linewidth=1.3)
                _interval(axes, steps * 1.045, baseline.mean, GREY)
            band = self._draw(axes, stage, self.band(stage, "step", "loss"))
            held_out = pd.concat([run.held_out.curve for run in stage.measured])
            held_out = held_out.groupby(level=0).mean()
            few = len(held_out) <= MOST_MARKS
            axes.plot(held_out.index - 1, held_out, "D" if few else "-", **_mark(look, few))
            _interval(axes, steps * 1.085, stage.mean, look.hex)
            marks = [mark for run in stage.runs for mark in _marks(axes, stage, run, limits[1])]
            axes.set(xlabel="step", ylabel=QUANTITIES["loss"])
            axes.set(xlim=(-0.02 * steps, steps * 1.11), ylim=limits)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.set_title(self.long(stage, 30), color=INK, fontweight="bold")
            worst, best = stage.mean.worst, stage.mean.best
            axes.set_title(f"{worst:.2f} → {best:.2f}", loc="right", color=MUTED)
            alt = f"Loss of {stage.name} ({stage.title}) against steps: {worst:.3f} to {best:.3f}"
            if baseline is not None:
                worst, best = baseline.mean.worst, baseline.mean.best
                alt += f"; the baseline's behind it in grey: {worst:.3f} to {best:.3f}"
            name, alt = f"stage-{slug(stage.name)}", "; ".join([alt, *marks])
            return picture(figure, name, f"{alt}.", axes, {look.index: (band.x, band.y)})

    def _draw(self, axes: Axes, stage: StageRuns, band: Band) -> Band:
        look = self.look[stage.name]
        if np.any(band.high > band.low):
            shade = axes.fill_between(band.x, band.low, band.high, color=look.hex, alpha=0.16)
            # A spike of one step is narrower than a pixel where a point stands for several.
            shade.set(linewidth=0.8 if band.thinned else 0, gid=f"stage-{look.index}-band")
        dash: Any = look.dash
        (line,) = axes.plot(band.x, band.y, color=look.hex, linestyle=dash)
        line.set_gid(f"stage-{look.index}-curve")
        return band

    def all_stages(self, name: str) -> Picture:
        """The curves of all stages; `name` is a key of ALL_STAGES."""
        title, x, y, label = ALL_STAGES[name]
        bands = {stage.name: self.band(stage, x, y) for stage in self.stages}
        clipped = None
        if y == "grad_norm" and self.threshold is not None:
            clipped = (self.threshold, f"clipped above {self.threshold:g}")
        return self._curves(
            name,
            title,
            bands,
            (label, QUANTITIES[y]),
            (x != "step", y == "grad_norm"),
            limits=self.loss_limits() if y == "loss" else None,
            level=clipped,
            notice=self.notice if x == "seconds" else "",
        )

    def evaluations(self) -> list[Picture]:
        """The held-out loss and HellaSwag over the run, where stages have enough of them."""
        found = []
        if bands := self.over_evaluations(self.stages, lambda run: run.held_out.curve):
            axes = "steps trained for", QUANTITIES["loss"]
            found.append(self._curves("held-out", "Held-out loss", bands, axes))
        if bands := self.over_evaluations(self.stages, _hellaswag):
            title = "HellaSwag, by the mean loss of an ending"
            axes = "steps trained for", "% of the items; dashed: chance"
            found.append(self._curves("hellaswag", title, bands, axes, level=(25.0, "")))
        return found

    def _curves(
        self,
        name: str,
        title: str,
        bands: dict[str, Band],
        labels: tuple[str, str],
        log: tuple[bool, bool] = (False, False),
        limits: tuple[float, float] | None = None,
        level: tuple[float, str] | None = None,
        notice: str = "",
    ) -> Picture:
        """Curves of several stages; `labels` and `log` are of both axes, `level` a dashed line."""
        (log_x, log_y), drawn = log, {}
        with blank(4.1) as figure:
            axes = figure.add_axes((0.105, 0.125, 0.835, 0.785))
            for stage in (stage for stage in self.stages if stage.name in bands):
                band = bands[stage.name]
                if (log_x and not np.all(band.x > 0)) or (log_y and not np.any(band.y > 0)):
                    continue
                drawn[stage.name] = self._draw(axes, stage, band)
            axes.set(xlabel=labels[0], ylabel=labels[1])
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            if log_x:
                axes.set_xscale("log")
                _plain_log(axes.xaxis)
            if log_y:
                axes.set_yscale("log")
                _plain_log(axes.yaxis)
            if limits is not None:
                axes.set_ylim(*limits)
            if level is not None:
                at, words = level
                axes.axhline(at, color=BAD, linewidth=1, linestyle=DASHED)
                place: Any = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
                axes.annotate(words, (0.01, at), (0, 4), color=BAD, **place)
            self._end_labels(axes, drawn)
            axes.set_title(title, color=INK, fontweight="bold")
            if notice:
                axes.set_title(notice, loc="right", color=BAD, fontsize=8.5)
            ends = "; ".join(f"{stage} {_final(band)}" for stage, band in bands.items())
            alt = f"{title}, a curve a stage. At the end: {ends}."
            curves = {self.look[stage].index: (band.x, band.y) for stage, band in drawn.items()}
            return picture(figure, name, alt, axes, curves)

    def _end_labels(self, axes: Axes, drawn: dict[str, Band]) -> None:
        """The stages' numbers at the ends of their curves, moved apart where they would overlap."""
        gap, near = 0.042, 0.06
        to_axes = axes.transData + axes.transAxes.inverted()
        axes.autoscale_view()
        ends = []
        for stage in (stage for stage in self.stages if stage.name in drawn):
            band = drawn[stage.name]
            finite = np.flatnonzero(np.isfinite(band.y))
            if len(finite):
                x, y = to_axes.transform((band.x[finite[-1]], band.y[finite[-1]]))
                ends.append((float(y), float(x), stage))
        ends.sort(key=lambda end: end[:2])
        heights = np.clip([y for y, _, _ in ends], 0.02, 0.98)
        for _ in range(60):
            for i in range(len(ends) - 1):
                overlap = gap - (heights[i + 1] - heights[i])
                if overlap > 0 and abs(ends[i + 1][1] - ends[i][1]) < near:
                    heights[i] = max(heights[i] - overlap / 2, 0.02)
                    heights[i + 1] += overlap / 2
        for height, (_, x, stage) in zip(heights, ends, strict=True):
            label = axes.annotate(
                self.short(stage), (x, height), (5, 0),
                xycoords="axes fraction", textcoords="offset points", va="center",
                color=self.look[stage.name].hex, fontweight="bold", fontsize=9,
            )  # fmt: skip
            label.set(gid=f"stage-{self.look[stage.name].index}-end", annotation_clip=False)

    def norm_spread(self) -> Picture:
        """The gradient norms of each stage: median and spread."""
        title, axis = "Its median, and 5 to 95% of the steps", QUANTITIES["grad_norm"]
        norms, threshold = (lambda run: run.curve.grad_norm), self.threshold
        return self.spread("norm-spread", title, axis, self.stages, norms, "", threshold)

    def spread(
        self,
        name: str,
        title: str,
        axis: str,
        stages: Sequence[StageRuns],
        of: Callable[[ReadRun], Floats],
        unit: str = "",
        threshold: float | None = None,
        notice: str = "",
    ) -> Picture:
        with blank(0.95 + 0.26 * len(stages)) as figure:
            axes = self.rows(figure, title, stages, notice)
            said = []
            for at, stage in enumerate(stages):
                values = np.concatenate([of(run) for run in stage.measured])
                values = values[values > 0]
                if not len(values):
                    continue
                low, middle, high = np.percentile(values, [5, 50, 95])
                look = self.look[stage.name]
                reach = axes.plot([low, high], [at, at], color=look.hex, alpha=0.45, linewidth=5)
                reach[0].set_solid_capstyle("butt")
                point = axes.plot(middle, at, "o", color=look.hex, markersize=6)
                for part, artist in (("range", reach[0]), ("middle", point[0])):
                    artist.set_gid(f"stage-{look.index}-{part}{at}")
                said.append(f"{stage.name} {middle:,.3g}{unit} ({low:,.3g} to {high:,.3g})")
            axes.set_xscale("log")
            _plain_log(axes.xaxis)
            if threshold is not None:
                axes.axvline(threshold, color=BAD, linewidth=1, linestyle=DASHED)
            axes.set_xlabel(axis)
            return picture(figure, name, f"{title}: {'; '.join(filter(None, [*said, notice]))}.")

    def rows(
        self, figure: Figure, title: str, stages: Sequence[StageRuns], notice: str = ""
    ) -> Axes:
        """Axes with one row a stage, the first on top, under a title and perhaps a warning."""
        height = figure.get_figheight()
        top = 0.12 if notice else 0.2
        figure.text(0.02, 1 - top / height, title, fontweight="bold", fontsize=10.5, va="center")
        figure.text(0.02, 1 - 0.3 / height, notice, color=BAD, fontsize=8.5, va="center")
        axes = figure.add_axes((0.36, 0.55 / height, 0.61, (height - 0.95) / height))
        axes.set_yticks(range(len(stages)), [self.long(stage) for stage in stages])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(len(stages) - 0.5, -0.5)
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        return axes

    def against_guide(self, name: str, stage: StageRuns) -> Picture:
        """The guide's published losses or norms, over this stage's; a key of AGAINST_GUIDE."""
        title, y = AGAINST_GUIDE[name]
        look, log = self.look[stage.name], guide_log()
        with blank(3.4) as figure:
            axes = figure.add_axes((0.105, 0.15, 0.835, 0.74))
            (published,) = axes.plot(log["step"], log[y], color=INK, linestyle=DASHED)
            published.set(linewidth=1.3, label="the guide's published run")
            # Of a longer run only as many steps, else the guide's could not be seen.
            band = self._draw(axes, stage, self.band(stage, "step", y, most=len(log)))
            axes.plot([], [], color=look.hex, label=f"{stage.name} here")
            if y == "grad_norm":
                axes.set_yscale("log")
                _plain_log(axes.yaxis)
            axes.legend(frameon=False)
            axes.set(xlabel="optimizer step", ylabel=QUANTITIES[y])
            axes.set_title(title, color=INK, fontweight="bold")
            alt = (
                f"{title} of the guide's published run, ending at {log[y].iloc[-1]:.3f}, and of "
                f"{stage.name} here, ending at {_final(band)}."
            )
            return picture(figure, name, alt, axes, {look.index: (band.x, band.y)})


def slug(name: str) -> str:
    """A stage's name as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:60] or "stage"


@contextmanager
def blank(height: float) -> Iterator[Figure]:
    """An empty figure of the page's width and this height in inches, in the report's style."""
    with matplotlib.rc_context(COLOURS, fname=STYLE):
        yield Figure(figsize=(WIDTH, height))


def _interval(axes: Axes, x: float, results: Results, colour: str) -> None:
    """The interval from worst to best loss as a capped line at the right."""
    ends = [results.worst, results.best]
    if all(map(math.isfinite, ends)):
        (line,) = axes.plot([x, x], ends, color=colour, linewidth=2.6, marker="_", markersize=7)
        line.set_solid_capstyle("butt")


def _mark(look: Look, few: bool) -> dict[str, Any]:
    """How evaluations are drawn: each as a mark, or as a line over the training loss."""
    return {"color": look.hex, "markersize": 3.5} if few else {"color": INK, "linewidth": 1.1}


def _hellaswag(run: ReadRun) -> Series:
    """The accuracy by the mean loss of an ending, in percent, by step."""
    found = run.record.hellaswag
    return Series([100 * each.acc_norm for each in found], [each.step for each in found], float)


def _final(band: Band) -> str:
    values = band.y[np.isfinite(band.y)]
    return f"{values[-1]:.3g}" if len(values) else "nothing"


def _marks(axes: Axes, stage: StageRuns, run: ReadRun, top: float) -> Iterator[str]:
    """Spikes as triangles and divergence as a cross, each said in words too."""
    curve, steps = run.curve, stage.spikes.get(run.name, [])
    for number, step in enumerate(steps):
        loss = float(curve.loss[curve.step == step][0])
        axes.plot(step, min(loss, top), "v", color=BAD, markersize=6, clip_on=False)
        if number < MOST_SPIKES:
            yield f"spike to {loss:.2f} at step {step}"
    if len(steps) > MOST_SPIKES:
        yield f"{len(steps) - MOST_SPIKES} more spikes"
    if run.record.status is Status.diverged:
        at = run.record.diverged_at
        at = int(max(curve.step, default=0)) if at is None else at
        axes.plot(at, top, "X", color=BAD, markersize=9, clip_on=False)
        words = f"diverged at step {at}"
        place: Any = {"textcoords": "offset points", "va": "top"}
        axes.annotate(words, (at, top), (8, -4), color=BAD, **place)
        yield words


def _plain_log(axis: Any) -> None:
    """10, 100, 1k instead of powers; 2 and 5 between them where the axis spans little."""
    thousands = EngFormatter(sep="")
    low, high = axis.get_view_interval()
    decades = math.log10(high / low) if low > 0 else math.inf
    subs = (1.0,) if decades > 2.5 else (1.0, 2.0, 5.0) if decades > 0.8 else tuple(range(1, 10))
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(lambda v, _: f"{v:g}" if v < 1000 else thousands.format_eng(v))
    axis.set_minor_formatter(NullFormatter())


def cut(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
