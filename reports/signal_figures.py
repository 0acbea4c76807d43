"""The figures of the signal by depth: what each stage lets through, forward and backward."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator

from reports.compare import Comparison
from reports.drawing import DASHED, Picture, blank, picture
from reports.figures import Painter
from reports.palette import GREY, INK, MUTED
from reports.read import Floats

COLUMNS = 3
FLOOR = 1e-12  # what is drawn of a signal that is smaller, or nothing
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")  # SVG has no markup for powers
WORDS = "solid: signal over that of the first layer;  dashed: gradient over that of the last"


def by_depth(painter: Painter) -> list[Picture]:
    """A panel a stage, twice: before the first step, and before the last."""
    return [
        _panels(painter, f"signal-{which}", f"Before the {which} step", found)
        for which, at in (("first", 0), ("last", -1))
        if (found := [(s, each) for s in painter.stages if len(each := _signal(s, at))])
    ]


def _panels(
    painter: Painter, name: str, title: str, found: list[tuple[Comparison, Floats]]
) -> Picture:
    rows, said = math.ceil(len(found) / COLUMNS), []
    height, low = 0.75 + 1.15 * rows, min(0.1, *(signal.min() for _, signal in found)) / 3
    with blank(height) as figure:
        figure.text(0.02, 1 - 0.16 / height, title, weight="bold", fontsize=10.5, va="center")
        figure.text(0.02, 1 - 0.36 / height, WORDS, color=MUTED, fontsize=7.5, va="center")
        grid = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
        edges = {"left": 0.1, "right": 0.98, "bottom": 0.34 / height, "top": 1 - 0.83 / height}
        figure.subplots_adjust(**edges, wspace=0.1, hspace=0.575)
        for axes, (stage, signal) in zip(grid.flat, found, strict=False):
            axes.axhline(1, color=GREY, linewidth=0.8)
            for curve, style in zip(signal, ("-", DASHED), strict=True):
                axes.plot(curve, color=painter.look[stage.stage].hex, linestyle=style, lw=1.6)
            axes.set_title(painter.long(stage, 20), color=INK, fontsize=8)
            axes.tick_params(labelsize=6.5)
            ends = signal[0, -1], signal[1, 0]
            said.append(f"{stage.name} signal {ends[0]:.1g}, gradient {ends[1]:.1g}")
        for axes in grid.flat[len(found) :]:
            axes.remove()
        for axes in grid.flat[: len(found)][-COLUMNS:]:
            axes.set_xlabel("first layer to last", fontsize=6.5, labelpad=2)
        first = grid[0, 0]
        first.set(yscale="log", ylim=(low, 30), xticks=[])
        first.yaxis.set_major_locator(LogLocator(numticks=5))
        first.yaxis.set_major_formatter(
            lambda value, _: "10" + f"{math.log10(value):.0f}".translate(SUPERSCRIPT)
        )
        first.yaxis.set_minor_locator(NullLocator())
        return picture(figure, name, f"{title}, at the other end: {'; '.join(said)}.")


def _signal(stage: Comparison, at: int) -> Floats:
    """Signal and gradient by layer, geometric means over runs, each 1 where it begins.

    From the first or last look of each run that saw layers and a step taken; empty without one.
    Without the last layer: that is the norm before the head, which changes their size and not
    what is in them.
    """
    over_runs = []
    for run in stage.arm.runs:
        seen = [look for look in run.looks if len(look.layers) > 2 and look.step_norm is not None]
        for look in seen[at:][:1]:
            pairs = [(layer.activation or 0, layer.gradient or 0) for layer in look.layers[:-1]]
            forward, backward = np.array(pairs, float).T
            with np.errstate(divide="ignore", invalid="ignore"):
                pair = np.stack([forward / forward[0], backward / backward[-1]])
            over_runs.append(np.log(np.maximum(np.nan_to_num(pair, posinf=0.0), FLOOR)))
    return np.exp(np.mean(over_runs, axis=0)) if over_runs else np.empty(0)
