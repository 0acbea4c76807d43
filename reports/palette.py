"""Every colour of the report: the page's, and one colour and one dash a stage in every figure.

The eight stage colours were searched for so that each stands out from the background (contrast of
at least 3 to 1, WCAG 1.4.11) and from every other, and from the baseline's grey, for normal
vision and under simulated protanopia, deuteranopia and tritanopia.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

# name -> (light, dark); the page has them as CSS variables. Every light value occurs once: figures
# are drawn in the light theme and the page finds the colours again by value.
THEME = {
    "page": ("#ffffff", "#14171c"),
    "raised": ("#f7f8fa", "#1b1f26"),
    "ink": ("#1f2630", "#e8ebf0"),
    "muted": ("#59626f", "#a3acb9"),
    "line": ("#c9ced6", "#414956"),
    "grid": ("#e6e9ee", "#262c35"),
    "baseline": ("#868d97", "#8b929c"),
    "good": ("#146c43", "#7ed6a5"),
    "good-wash": ("#e5f3eb", "#16302a"),
    "bad": ("#b3261e", "#ff8a80"),
    "bad-wash": ("#fbeae8", "#3a1f20"),
    "even-wash": ("#eef0f3", "#252a33"),
    "warn": ("#6b4a00", "#f3d58a"),
    "warn-wash": ("#fdf4dc", "#332a15"),
    "link": ("#1257a8", "#8ab8f5"),
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


def looks(stages: Sequence[tuple[str, int, str]]) -> dict[str, Look]:
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
        first = number - FIRST_HUE_NUMBER
        slots = (((first + n) % HUES, n // HUES) for n in itertools.count())
        hue, dash = next(slot for slot in slots if slot not in taken)
        taken.add((hue, dash))
        found[name] = Look(f"stage-{hue}", DASHES[dash % len(DASHES)], index)
    return found
