"""How the report's figures are drawn by matplotlib: curves over steps, and values in rows."""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator

from reports.curves import Band
from reports.formats import bounds, number, slug
from reports.palette import BAD, GREY, GRID, INK, LINE, MUTED, Look
from reports.read import Floats
from reports.statistics import Estimate

COLOURS: Any = {
    **{"text.color": INK, "axes.edgecolor": LINE, "grid.color": GRID},
    **dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color"), MUTED),
}
# A decorator: matplotlib reads the style when it makes a figure and again when it saves it.
in_style = matplotlib.rc_context(COLOURS, fname=Path(__file__).with_name("style.mplstyle"))
DASHED = (0, (3, 2))
CHARACTER = 0.0145  # of a label, as a share of the width
LINEAR_NATS = 0.1  # differences in loss span orders of magnitude; up to this one it is linear
LOG = " (log scale)"
LABEL = 26  # characters of a row's label on one line
PATH = re.compile(rb' d="[^"]*"')
PLACES = re.compile(rb"(\.\d)\d+")  # a tenth of a point is enough for the numbers of a path
MOST_LABELS = 12  # characters of the labels of one line, to which none is added
COINCIDE = 0.004  # of the range of all curves: what is closer everywhere is drawn as one line


@dataclass(frozen=True)
class Picture:
    """A figure as a whole SVG file on white paper; `alt` says its labels and numbers."""

    name: str
    alt: str
    svg: bytes


def blank(
    title: str, height: float, left: float = 0.14, right: float = 0.965, below: float = 0.5
) -> tuple[Figure, Axes]:
    """A figure of the page's width with axes; `height` and `below` are in inches."""
    figure = Figure((5.0, height))
    figure.suptitle(title, x=0.02, y=1 - 0.27 / height, ha="left", va="baseline")
    box = left, below / height, right - left, 1 - (below + 0.37) / height
    return figure, figure.add_axes(box)


def picture(figure: Figure, name: str, title: str, said: Iterable[str]) -> Picture:
    """Render a figure; `said` is what it shows."""
    svg = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return Picture(slug(name), f"{title}: {'; '.join(said)}.", PATH.sub(_shorter, svg.getvalue()))


def _shorter(path: re.Match[bytes]) -> bytes:
    """A path with rounded numbers, and without the letter of a line that follows a line."""
    rounded = PLACES.sub(rb"\1", path[0])
    return rounded if re.search(rb"[CQ]", rounded) else rounded.replace(b" \nL ", b" ")


@dataclass(frozen=True)
class Curve:
    """A band to be drawn, its range shaded; `end` is a label at its end, `runs` are thin lines."""

    name: str
    look: Look
    band: Band
    end: str = ""
    runs: Sequence[Band] = ()

    @property
    def last(self) -> tuple[float, float]:
        """Its last finite point, or its first point where there is none."""
        at = max(np.flatnonzero(np.isfinite(self.band.y)), default=0)
        return self.band.x[at], self.band.y[at]

    def draw(self, axes: Axes) -> None:
        """The curve with its range shaded; a single point as a dot."""
        found, colour = self.band, self.look.hex
        for run in self.runs:
            axes.plot(run.x, run.y, color=colour, linewidth=0.4, alpha=0.25)
        if np.any(found.high > found.low):
            # A spike of one step is narrower than a pixel where a point stands for several.
            style: Any = {"color": colour, "alpha": 0.16, "linewidth": 0.8 * found.thinned}
            axes.fill_between(found.x, found.low, found.high, **style)
        style = {"linestyle": self.look.dash, "marker": "o" if len(found.x) == 1 else ""}
        axes.plot(found.x, found.y, color=colour, label=self.name, **style)


@in_style
def curves(
    name: str,
    labels: tuple[str, str, str],
    drawn: Sequence[Curve],
    log: str = "",
    limits: tuple[float, float] | None = None,
    level: float = math.nan,
    span: tuple[float, float] | None = None,
    height: float = 4.1,
) -> list[Picture]:
    """A figure of curves, with a legend where none has a label; none without curves.

    `labels` are title, x and y; `log` names logarithmic axes; `limits`, dashed `level` and grey
    `span` are of y; `height` is in inches. Curves that coincide are one line with
    the labels of all.
    """
    drawn = [curve for curve in drawn if np.isfinite(curve.band.y).any()]
    if not drawn:
        return []
    drawn = _distinct(drawn, "y" in log, limits or (-math.inf, math.inf))
    longest = max(len(curve.end) for curve in drawn)
    legend = 0 if longest else 0.2 * len(drawn)
    right, below = 0.95 - CHARACTER * longest, 0.5 + legend
    figure, axes = blank(labels[0], height + legend, right=right, below=below)
    for curve in drawn:
        curve.draw(axes)
    axes.axhline(level, color=BAD, linewidth=1, linestyle=DASHED)
    if span:
        axes.axhspan(*span, color=GRID, alpha=0.6, linewidth=0)
        for end in span:
            axes.axhline(end, color=GREY, linewidth=1, linestyle=DASHED)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    for which in log:
        _log_axis(axes, which)
    axes.set(xlabel=labels[1] + LOG * ("x" in log), ylabel=labels[2] + LOG * ("y" in log))
    axes.set_ylim(limits or axes.get_ylim())
    if legend:
        axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.13), frameon=False)
    _label_ends(axes, [curve for curve in drawn if curve.end and math.isfinite(curve.last[1])])
    said = [f"{curve.name} {number(curve.last[1], '.3g')}" for curve in drawn]
    return [picture(figure, name, labels[0], said)]


def _distinct(drawn: Sequence[Curve], log: bool, limits: tuple[float, float]) -> list[Curve]:
    """The curves; those that coincide with an earlier one only add their name and label to it.

    What is beyond the `limits` of y is not seen, and makes nothing within them coincide.
    """

    def height(curve: Curve) -> Floats:
        seen = curve.band.y.clip(*limits)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(seen) if log else seen

    values = np.concatenate([np.zeros(0), *map(height, drawn)])
    values = values[np.isfinite(values)]
    near = COINCIDE * float(np.ptp(values)) if len(values) else 0.0

    def coincide(one: Curve, other: Curve) -> bool:
        labelled = one.end and other.end and len(one.band.x) == len(other.band.x)
        if not labelled or not np.allclose(one.band.x, other.band.x):
            return False
        return np.allclose(height(one), height(other), rtol=0, atol=near, equal_nan=True)

    groups: list[list[Curve]] = []
    for curve in drawn:
        found = next((group for group in groups if coincide(group[0], curve)), None)
        if found:
            found.append(curve)
        else:
            groups.append([curve])
    return [
        replace(each[0], name=", ".join(c.name for c in each), end=_ends([c.end for c in each]))
        for each in groups
    ]


def _ends(labels: Sequence[str]) -> str:
    """The labels of one line, numbers that follow each other as a range; of many the first ones."""

    def place(entry: tuple[int, str]) -> Any:
        at, label = entry
        return int(label) - at if label.isdecimal() else label

    ranges = [[label for _, label in found] for _, found in groupby(enumerate(labels), place)]
    parts = [found[0] if len(found) == 1 else f"{found[0]}–{found[-1]}" for found in ranges]
    return ", ".join(p for i, p in enumerate(parts) if len(", ".join(parts[:i])) < MOST_LABELS)


def _log_axis(axes: Axes, which: str) -> None:
    """10, 100, 1k instead of powers; 2 and 5 between them where the axis spans little."""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    subs = (1.0,) if high / low > 300 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs, numticks=7))
    axis.set_major_formatter(EngFormatter(sep="") if low >= 1 else "{x:g}")
    axis.minorticks_off()


def _label_ends(axes: Axes, drawn: Sequence[Curve]) -> None:
    """The labels of curves in a column, moved apart; a thin line leads from an end to its label."""
    axes.autoscale_view()
    to_axes = axes.transData + axes.transAxes.inverted()
    # The end of a curve that leaves the axes is at their edge.
    at = [to_axes.transform(curve.last).clip(0, 1) for curve in drawn]
    ends = sorted([(y, x, c) for (x, y), c in zip(at, drawn, strict=True)], key=lambda end: end[:2])
    gaps = min(0.042, 0.96 / max(len(ends), 1)) * np.arange(len(ends))
    free = np.array([y for y, *_ in ends]) - gaps
    apart = np.maximum.accumulate(free) + np.minimum.accumulate(free[::-1])[::-1]
    heights = gaps + np.clip(apart / 2, 0.02, 0.98 - max(gaps, default=0))
    for height, (y, x, curve) in zip(heights, ends, strict=True):
        style: Any = {"color": curve.look.hex, "transform": axes.transAxes}
        axes.text(1.025, height, curve.end, va="center", weight="bold", **style)
        axes.plot([x, 1.02], [y, height], linewidth=0.5, clip_on=False, **style)


@dataclass(frozen=True)
class Row:
    """A value with its interval, between a label and a text; hollow where it is no claim."""

    label: str
    name: str
    found: Estimate
    colour: str
    text: str
    is_claim: bool = True


@in_style
def rows(
    name: str,
    labels: tuple[str, str],
    drawn: Sequence[Row],
    level: float = 0,
    margin: float | None = None,
    bars: bool = False,
) -> list[Picture]:
    """A figure of rows, the first on top; none without rows. `labels` are its title and its axis.

    With `margin` the axis is of differences in loss, equivalent ones in grey; `level` is a line.
    """
    if not drawn:
        return []
    wrapped = [textwrap.wrap(row.label, LABEL, max_lines=3, placeholder="…") for row in drawn]
    lines = max(map(len, wrapped))
    left = 0.03 + CHARACTER * max(len(line) for label in wrapped for line in label or [""])
    right = 0.94 - CHARACTER * max(len(row.text) for row in drawn)
    below = 0.5 if margin is None else 0.66
    height = 0.4 + below + (0.2 if lines == 1 else 0.14 * lines + 0.08) * len(drawn)
    figure, axes = blank(labels[0], height, left, right, below)
    axes.axvline(level, color=MUTED, linewidth=1, linestyle=DASHED)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    if margin is not None:
        axes.axvspan(-margin, margin, color=GRID, linewidth=0)
        axes.set_xscale("symlog", linthresh=LINEAR_NATS)
        axes.xaxis.set_major_formatter("{x:g}")
    said, across = [], axes.get_yaxis_transform()
    for at, row in enumerate(drawn):
        found, face = row.found, row.colour if row.is_claim else "white"
        if bars:
            axes.barh(at, found.value, height=0.62, color=row.colour)
        else:
            axes.hlines(at, found.low, found.high, row.colour, linewidth=4, alpha=0.5)
            axes.plot(found.value, at, "o", color=row.colour, mew=1.4, mfc=face)
        axes.text(1.03, at, row.text, transform=across, va="center")
        within = f" ({bounds(found)})" if found.known else ""
        said.append(f"{row.name} {row.text}{within}")
    axes.set_yticks(range(len(drawn)), map("\n".join, wrapped), color=INK, linespacing=0.9)
    axes.set_ylim(len(drawn) - 0.5, -0.5)
    grey = f"; grey: ±{margin:g}" if margin else ""
    bent = f"\nscale: linear to ±{LINEAR_NATS:g}, logarithmic beyond{grey}"
    axes.set_xlabel(labels[1] + bent * (margin is not None), loc="right")
    axes.grid(False, axis="y")
    return [picture(figure, name, ", ".join(labels), said)]
