"""Every colour of the report: the page's, and one colour and one dash a stage in every figure.

The stages' were searched for so that each stands out from the background (at least 3 to 1, WCAG
1.4.11), every other and the baseline's grey, for normal vision and simulated protanopia and
deuteranopia, as it is and as the dark page's filter shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# name -> (light, dark); the page has them as CSS variables.
THEME = {
    "page": ("#ffffff", "#14171c"),
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
}
# Figures are drawn for the light page.
INK, MUTED, LINE, GRID, GREY, GOOD, BAD = (
    THEME[name][0] for name in ("ink", "muted", "line", "grid", "baseline", "good", "bad")
)
STAGES = ("#0093fb", "#c17e1d", "#770048", "#3b7765", "#9a5203", "#8565ad", "#961706", "#463da7")
DASHES = ("solid", (0, (5, 1.6)), (0, (1.4, 1.4)), (0, (6, 1.6, 1.4, 1.6)))
FIRST_NUMBER = 3  # of the ladder's stages, the one with the first colour


@dataclass(frozen=True)
class Look:
    """How a stage is drawn: its colour on white, and the dash of its lines in matplotlib's form."""

    hex: str
    dash: Any


def looks(stages: Sequence[tuple[str, int, str]]) -> dict[str, Look]:
    """The look of each stage, given (name, number, aim) in the report's order.

    A colour by number, the same in a report on a part of the ladder; the next one where it is
    taken, and past eight a new dash.
    """
    found: dict[str, Look] = {}
    for name, number, aim in stages:
        if aim in ("baseline", "flow"):
            found[name] = Look(GREY, DASHES[0] if aim == "baseline" else DASHES[2])
            continue
        first = (number - FIRST_NUMBER) % len(STAGES)
        colours = STAGES[first:] + STAGES[:first]
        every = [Look(colour, dash) for dash in DASHES for colour in colours]
        found[name] = next((look for look in every if look not in found.values()), every[0])
    return found
