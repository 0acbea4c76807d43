"""The templates, and what they are given to say: filters from the report's objects to text."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from conf.schema import StatisticsConf
from reports import formats, tables
from reports.arm import MORE_TOKENS
from reports.commands import over_seeds
from reports.comparison import shown
from reports.curves import MOST_POINTS
from reports.ladders import Group
from reports.read import Row
from reports.reference import SOURCE
from reports.side_by_side import describe, varied
from reports.statistics import POWER

TEMPLATES = Path(__file__).with_name("templates")
END = "\x02"  # what a record cannot hold
PUNCTUATION = re.compile(r" ([.,;:)])(?=[ \x02]|$)")


@cache  # a template is compiled once
def environment(is_html: bool) -> jinja2.Environment:
    """The templates, with what they call."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=is_html,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters.update(
        {name: getattr(formats, name) for name in (
            "loss", "count", "signed", "bounds", "change", "times", "times_bounds", "together",
            "code", "markdown", "html", "number", "p_value",
        )},
        zip=zip,
        bracketed=lambda said: f" ({said})" if said else "",
        percentage=lambda share, digits=0: f"{share:.{digits}%}",
        in_place=in_place,
        settings=tables.settings,
        factorial=math.factorial,
        mean_of=lambda pairs, side: sum(p[side].held_out for p in pairs) / len(pairs),
        machine=machine,
        models=models,
        tokens=lambda stage: formats.count(stage.arm.mean("tokens_per_step")),
        baseline_command=baseline_command,
        reference_command=lambda s: over_seeds(
            s.asked.reference_command, [run.seed for run in s.arm.runs]
        ),
        differences=differences,
        applied=lambda runs: {name for run in runs for name in run.applied},
        peaks=peaks,
        strongest=lambda pairs: sorted(pairs, key=lambda pair: -abs(pair.change.value)),
        lost_rates=lambda found: {
            f"{s.stage.name} at {rate:g}": runs for s in found for rate, runs in s.lost.items()
        },
    )  # fmt: skip
    made.tests["finite"] = is_finite
    made.filters["finite"] = is_finite
    made.globals.update(
        end=END, source=SOURCE, most_points=MOST_POINTS, power_of_seeds=POWER,
        more_tokens=MORE_TOKENS,
    )  # fmt: skip
    return made


def words(rules: StatisticsConf, file: str = "words.jinja") -> Callable[..., str]:
    """What says a macro of a template, by its name, in one line."""
    template = environment(is_html=False).get_template(file)
    module: Any = template.make_module({"rules": rules})
    return lambda macro, *given: PUNCTUATION.sub(
        r"\1", " ".join(getattr(module, macro)(*given).split())
    )


def sentences(said: str) -> list[str]:
    """What a macro says, by its ends."""
    return [each.strip() for each in said.split(END) if each.strip()]


def in_place(svg: bytes) -> Markup:
    """A picture as the address of an image in the page: a quarter shorter than in base64."""
    text = quote(svg.replace(b"\n", b" "), safe=" <>=/:;,.-+()'!*[]{}|~^`$@?")
    return Markup(f"data:image/svg+xml,{text}")


def is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def machine(run: Row) -> str:
    """The device for people."""
    return run.device_name or run.device or "unknown"


def models(main: Group) -> list[str]:
    """The models by name, with their parameters in millions, which stages may change."""
    sizes: dict[str, list[float]] = defaultdict(list)
    for run in filter(lambda run: is_finite(run.parameters), main.runs):
        sizes[run.model].append(run.parameters / 1e6)
    found = []
    for name, of in sizes.items():
        ends = dict.fromkeys(formats.number(end, ".3g") for end in (min(of), max(of)))
        found.append(f"{name} ({' to '.join(ends)} million parameters)")
    return found


def baseline_command(main: Group) -> str:
    """The command that trains the baseline under the main ladder's conditions."""
    return over_seeds(main.stages[0].arm.newest.command, main.seeds, ["+stage=step02"])


def differences(group: Group, main: Group, typed: bool = True) -> list[str]:
    """In what the conditions of a group differ from those of the main ladder; or but for typed."""
    ours, theirs = (describe(each.stages[0]) for each in (group, main))
    left_out = ["experiment", *([] if typed else group.stages[0].typed)]
    keys = [key for key in varied([ours, theirs]) if key not in left_out]
    said = [f"{k} {shown(ours.get(k))} instead of {shown(theirs.get(k))}" for k in keys]
    return said or [stage.name for stage in group.stages if typed and not stage.is_plain]


def peaks(runs: Sequence[Row]) -> list[str]:
    """The machine's own peak: the highest product that a run measured, for each type."""
    known = [run for run in runs if is_finite(run.peak_flops)]
    known.sort(key=lambda run: run.peak_flops)
    found = {str(run.peak_flops_dtype): run.peak_flops for run in known}
    return [f"{flops / 1e9:,.0f} GFLOP/s in {dtype}" for dtype, flops in sorted(found.items())]
