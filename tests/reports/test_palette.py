"""The stages' colours are distinguishable and visible, as they are and on the dark page."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from reports.palette import GREY, STAGES, THEME, looks

TEMPLATES = Path(__file__).parents[2] / "reports" / "templates"
# Machado, Oliveira and Fernandes (2009), severity 1, for linear RGB.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}
# What the dark page's filter does: invert(0.92), and hue-rotate(180deg) by the matrix of the
# Filter Effects module, both in sRGB.
INVERT = 0.92
HUE_ROTATE = [[-0.574, 1.43, 0.144], [0.426, 0.43, 0.144], [0.426, 1.43, -0.856]]


def filtered(colour: str) -> str:
    value = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    turned = np.clip(HUE_ROTATE @ (value * (1 - 2 * INVERT) + INVERT), 0, 1)
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in turned)


# How figures and swatches are seen on the light page, and on the dark one.
SHOWN = {
    "light": {c: c for c in (*STAGES, GREY)},
    "dark": {c: filtered(c) for c in (*STAGES, GREY)},
}
THEMES = {"light": 0, "dark": 1}


def linear(colour: str) -> np.ndarray:
    value = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Ottosson (2020)."""
    to_lms = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.array(to_lab) @ np.cbrt(np.array(to_lms) @ np.clip(rgb, 0, 1))


def contrast(one: str, other: str) -> float:
    weights = np.array([0.2126, 0.7152, 0.0722])
    dark, light = sorted(float(linear(colour) @ weights) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", THEMES)
def test_every_stage_stands_out_from_the_page(theme: str) -> None:
    page = THEME["page"][THEMES[theme]]
    for name, shown in [*SHOWN[theme].items(), ("baseline", THEME["baseline"][THEMES[theme]])]:
        assert contrast(shown, page) >= 3, name
    for name in ("ink", "muted", "bad"):
        light, dark = THEME[name]
        own, in_figures = (light, light) if theme == "light" else (dark, filtered(light))
        assert contrast(own, page) >= 4.5, name
        assert contrast(in_figures, page) >= 4.5, name


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("sight", SIGHT)
def test_every_two_stages_are_distinguishable(theme: str, sight: str) -> None:
    seen = {
        name: oklab(np.array(SIGHT[sight]) @ linear(shown)) for name, shown in SHOWN[theme].items()
    }
    for one, other in itertools.combinations(seen, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > 0.06, (one, other)


def test_the_colours_are_tested_as_the_dark_page_shows_them() -> None:
    assert f"invert({INVERT}) hue-rotate(180deg)" in (TEMPLATES / "page.css").read_text()


def test_a_stage_keeps_its_colour_in_a_report_on_part_of_the_ladder() -> None:
    whole = looks([(f"step{n:02d}", n, "loss") for n in range(3, 11)])
    part = looks([("step07", 7, "speed")])
    assert part["step07"] == whole["step07"]
    many = looks([(f"own{n}", 11, "loss") for n in range(30)])
    assert len({(look.hex, str(look.dash)) for look in many.values()}) == 30
