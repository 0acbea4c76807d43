"""The figures of plans: what each step is worth, interactions, learning rates and settings."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from conf.schema import ReportConf
from reports import tables
from reports.curves import Band
from reports.drawing import Curve, Picture, Row, band, curves, cut, loss_limits, rows, slug
from reports.figures import MOST_STAGES, QUANTITIES, Painter
from reports.formats import loss, signed
from reports.palette import BAD, GOOD, looks
from reports.rates import StageRates
from reports.side_by_side import Alternatives
from reports.statistics import Estimate
from reports.worth import Worth


def worth(painter: Painter, found: Worth, rules: ReportConf) -> Picture:
    """A row for each way to say what a step is worth."""
    labels, drawn = ("What each step is worth", "change of the held-out loss, nats/token"), []
    for step in found.steps:
        stage, title = step.stage, cut(f"{step.stage.number} {step.stage.about.title}", 20)
        for way, change in step.ways.items():
            name, text = f"{stage.name} {way.value}", signed(change.value)
            label, colour = f"{title}  {way.value}", painter.look[stage.name].hex
            drawn.append(Row(label, name, change, colour, text))
            title = ""
    return rows("worth", labels, drawn, margin=rules.margin)


def side_by_side(painter: Painter, found: Sequence[Alternatives]) -> Picture:
    """A row an alternative: the mean held-out loss, and its range over the seeds."""
    labels, drawn = ("Held-out loss side by side", "mean and range over the seeds"), []
    for each in (row for stage in found for row in stage.rows):
        arm, name = each.found.arm, f"{each.found.name} {tables.settings(each.differs)}"
        losses = [run.held_out for run in arm.measurable] or [np.nan]
        mean = Estimate(float(np.mean(losses)), min(losses), max(losses))
        text = loss(mean.value) if arm.measurable else arm.status.value
        label = cut(re.sub(r"\b[a-z]+\.(?=[a-z])", "", name), 36)  # the key without its group
        drawn.append(Row(label, name, mean, painter.look[each.found.stage].hex, text))
    return rows("side-by-side", labels, drawn)


def settings(found: Alternatives) -> Picture:
    """The training loss of a stage at each of its settings."""
    shown = [each for each in found.rows if each.found.arm.curves][:MOST_STAGES]
    style = looks([(str(number), number, "") for number in range(len(shown))])
    drawn = [
        Curve(tables.settings(each.differs), look, band(each.found.arm.curves, "step", "loss"))
        for each, look in zip(shown, style.values(), strict=True)
    ]
    labels = f"{found.name} {found.title}", "optimizer step", QUANTITIES["loss"][0]
    limits = loss_limits([each.found.arm for each in shown])
    return curves(f"settings-{slug(found.name)}", labels, drawn, limits=limits)


def rates(painter: Painter, found: Sequence[StageRates]) -> Picture:
    """The held-out loss of each stage against the learning rate, with a dot at the best one."""
    drawn = []
    for each in found:
        name, look = each.stage.name, painter.look[each.stage.name]
        x, y = np.array(each.rates), np.array(each.losses)
        drawn.append(Curve(name, look, Band(x, y, y, y), name))
        x, y = x[x == each.best], y[x == each.best]
        drawn.append(Curve(f"{name} at {each.best:g}", look, Band(x, y, y, y)))
    labels = "Held-out loss by learning rate", "peak learning rate", "held-out loss, nats/token"
    return curves("learning-rates", labels, drawn, "x")


def interactions(found: Worth, level: float) -> Picture:
    """A row a pair of steps: what both change beyond their sum, hollow where insignificant."""
    title, drawn = "Two steps together, beyond their sum", []
    for each in found.interactions:
        name, value = f"{each.one} and {each.other}", each.change.value
        colour = BAD if value > 0 else GOOD
        drawn.append(Row(name, name, each.change, colour, signed(value), each.p < level))
    axis = "nats/token; filled: significant by Holm's method"
    return rows("interactions", (title, axis), drawn, margin=0)
