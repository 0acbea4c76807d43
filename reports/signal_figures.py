"""The pictures of the signal by depth: what each stage lets through, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from reports.compare import StageRuns
from reports.figures import DASHED, GREY, INK, MUTED, Painter, blank
from reports.read import Floats
from reports.svg import Picture, picture
from runner.record import Look

COLUMNS = 3
ROW_HEIGHT = 1.15  # inches
# What is drawn of a signal that is smaller, or nothing.
FLOOR = 1e-12
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def by_depth(painter: Painter) -> list[Picture]:
    """A panel a stage, twice: before the first step, and before the last."""
    found = []
    for name, title, at in (
        ("signal-first", "Before the first step", 0),
        ("signal-last", "Before the last step", -1),
    ):
        looks = {
            s.name: [look for run in s.runs if (look := _look(run.record.looks, at))]
            for s in painter.stages
        }
        stages = [stage for stage in painter.stages if looks[stage.name]]
        if stages:
            found.append(_panels(painter, name, title, stages, looks))
    return found


def _look(looks: Sequence[Look], at: int) -> Look | None:
    """A run's first or last look that saw layers and a step taken."""
    seen = [look for look in looks if len(look.layers) > 2 and look.step_norm is not None]
    return seen[at] if seen else None


def _panels(
    painter: Painter,
    name: str,
    title: str,
    stages: Sequence[StageRuns],
    looks: dict[str, list[Look]],
) -> Picture:
    rows = math.ceil(len(stages) / COLUMNS)
    curves = {stage.name: _relative(looks[stage.name]) for stage in stages}
    lowest = min(float(np.min(curve)) for pair in curves.values() for curve in pair)
    with blank(0.75 + ROW_HEIGHT * rows) as figure:
        height = figure.get_figheight()
        figure.text(0.02, 1 - 0.16 / height, title, fontweight="bold", fontsize=10.5, va="center")
        words = (
            "solid: signal over that of the first layer;  dashed: gradient over that of the last"
        )
        figure.text(0.02, 1 - 0.36 / height, words, color=MUTED, fontsize=7.5, va="center")
        said = []
        for place, stage in enumerate(stages):
            row, column = divmod(place, COLUMNS)
            left, bottom = 0.1 + 0.303 * column, (0.34 + ROW_HEIGHT * (rows - 1 - row)) / height
            axes = figure.add_axes((left, bottom, 0.275, (ROW_HEIGHT - 0.42) / height))
            forward, backward = curves[stage.name]
            _draw(axes, painter, stage, forward, backward)
            axes.set_ylim(min(lowest, 0.1) / 3, 30)
            axes.set_title(painter.long(stage, 20), color=INK, fontsize=8)
            axes.tick_params(labelsize=6.5, labelleft=column == 0, labelbottom=False)
            if row == rows - 1 or place + COLUMNS >= len(stages):
                axes.set_xlabel("first layer to last", fontsize=6.5, labelpad=2)
            said.append(f"{stage.name} signal {forward[-1]:.1g}, gradient {backward[0]:.1g}")
        alt = f"{title}, what is left of the signal after the last layer, over the first one's, "
        alt += f"and of the gradient at the first, over the last one's: {'; '.join(said)}."
        return picture(figure, name, alt)


def _draw(
    axes: Axes, painter: Painter, stage: StageRuns, forward: Floats, backward: Floats
) -> None:
    look, depth = painter.look[stage.name], np.arange(len(forward))
    axes.axhline(1, color=GREY, linewidth=0.8)
    for part, curve, style in (("signal", forward, "-"), ("gradient", backward, DASHED)):
        (line,) = axes.plot(depth, curve, color=look.hex, linestyle=style, linewidth=1.6)
        line.set_gid(f"stage-{look.index}-{part}")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=5))
    axes.yaxis.set_major_formatter(lambda value, _: _power(value))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks([])


def _power(value: float) -> str:
    """A power of ten in plain characters, which the page's fonts have."""
    return "10" + str(round(math.log10(value))).translate(SUPERSCRIPT)


def _relative(looks: Sequence[Look]) -> tuple[Floats, Floats]:
    """Signal and gradient by layer, geometric means over runs, each 1 where it begins.

    Without the last layer: that is the norm before the head, which changes their size and not
    what is in them.
    """
    over_runs = []
    for look in looks:
        layers = look.layers[:-1]
        forward = np.array([layer.activation or 0.0 for layer in layers])
        backward = np.array([layer.gradient or 0.0 for layer in layers])
        with np.errstate(divide="ignore", invalid="ignore"):
            pair = np.stack([forward / forward[0], backward / backward[-1]])
        over_runs.append(np.maximum(np.nan_to_num(pair, posinf=0.0), FLOOR))
    mean = np.exp(np.mean(np.log(over_runs), axis=0))
    return mean[0], mean[1]
