"""Numbers as text, the same in the page, its Markdown twin and the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from reports.speed import SpeedUp
from reports.statistics import Estimate

NONE = "–"


def number(value: float | None, form: str, unit: str = "") -> str:
    """A finite number in a format, such as ".3f", with its unit; a dash for any other."""
    return f"{value:{form}}{unit}" if value is not None and math.isfinite(value) else NONE


loss = partial(number, form=".3f")
count = partial(number, form=",.0f")


def interval(worst: float, best: float) -> str:
    """The guide's interval, [worst, best]."""
    return f"[{worst:.2f}, {best:.2f}]" if math.isfinite(worst) else NONE


def signed(value: float) -> str:
    """A difference in loss, with its sign."""
    rounded = number(value, "+.3f").replace("-", "−")
    return "0.000" if rounded[1:] == "0.000" else rounded


def bounds(estimate: Estimate | None) -> str:
    """The interval of a difference in loss; empty where it is unknown."""
    if estimate is None or not estimate.known:
        return ""
    return f"{signed(estimate.low)} to {signed(estimate.high)}"


def change(estimate: Estimate | None) -> str:
    """A difference in loss, with its interval."""
    if estimate is None:
        return NONE
    within = bounds(estimate)
    return f"{signed(estimate.value)} ({within})" if within else signed(estimate.value)


def times(speed: SpeedUp | None) -> str:
    """A speed-up as a factor."""
    return NONE if speed is None else f"{speed.estimate.value:.2f}×"


def times_bounds(speed: SpeedUp | None) -> str:
    """The interval of a speed-up over rounds; empty where it is a figure without a claim."""
    if speed is None or speed.doubt:
        return ""
    return f"{speed.estimate.low:.2f} to {speed.estimate.high:.2f}"


MARKDOWN = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;"} | {sign: f"\\{sign}" for sign in "\\`*_[]|~$"}
)


def markdown(value: Any) -> str:
    """Text that Markdown and the HTML it becomes show as it is, on one line of a table."""
    return " ".join(str(value).split()).translate(MARKDOWN)


def together(values: Sequence[str]) -> str:
    """a, b and c"""
    *most, last = list(map(str, values)) or [""]
    return f"{', '.join(most)} and {last}" if most else last
