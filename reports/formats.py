"""Numbers as text, the same in the page, its Markdown twin and the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from reports.speed import SpeedUp
from reports.statistics import Estimate
from runner.record import Results

NONE = "–"


def number(value: float | None, form: str, unit: str = "") -> str:
    """A finite number in a format, such as ".3f", with its unit; a dash for any other."""
    return f"{value:{form}}{unit}" if value is not None and math.isfinite(value) else NONE


loss = partial(number, form=".3f")
count = partial(number, form=",.0f")


def memory(value: float) -> str:
    """Bytes as gibibytes."""
    return number(value / 2**30, ".2f", " GiB")


def interval(results: Results) -> str:
    """The guide's interval, [worst, best]."""
    if not math.isfinite(results.worst):
        return NONE
    return f"[{results.worst:.2f}, {results.best:.2f}]"


def signed(value: float) -> str:
    """A difference in loss, with its sign."""
    rounded = number(value, "+.3f").replace("-", "−")
    return "0.000" if rounded[1:] == "0.000" else rounded


def bounds(estimate: Estimate | None) -> str:
    """The interval of a difference in loss; empty where it is unknown."""
    if estimate is None or math.isnan(estimate.low):
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
    """The interval of a speed-up over rounds, or that it is a figure without a claim."""
    if speed is None:
        return ""
    found = speed.estimate
    return f"{found.low:.2f} to {found.high:.2f}" if speed.claims else "no claim"


def gain(speed: SpeedUp) -> str:
    """A speed-up in percent, with its interval."""
    found = speed.estimate
    value, low, high = (100 * (v - 1) for v in (found.value, found.low, found.high))
    within = f" ({low:+.0f}% to {high:+.0f}%)" if speed.claims else ""
    return f"{value:+.0f}%{within}".replace("-", "−")


def setting(value: Any) -> str:
    """A configured value as one would type it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list() | tuple():
            return f"[{', '.join(map(setting, value))}]"
        case float():
            return f"{value:g}"
    return str(value)


MARKDOWN = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;"} | {sign: f"\\{sign}" for sign in "\\`*_[]|~$"}
)


def markdown(value: Any) -> str:
    """Text that Markdown and the HTML it becomes show as it is, on one line of a table."""
    return " ".join(str(value).split()).translate(MARKDOWN)


def together(values: Sequence[str]) -> str:
    """a, b and c"""
    *most, last = values or [""]
    return f"{', '.join(most)} and {last}" if most else last


FILTERS: dict[str, Callable[..., str]] = {
    "loss": loss, "count": count, "memory": memory, "interval": interval, "signed": signed,
    "bounds": bounds, "change": change, "times": times, "times_bounds": times_bounds,
    "setting": setting, "markdown": markdown,
}  # fmt: skip
