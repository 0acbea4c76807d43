"""Numbers as text, the same in the page, its Markdown twin and the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

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


def plus_minus(estimate: Estimate | None) -> str:
    """Half the interval of a difference in loss."""
    if estimate is None or math.isnan(estimate.low):
        return ""
    return f"± {estimate.half_width:.3f}"


def change(estimate: Estimate | None) -> str:
    """A difference in loss, with half its interval."""
    if estimate is None:
        return NONE
    return f"{signed(estimate.value)} {plus_minus(estimate)}".strip()


def times(estimate: Estimate | None) -> str:
    """A speed-up as a factor."""
    return NONE if estimate is None else f"{estimate.value:.2f}×"


def gain(estimate: Estimate) -> str:
    """A speed-up in percent, with its interval."""
    value, low, high = (100 * (v - 1) for v in (estimate.value, estimate.low, estimate.high))
    within = "" if math.isnan(low) else f" ({low:+.0f}% to {high:+.0f}%)"
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
    "plus_minus": plus_minus, "change": change, "times": times, "setting": setting,
    "markdown": markdown,
}  # fmt: skip
