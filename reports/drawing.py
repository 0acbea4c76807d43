"""How the report's figures are drawn by matplotlib: curves over steps, and values in rows."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

from reports.arm import Arm
from reports.curves import Band, thin
from reports.formats import number
from reports.palette import BAD, GRID, INK, LINE, MUTED, Look
from reports.statistics import Estimate

STYLE = Path(__file__).with_name("style.mplstyle")
COLOURS: Any = {
    **dict.fromkeys(("text.color", "legend.labelcolor"), INK),
    **dict.fromkeys(("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), MUTED),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), LINE),
    "grid.color": GRID,
}
DASHED = (0, (3, 2))
CHARACTER = 0.0155  # of a row's texts, as a share of the width
# Differences in loss span two orders of magnitude: up to this one the axis is linear.
LINEAR_NATS = 0.1


@dataclass(frozen=True)
class Picture:
    """A figure as a whole SVG file on white paper; `alt` says its labels and numbers."""

    name: str
    alt: str
    svg: bytes


def picture(figure: Figure, name: str, alt: str) -> Picture:
    """Render a figure, under the style in which it was drawn."""
    svg = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return Picture(name, alt, svg.getvalue())


@contextmanager
def blank(height: float) -> Iterator[Figure]:
    """An empty figure of the page's width and this height in inches, in the report's style."""
    with matplotlib.rc_context(COLOURS, fname=STYLE):
        yield Figure(figsize=(5.0, height))


@dataclass(frozen=True)
class Curve:
    """A band to be drawn; `end` is a label at its end."""

    name: str
    look: Look
    band: Band
    end: str = ""

    @property
    def last(self) -> tuple[float, float]:
        """Its last finite point, or its first point where there is none."""
        at = max(np.flatnonzero(np.isfinite(self.band.y)), default=0)
        return self.band.x[at], self.band.y[at]

    def draw(self, axes: Axes) -> None:
        """The curve with its range shaded; a single point as a dot."""
        found, colour, dash = self.band, self.look.hex, self.look.dash
        if np.any(found.high > found.low):
            # A spike of one step is narrower than a pixel where a point stands for several.
            style: Any = {"color": colour, "alpha": 0.16, "linewidth": 0.8 * found.thinned}
            axes.fill_between(found.x, found.low, found.high, **style)
        (line,) = axes.plot(found.x, found.y, color=colour, linestyle=dash, label=self.name)
        line.set_marker("o" if len(found.x) == 1 else "")


def curves(
    name: str,
    labels: tuple[str, str, str],
    drawn: Sequence[Curve],
    log: str = "",
    limits: tuple[float, float] | None = None,
    level: float | None = None,
    notice: str = "",
) -> Picture:
    """A figure of curves, with a legend where none has a label; `labels` are title, x and y.

    `log` names the logarithmic axes, `limits` are those of y, and `level` is a dashed line.
    """
    with_legend = not any(curve.end for curve in drawn)
    below, right = (
        0.2 * len(drawn) * with_legend,
        0.965 - CHARACTER * max(len(c.end) for c in drawn),
    )
    height = 4.1 + below
    with blank(height) as figure:
        box = 0.105, (0.51 + below) / height, right - 0.105, 3.22 / height
        axes = figure.add_axes(box, xlabel=labels[1], ylabel=labels[2])
        for curve in drawn:
            curve.draw(axes)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        for which in log:
            log_axis(axes, which)
        if limits:
            axes.set_ylim(*limits)
        if level is not None:
            axes.axhline(level, color=BAD, linewidth=1, linestyle=DASHED)
        if with_legend:
            axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.13), frameon=False)
        _label_ends(axes, [curve for curve in drawn if curve.end])
        axes.set_title(labels[0], color=INK, fontweight="bold")
        axes.set_title(notice, loc="right", color=BAD, fontsize=8.5)
        said = [f"{curve.name} {number(curve.last[1], '.3g')}" for curve in drawn]
        return picture(figure, name, f"{labels[0]}: {'; '.join(said)}.")


def _label_ends(axes: Axes, drawn: Sequence[Curve]) -> None:
    """The labels at the ends of the curves, moved apart where they would overlap."""
    gap, near = 0.042, 0.06
    axes.autoscale_view()
    to_axes = axes.transData + axes.transAxes.inverted()
    shown = [curve for curve in drawn if math.isfinite(curve.last[1])]
    ends = [(*to_axes.transform(curve.last)[::-1], curve) for curve in shown]
    ends.sort(key=lambda end: end[:2])
    heights = [min(max(y, 0.02), 0.98) for y, *_ in ends]
    for i in [*range(len(ends) - 1)] * 60:
        overlap = gap - (heights[i + 1] - heights[i])
        if overlap > 0 and abs(ends[i + 1][1] - ends[i][1]) < near:
            heights[i] = max(heights[i] - overlap / 2, 0.02)
            heights[i + 1] = min(heights[i + 1] + overlap / 2, 0.98)
    for height, (_, x, curve) in zip(heights, ends, strict=True):
        text = axes.text(x + 0.012, height, curve.end, transform=axes.transAxes, va="center")
        text.set(color=curve.look.hex, fontweight="bold", fontsize=9)


@dataclass(frozen=True)
class Row:
    """A value with its interval, between a label and a text; hollow where it is no claim."""

    label: str
    name: str
    found: Estimate
    colour: str
    text: str
    is_claim: bool = True


def rows(
    name: str,
    labels: tuple[str, str],
    drawn: Sequence[Row],
    log: bool = False,
    level: float | None = None,
    margin: float | None = None,
    notice: str = "",
    bars: bool = False,
) -> Picture:
    """A figure of rows, the first on top; `labels` are its title and its axis.

    `level` is a dashed line. With `margin` the axis is one of differences in loss, with those that
    are equivalent in grey.
    """
    height = 0.95 + (0.26 if len(drawn) < 16 else 0.2) * len(drawn)
    left = 0.03 + CHARACTER * max(len(row.label) for row in drawn)
    right = 0.97 - CHARACTER * max(len(row.text) for row in drawn)
    with blank(height) as figure:
        figure.text(0.02, 1 - 0.13 / height, labels[0], weight="bold", fontsize=10.5, va="center")
        figure.text(0.02, 1 - 0.3 / height, notice, color=BAD, fontsize=8.5, va="center")
        axes = figure.add_axes((left, 0.55 / height, right - left, (height - 0.95) / height))
        across, said = axes.get_yaxis_transform(), []
        for at, row in enumerate(drawn):
            value, colour, ends = row.found.value, row.colour, [row.found.low, row.found.high]
            if bars:
                axes.barh(at, value, height=0.62, color=colour)
            else:
                axes.plot(ends, [at, at], color=colour, lw=4, alpha=0.5, solid_capstyle="butt")
                face = colour if row.is_claim else "white"
                axes.plot(value, at, "o", color=colour, mew=1.4, mfc=face)
            axes.text(1.03, at, row.text, transform=across, va="center", fontsize=9)
            within = f" ({ends[0]:,.3g} to {ends[1]:,.3g})" if row.found.known else ""
            said.append(f"{row.name} {row.text}{within}")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        if log:
            log_axis(axes, "x")
        if margin is not None:
            axes.axvline(0, color=MUTED, linewidth=1)
            axes.axvspan(-margin, margin, color=GRID, linewidth=0)
            axes.set_xscale("symlog", linthresh=LINEAR_NATS)
            axes.xaxis.set_major_formatter(lambda v, _: f"{v:g}".replace("-", "−"))
        if level is not None:
            axes.axvline(level, color=MUTED, linewidth=1, linestyle=DASHED)
        axes.set_yticks(range(len(drawn)), [row.label for row in drawn], color=INK)
        axes.set_ylim(len(drawn) - 0.5, -0.5)
        axes.set_xlabel(labels[1], loc="right")
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        return picture(figure, name, f"{', '.join(labels)}: {'; '.join(said)}.")


def log_axis(axes: Axes, which: str) -> None:
    """10, 100, 1k instead of powers; 2 and 5 between them where the axis spans little."""
    axes.set(**{f"{which}scale": "log"})
    axis, thousands = (axes.xaxis if which == "x" else axes.yaxis), EngFormatter(sep="")
    low, high = axis.get_view_interval()
    decades = math.log10(high / low) if low > 0 else math.inf
    subs = (1.0,) if decades > 2.5 else (1.0, 2.0, 5.0) if decades > 0.8 else tuple(range(1, 10))
    axis.set_major_locator(LogLocator(subs=subs, numticks=7))
    axis.set_major_formatter(lambda v, _: f"{v:g}" if v < 1000 else thousands.format_eng(v))
    axis.set_minor_locator(NullLocator())


def band(found: Sequence[pd.DataFrame], x: str, y: str, most: int | None = None) -> Band:
    """`y` against `x`, two columns of the steps: the mean over the runs, and their range.

    Of all steps that the runs have in common, or of the first `most`.
    """
    length = min(len(steps[:most]) for steps in found)
    xs, ys = (np.stack([steps[name][:length] for steps in found]) for name in (x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a step where every run diverged
        over_runs = (function(ys, axis=0) for function in (np.nanmean, np.nanmin, np.nanmax))
        return thin(Band(xs.mean(axis=0), *over_runs), log=x != "step")


def by_step(found: Iterable[pd.Series]) -> Band | None:
    """The mean over runs at each step, and their range; None for fewer than three steps."""
    table = pd.DataFrame(list(found)).sort_index(axis=1)
    over_runs = table.agg(["mean", "min", "max"]).to_numpy()
    return Band(table.columns.to_numpy(float), *over_runs) if table.shape[1] > 2 else None


def loss_limits(arms: Sequence[Arm]) -> tuple[float, float]:
    """One axis for all, from the best loss to the worst, but no higher than 1.3 x the first."""
    best, first, worst = (
        [value for arm in arms if math.isfinite(value := arm.mean(column))]
        for column in ("best", "first", "worst")
    )
    low = min(best, default=0.0)
    high = min(max(worst, default=low + 1), 1.3 * max(first, default=math.inf))
    margin = 0.06 * max(high - low, 0.1)
    return low - margin, high + margin


def slug(name: str) -> str:
    """A stage's name as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:60] or "stage"


def cut(text: str, length: int) -> str:
    """The text on one line, with at most so many characters."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
