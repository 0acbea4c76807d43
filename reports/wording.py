"""The templates, and what they are given to say: filters from the report's objects to text."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2

from conf.schema import ReportConf
from reports import formats, tables
from reports.commands import over_seeds
from reports.compare import shown
from reports.curves import MOST_POINTS
from reports.ladders import Group
from reports.rates import StageRates
from reports.read import Row
from reports.reference import SOURCE
from reports.side_by_side import describe, varied
from reports.statistics import POWER, Estimate
from reports.verdicts import keeps_loss
from reports.worth import Way, Worth

TEMPLATES = Path(__file__).with_name("templates")
END = "\x02"  # what a record cannot hold
PUNCTUATION = re.compile(r" ([.,;:)])(?=[ \x02]|$)")


def environment(rules: ReportConf, is_html: bool) -> jinja2.Environment:
    """The templates, with what they call."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=is_html,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    error = 1 - rules.confidence
    made.filters.update(
        {name: getattr(formats, name) for name in (
            "loss", "count", "signed", "bounds", "change", "times", "times_bounds", "together",
            "markdown",
        )},
        zip=zip,
        bracketed=lambda said: f" ({said})" if said else "",
        percentage=lambda share, digits=0: f"{share:.{digits}%}",
        base64=lambda content: base64.b64encode(content).decode("ascii"),
        settings=tables.settings,
        factorial=math.factorial,
        keeps_loss=lambda found: keeps_loss(found, rules),
        mean_of=lambda pairs, side: sum(p[side].held_out for p in pairs) / len(pairs),
        machine=machine,
        models=models,
        tokens=lambda stage: formats.count(stage.arm.mean("tokens_per_step")),
        steps=lambda stage: formats.count(stage.arm.mean("steps")),
        baseline_command=baseline_command,
        reference_command=lambda s: over_seeds(
            s.reference_command, [run.seed for run in s.arm.runs]
        ),
        differences=differences,
        applied=lambda runs: {name for run in runs for name in run.applied},
        changed=lambda stages: {key for s in stages for key in s.arm.newest.changes},
        peaks=peaks,
        averages=averages,
        depending=lambda found: [s for s in found.steps if s.p < error],
        significant=lambda found: significant(found, error),
        turned=turned,
        lost_rates=lambda found: {
            f"{s.stage.name} at {rate:g}": runs for s in found for rate, runs in s.lost.items()
        },
    )  # fmt: skip
    made.tests["finite"] = is_finite
    made.filters["finite"] = is_finite
    made.globals.update(
        rules=rules, end=END, source=SOURCE, most_points=MOST_POINTS, power_of_seeds=POWER
    )
    return made


def words(rules: ReportConf) -> Callable[..., str]:
    """What says a macro of words.jinja, by its name, in one line."""
    module: Any = environment(rules, is_html=False).get_template("words.jinja").module
    return lambda macro, *given: PUNCTUATION.sub(
        r"\1", " ".join(getattr(module, macro)(*given).split())
    )


def sentences(said: str) -> list[str]:
    """What a macro says, by its ends."""
    return [each.strip() for each in said.split(END) if each.strip()]


def is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def machine(run: Row) -> str:
    """The device for people."""
    return run.device_name or run.device or "unknown"


def models(main: Group) -> list[str]:
    """The models by name, with their parameters in millions."""
    known = [run for run in main.runs if is_finite(run.parameters)]
    sizes = {run.model: formats.number(run.parameters / 1e6, ".3g") for run in known}
    return [f"{name} ({size} million parameters)" for name, size in sizes.items()]


def baseline_command(main: Group) -> str:
    """The command that trains the baseline under the main ladder's conditions."""
    return over_seeds(main.stages[0].arm.newest.command, main.seeds, ["+stage=step02"])


def differences(group: Group, main: Group, typed: bool = True) -> list[str]:
    """In what the conditions of a group differ from those of the main ladder; or but for typed."""
    ours, theirs = (describe(each.stages[0]) for each in (group, main))
    left_out = ["experiment", *([] if typed else group.stages[0].typed)]
    keys = [key for key in varied([ours, theirs]) if key not in left_out]
    said = [f"{key} {shown(ours.get(key))} instead of {shown(theirs.get(key))}" for key in keys]
    return said or [stage.name for stage in group.stages if typed and not stage.is_plain]


def peaks(runs: Sequence[Row]) -> list[str]:
    """The machine's own peak: the highest product that a run measured, for each type."""
    found = {str(run.peak_flops_dtype): 0.0 for run in runs if is_finite(run.peak_flops)}
    for dtype in found:
        found[dtype] = max(r.peak_flops for r in runs if str(r.peak_flops_dtype) == dtype)
    return [f"{flops / 1e12:.3g} TFLOP/s in {dtype}" for dtype, flops in sorted(found.items())]


def averages(found: Worth) -> list[str]:
    """Each step's Shapley value, the most useful first."""
    steps = [(s.ways[Way.average], s.stage) for s in found.steps if Way.average in s.ways]
    steps.sort(key=lambda step: step[0].value)
    return [f"{stage.about.title} {formats.change(estimate)}" for estimate, stage in steps]


def significant(found: Worth, error: float) -> list[str]:
    """The pairs of steps that interact by Holm's method over all pairs, the strongest first."""
    pairs = sorted(found.interactions, key=lambda pair: -abs(pair.change.value))
    return [f"{p.one} and {p.other} {formats.change(p.change)}" for p in pairs if p.p < error]


def turned(found: Sequence[StageRates]) -> list[StageRates]:
    """The stages whose difference changes its sign, or loses it, at the best rates."""
    return [
        each
        for each in found
        if each.at_fixed and each.at_best and _sign(each.at_fixed) != _sign(each.at_best)
    ]


def _sign(estimate: Estimate) -> int:
    """-1, 1, or 0 where the interval holds zero or is unknown."""
    return int(estimate.above) - int(estimate.below)
