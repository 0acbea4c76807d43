"""Numbers as text, the same in the page, its Markdown twin and the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from markupsafe import Markup, escape

from reports.speed import SpeedUp
from reports.statistics import Estimate

NONE = "–"
CODE = "\x03"  # what a record cannot hold
MARKDOWN = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;"} | {sign: f"\\{sign}" for sign in "\\`*_[]|~$"}
)


def number(value: float | None, form: str, unit: str = "") -> str:
    """A finite number in a format, such as ".3f", with its unit; a dash for any other."""
    return f"{value:{form}}{unit}" if value is not None and math.isfinite(value) else NONE


def p_value(p: float) -> str:
    """A p-value; those that are smaller than its digits can say as a bound."""
    return "under 0.0001" if p < 0.0001 else number(p, ".4f")


loss = partial(number, form=".3f")
count = partial(number, form=",.0f")


def signed(value: float, digits: int = 3) -> str:
    """A difference in loss, with its sign."""
    rounded = number(value, f"+.{digits}f").replace("-", "−")
    return rounded if rounded.strip("+−0.") else rounded[1:]


def bounds(found: Estimate, digits: int = 3) -> str:
    """The interval of a difference in loss, or of a speed-up; empty where it is unknown."""
    ends = found.low, found.high
    low, high = (f"{x:.2f}" if found.neutral else signed(x, digits) for x in ends)
    return f"{low} to {high}" if found.known else ""


def change(found: Estimate | None, digits: int = 3) -> str:
    """A difference in loss, with its interval."""
    if found is None:
        return NONE
    return signed(found.value, digits) + (f" ({bounds(found, digits)})" if found.known else "")


def times(speed: SpeedUp | None) -> str:
    """A speed-up as a factor."""
    return f"{speed.estimate.value:.2f}×" if speed else NONE


def times_bounds(speed: SpeedUp | None) -> str:
    """The interval of a speed-up; empty where it is a figure without a claim."""
    return bounds(speed.estimate) if speed and not speed.doubt else ""


def code(command: str) -> str:
    """A command within a sentence, for `markdown` and `html` to set as code."""
    return f"{CODE}{command}{CODE}"


def markdown(value: Any) -> str:
    """Text that Markdown and the HTML it becomes show as it is, on one line of a table."""
    parts = " ".join(str(value).split()).split(CODE)
    return "`".join(each if i % 2 else each.translate(MARKDOWN) for i, each in enumerate(parts))


def html(value: Any) -> Markup:
    """The same for the page."""
    parts = enumerate(map(escape, str(value).split(CODE)))
    return Markup("").join(Markup(f"<code>{each}</code>") if i % 2 else each for i, each in parts)


def slug(name: str) -> str:
    """A name as a part of an address or of a file's name."""
    return re.sub(r"[^\w-]+", "-", name)[:70]


def together(values: Sequence[str]) -> str:
    """a, b and c"""
    *most, last = list(map(str, values)) or [""]
    return f"{', '.join(most)} and {last}" if most else last
