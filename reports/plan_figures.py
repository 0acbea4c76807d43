"""What is drawn of plans: what each step is worth, interactions, orders, and learning rates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from conf.schema import ReportConf
from reports import formats
from reports.alternatives import Alternatives
from reports.effects import LINEAR_NATS
from reports.figures import DASHED, GRID, INK, MUTED, Painter, blank, cut
from reports.palette import THEME
from reports.rates import StageRates
from reports.shapley import Factorial
from reports.svg import Picture, picture
from reports.worth import Interaction, Way, Worth

MARKERS = {Way.in_place: "o", Way.alone: "^", Way.missing: "s", Way.average: "D"}
GOOD, BAD = THEME["good"][0], THEME["bad"][0]


def worth(painter: Painter, found: Worth, rules: ReportConf) -> Picture:
    """A row a step, and in it a mark with its interval for each way to say what it is worth."""
    steps = found.steps
    with blank(1.25 + 0.52 * len(steps)) as figure:
        height = figure.get_size_inches()[1]
        axes = figure.add_axes((0.36, 0.62 / height, 0.61, 1 - 1.15 / height))
        axes.axvline(0, color=MUTED, linewidth=1)
        axes.axvspan(-rules.margin, rules.margin, color=GRID, linewidth=0)
        axes.set_xscale("symlog", linthresh=LINEAR_NATS)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}".replace("-", "−")))
        said = []
        for at, step in enumerate(steps):
            look = painter.look[step.name]
            for way, estimate in step.ways.items():
                y = at + 0.19 * (list(Way).index(way) - 1.5)
                if not math.isnan(estimate.low):
                    (line,) = axes.plot([estimate.low, estimate.high], [y, y], color=look.hex)
                    line.set(linewidth=2.4, alpha=0.55, gid=f"stage-{look.index}-worth{way.name}")
                    line.set_solid_capstyle("butt")
                (mark,) = axes.plot(estimate.value, y, MARKERS[way], color=look.hex, markersize=5.5)
                mark.set_gid(f"stage-{look.index}-worth{way.name}mark")
            values = ", ".join(f"{w.value} {formats.signed(e.value)}" for w, e in step.ways.items())
            said.append(f"{step.name} {values}")
        axes.set_yticks(range(len(steps)), [cut(f"{s.stage.number} {s.title}", 23) for s in steps])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(len(steps) - 0.45, -0.55)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("change of the held-out loss by the step, nats/token")
        legend = [
            Line2D([], [], color=MUTED, marker=mark, linestyle="", markersize=5.5, label=way.value)
            for way, mark in MARKERS.items()
            if any(way in step.ways for step in steps)
        ]
        axes.legend(
            handles=legend, loc="lower right", bbox_to_anchor=(1.03, 1.0), ncols=4, frameon=False,
            handletextpad=0.1, columnspacing=1.0, fontsize=8.5,
        )  # fmt: skip
        return picture(figure, "worth", f"What each step is worth: {'; '.join(said)}.")


def side_by_side(painter: Painter, found: Sequence[Alternatives]) -> Picture:
    """A row an alternative: the held-out loss of each seed, and their mean."""
    rows = [(stage, row) for stage in found for row in stage.rows]
    with blank(0.95 + 0.3 * len(rows)) as figure:
        height = figure.get_size_inches()[1]
        axes = figure.add_axes((0.44, 0.55 / height, 0.53, 1 - 0.7 / height))
        labels, said = [], []
        for at, (stage, row) in enumerate(rows):
            look = painter.look[stage.name]
            losses = [run.record.results.held_out for run in row.runs.measurable]
            axes.plot(losses, [at] * len(losses), "o", color=look.hex, markersize=4, alpha=0.45)
            if losses:
                (mark,) = axes.plot(row.runs.mean.held_out, at, "|", color=look.hex, markersize=15)
                mark.set(markeredgewidth=2.5, gid=f"stage-{look.index}-alternative{at}")
            loss = formats.loss(row.runs.mean.held_out) if losses else row.statuses
            if not losses:
                axes.annotate(
                    loss, (0.01, at), xycoords=("axes fraction", "data"), va="center",
                    color=MUTED, fontsize=8.5,
                )  # fmt: skip
            labels.append(cut(f"{stage.name} {row.what}", 34))
            said.append(f"{stage.name} {row.what} {loss}")
        axes.set_yticks(range(len(rows)), labels, fontsize=8.5)
        axes.tick_params(axis="y", labelcolor=INK)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("held-out loss of each seed, and their mean")
        return picture(figure, "side-by-side", f"Held-out loss side by side: {'; '.join(said)}.")


def interactions(found: Sequence[Interaction], factorial: Factorial, level: float) -> Picture:
    """A heat map: the pairs of steps, and what each changes beyond the sum of the two."""
    names = factorial.steps
    most = max(0.01, *(abs(each.change.value) for each in found))
    with blank(0.9 + 0.42 * len(names)) as figure:
        height = figure.get_size_inches()[1]
        axes = figure.add_axes((0.17, 0.5 / height, 0.8, 1 - 0.95 / height))
        said = []
        for each in found:
            one, other = names.index(each.one), names.index(each.other)
            significant = each.p < level
            (cell,) = axes.fill(
                np.array([-0.48, 0.48, 0.48, -0.48]) + one,
                np.array([-0.46, -0.46, 0.46, 0.46]) + other,
                color=BAD if each.change.value > 0 else GOOD,
            )
            cell.set_alpha(0.05 + 0.4 * abs(each.change.value) / most)
            axes.annotate(
                f"{formats.signed(each.change.value)}{'*' if significant else ''}", (one, other),
                ha="center", va="center", fontsize=9, color=INK,
                fontweight="bold" if significant else "normal",
            )  # fmt: skip
            mark = ", significant" if significant else ""
            said.append(f"{each.one} and {each.other} {formats.signed(each.change.value)}{mark}")
        axes.set_xticks(range(len(names) - 1), names[:-1])
        axes.set_yticks(range(1, len(names)), names[1:])
        axes.tick_params(labelcolor=INK)
        axes.set_xlim(-0.5, len(names) - 1.5)
        axes.set_ylim(len(names) - 0.5, 0.5)
        axes.grid(visible=False)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.set_title("Two steps together, beyond their sum", color=INK, fontweight="bold")
        axes.set_xlabel("nats/token; * significant by Holm's method")
        return picture(figure, "interactions", f"Interactions of steps: {'; '.join(said)}.")


def orders(factorial: Factorial) -> Picture:
    """The mean loss as the steps are added in the guide's order, and in that of a greedy search."""
    names = factorial.steps
    guide, greedy = list(range(len(names))), factorial.greedy
    with blank(2.75) as figure:
        axes = figure.add_axes((0.115, 0.16, 0.85, 0.69))
        said = []
        for order, label, colour, style, above in (
            (guide, "the guide's order", MUTED, DASHED, True),
            (greedy, "a greedy search", INK, "solid", False),
        ):
            losses = factorial.along(order)
            axes.plot(range(len(losses)), losses, color=colour, linestyle=style, marker="o",
                      markersize=4, label=label)  # fmt: skip
            for at, step in enumerate(order, start=1):
                axes.annotate(
                    names[step].removeprefix("step"), (at, losses[at]),
                    (0, 7 if above else -14), textcoords="offset points", ha="center",
                    fontsize=8.5, color=colour,
                )  # fmt: skip
            path = ", ".join(
                f"{names[s]} {loss:.3f}" for s, loss in zip(order, losses[1:], strict=True)
            )
            said.append(f"{label}: {losses[0]:.3f}, {path}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(y=0.14)
        axes.set(xlabel="steps added to the baseline", ylabel="held-out loss")
        axes.set_title("In which order", color=INK, fontweight="bold")
        axes.legend(frameon=False, loc="upper right")
        return picture(figure, "orders", f"Held-out loss by order of the steps: {'; '.join(said)}.")


def rates(painter: Painter, found: Sequence[StageRates]) -> Picture:
    """The held-out loss of each stage against the learning rate; the best one is filled."""
    with blank(3.4) as figure:
        axes = figure.add_axes((0.115, 0.145, 0.76, 0.75))
        axes.set_xscale("log")
        said = []
        ends = sorted(found, key=lambda stage: stage.losses[-1])
        span = max(max(s.losses) for s in found) - min(min(s.losses) for s in found)
        lowest = -math.inf
        for stage in ends:
            look = painter.look[stage.name]
            (line,) = axes.plot(stage.rates, stage.losses, color=look.hex, linestyle=look.dash)
            line.set_gid(f"stage-{look.index}-rates")
            best = stage.rates.index(stage.best)
            (mark,) = axes.plot(stage.best, stage.losses[best], "o", color=look.hex, markersize=6)
            mark.set_gid(f"stage-{look.index}-best")
            lowest = max(stage.losses[-1], lowest + 0.055 * span)
            axes.annotate(
                stage.name, (stage.rates[-1], lowest), (7, 0), textcoords="offset points",
                va="center", color=INK, fontsize=8.5, annotation_clip=False,
            )  # fmt: skip
        for stage in found:
            pairs = zip(stage.rates, stage.losses, strict=True)
            said.append(f"{stage.name} {', '.join(f'{loss:.3f} at {r:g}' for r, loss in pairs)}")
        every = sorted({rate for stage in found for rate in stage.rates})
        axes.set_xticks(every, [f"{rate:g}" for rate in every])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel="peak learning rate", ylabel="held-out loss, nats/token")
        axes.set_title("Held-out loss by learning rate", color=INK, fontweight="bold")
        return picture(figure, "learning-rates", f"Held-out loss: {'; '.join(said)}.")
