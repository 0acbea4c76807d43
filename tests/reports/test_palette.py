"""The stages' colours are distinguishable and visible, as they are and on the dark page."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb

from reports.palette import GREY, STAGES, THEME, looks
from reports.wording import TEMPLATES

# Machado, Oliveira and Fernandes (2009), severity 1, for linear RGB.
SIGHT = {
    "normal": np.eye(3).ravel(),
    "protanopia": [0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216,
                   -0.003882, -0.048116, 1.051998],
    "deuteranopia": [0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413,
                     -0.011820, 0.042940, 0.968881],
}  # fmt: skip
# Ottosson (2020): OKLab.
TO_LMS = [0.4122214708, 0.5363325363, 0.0514459929, 0.2119034982, 0.6806995451, 0.1073969566,
          0.0883024619, 0.2817188376, 0.6299787005]  # fmt: skip
TO_LAB = [0.2104542553, 0.7936177850, -0.0040720468, 1.9779984951, -2.4285922050, 0.4505937099,
          0.0259040371, 0.7827717662, -0.8086757660]  # fmt: skip
# What the dark page's filter does: invert(0.92), and hue-rotate(180deg) by the matrix of the
# Filter Effects module, both in sRGB.
INVERT = 0.92
HUE_ROTATE = [[-0.574, 1.43, 0.144], [0.426, 0.43, 0.144], [0.426, 1.43, -0.856]]


def filtered(colour: str) -> str:
    inverted = np.array(to_rgb(colour)) * (1 - 2 * INVERT) + INVERT
    return to_hex(np.clip(HUE_ROTATE @ inverted, 0, 1))


# How figures and swatches are seen on the light page, and on the dark one.
THEMES = [str, filtered]


def linear(colour: str) -> np.ndarray:
    value = np.array(to_rgb(colour))
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    weights = np.array([0.2126, 0.7152, 0.0722])
    dark, light = sorted(float(linear(colour) @ weights) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_every_stage_stands_out_from_the_page(theme: int) -> None:
    page, shown = THEME["page"][theme], THEMES[theme]
    for colour in (*map(shown, (*STAGES, GREY)), THEME["baseline"][theme]):
        assert contrast(colour, page) >= 3, colour
    for name in ("ink", "muted", "bad"):
        assert contrast(THEME[name][theme], page) >= 4.5, name
        assert contrast(shown(THEME[name][0]), page) >= 4.5, name
    assert f"invert({INVERT}) hue-rotate(180deg)" in (TEMPLATES / "page.css").read_text()


@pytest.mark.parametrize("shown", THEMES, ids=["light", "dark"])
@pytest.mark.parametrize("sight", SIGHT)
def test_every_two_stages_are_distinguishable(shown: type[str], sight: str) -> None:
    lms, lab, seen = (np.reshape(each, (3, 3)) for each in (TO_LMS, TO_LAB, SIGHT[sight]))
    colours = [seen @ linear(shown(colour)) for colour in (*STAGES, GREY)]
    places = [lab @ np.cbrt(lms @ np.clip(colour, 0, 1)) for colour in colours]
    for one, other in itertools.combinations(places, 2):
        assert np.linalg.norm(one - other) > 0.06


def test_a_stage_keeps_its_colour_in_a_report_on_part_of_the_ladder() -> None:
    whole = looks([(f"step{n:02d}", n, "loss") for n in range(3, 11)])
    assert looks([("step07", 7, "speed")])["step07"] == whole["step07"]
    many = looks([(f"own{n}", 11, "loss") for n in range(30)])
    assert len({(look.hex, str(look.dash)) for look in many.values()}) == 30
