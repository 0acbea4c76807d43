"""One colour and one dash a stage, the same in every figure, in light, in dark and in print.

The eight stage colours were searched for so that each stands out from the background (contrast of
at least 3 to 1, WCAG 1.4.11) and from every other, and from the baseline's grey, for normal
vision and under simulated protanopia, deuteranopia and tritanopia.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# name -> (light, dark). Every light value occurs once: figures are drawn in the light theme and
# the page finds the colours again by value.
THEME = {
    "ink": ("#1f2630", "#e8ebf0"),
    "muted": ("#59626f", "#a3acb9"),
    "line": ("#c9ced6", "#414956"),
    "grid": ("#e6e9ee", "#262c35"),
    "baseline": ("#868d97", "#8b929c"),
    "bad": ("#b3261e", "#ff8a80"),
    "stage-0": ("#0d92ee", "#4f7ae6"),
    "stage-1": ("#c17b1c", "#f8c654"),
    "stage-2": ("#5e0f70", "#a06cae"),
    "stage-3": ("#34786b", "#6fe3b4"),
    "stage-4": ("#9d5225", "#c87d1a"),
    "stage-5": ("#815cb1", "#d088f7"),
    "stage-6": ("#7e0319", "#d04a58"),
    "stage-7": ("#483ea7", "#c6c9ff"),
}
HUES = 8
DASHES = ("solid", (0, (5, 1.6)), (0, (1.4, 1.4)), (0, (6, 1.6, 1.4, 1.6)))
FIRST_HUE_NUMBER = 3


@dataclass(frozen=True)
class Look:
    """How a stage is drawn: the name of its colour in THEME, its dash, its place in the report."""

    colour: str
    dash: str | tuple[int, tuple[float, ...]]
    index: int

    @property
    def hex(self) -> str:
        return THEME[self.colour][0]

    @property
    def dasharray(self) -> str:
        """The dash for SVG, for a line as wide as the figures' (1.7)."""
        return (
            "none" if isinstance(self.dash, str) else " ".join(f"{1.7 * d:g}" for d in self.dash[1])
        )


def looks(stages: Sequence[tuple[str, float, str]]) -> dict[str, Look]:
    """The look of each stage, given (name, number, aim) in the report's order.

    The project's own stages have their colour by number, so that it is the same in a report on a
    part of the ladder; others take what is free, and past eight a new dash.
    """
    taken: set[tuple[int, int]] = set()
    found: dict[str, Look] = {}
    for index, (name, number, aim) in enumerate(stages):
        if aim in ("baseline", "flow"):
            found[name] = Look("baseline", DASHES[0] if aim == "baseline" else DASHES[2], index)
            continue
        wanted = 0 if math.isnan(number) else int(number) - FIRST_HUE_NUMBER
        hue, dash = wanted % HUES, 0
        while (hue, dash) in taken:
            hue = (hue + 1) % HUES
            if hue == wanted % HUES:
                dash += 1
        taken.add((hue, dash))
        found[name] = Look(f"stage-{hue}", DASHES[dash % len(DASHES)], index)
    return found
