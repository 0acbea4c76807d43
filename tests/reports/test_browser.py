"""The page in a real browser: Debian's Chromium, and axe-core where npm has installed it.

apt-get install chromium; npm ci --prefix tests/reports
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import reports
from tests.reports.conftest import write_ladder, write_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = Path("/usr/bin/chromium")
AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDTHS = {"phone": 390, "desktop": 1440}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs Chromium at {CHROMIUM}"),
    pytest.mark.xdist_group("browser"),
]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything on it: every status, a spike, a run apart, hostile text."""
    experiment = write_ladder(tmp_path_factory.mktemp("browser") / "ladder")
    evil = "<img src=http://nowhere.invalid/x onerror=alert(1)> $x_{y}$"
    over_time = {
        "every": 10,
        "samples": [{"prompt": evil, "seed": 1, "text": evil, "step": 9 * i} for i in range(9)],
        "hellaswag": [{"step": i, "items": 9, "acc": 0.3, "acc_norm": i / 50} for i in range(50)],
    }
    write_run(experiment, "own", stage__title=evil, stage__number=11, message=evil, **over_time)
    write_run(experiment, "long", stage__title="word" * 40, status="running", stage__number=12)
    losses = [11.0 - 0.05 * at for at in range(30)] + [math.nan]
    losses[20] = 14.0
    write_run(
        experiment, "wild", losses=losses, status="diverged", diverged_at=30, stage__number=13
    )
    write_run(experiment, "step03", label="apart", code="other", data__name="other")
    return reports.write_report([experiment])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield launched
        launched.close()


def open_page(browser: Browser, file: Path, width: int = 1440, **options: Any) -> Page:
    page = browser.new_context(viewport={"width": width, "height": 900}, **options).new_page()
    page.goto(file.as_uri())
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_the_page_is_quiet_whole_and_fits(
    browser: Browser, page_file: Path, width: int, scheme: Any
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    for details in page.query_selector_all("details"):
        details.evaluate("d => { d.open = true }")
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [page_file.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate(
        """width => [...document.querySelectorAll('body *')]
             .filter(e => !e.closest('svg') && !e.closest('thead'))
             .filter(e => e.getBoundingClientRect().right > width + 1).map(e => e.outerHTML)""",
        width,
    )
    assert wide == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    context.close()


def test_light_and_dark_follow_the_system(browser: Browser, page_file: Path) -> None:
    page = open_page(browser, page_file, color_scheme="light")
    colour = """name => getComputedStyle(document.querySelector(name))"""
    read = {
        "page": f"({colour})('body').backgroundColor",
        "curve": f"({colour})('.picture .stage path').stroke",
    }
    light = {name: page.evaluate(script) for name, script in read.items()}
    page.emulate_media(color_scheme="dark")
    dark = {name: page.evaluate(script) for name, script in read.items()}
    assert light["page"] == "rgb(255, 255, 255)"
    assert dark["page"] == "rgb(20, 23, 28)"
    assert light["curve"] != dark["curve"]


def picked(page: Page) -> set[str]:
    return set(page.evaluate("[...document.querySelectorAll('.picked')].map(e => e.dataset.stage)"))


def test_a_stage_is_picked_out_by_mouse(browser: Browser, page_file: Path) -> None:
    page = open_page(browser, page_file)
    row = page.locator("table.ladder tbody tr", has_text="step07")
    stage = row.get_attribute("data-stage")
    row.hover()
    assert picked(page) == {stage}
    assert "step07 Flash attention" in page.locator("#readout").inner_text()
    faded = page.locator(".picture .stage:not(.picked)").first
    assert faded.evaluate("e => e.matches('.picking *')")

    figure = page.locator("[data-plot='loss-steps']")
    figure.scroll_into_view_if_needed()
    box = figure.locator("svg").bounding_box()
    assert box is not None
    plot = page.evaluate("JSON.parse(document.getElementById('data').textContent).plots")
    left, top, right, bottom = plot["loss-steps"]["box"]
    (x0, x1, _), (y0, y1, _) = plot["loss-steps"]["x"], plot["loss-steps"]["y"]
    baseline = next(iter(plot["stage-step02"]["curves"]))
    xs, ys = plot["loss-steps"]["curves"][baseline]
    at_x = left + (xs[40] - x0) / (x1 - x0) * (right - left)
    at_y = bottom + (ys[40] - y0) / (y1 - y0) * (top - bottom)
    scale = box["width"] / 360
    page.mouse.move(box["x"] + at_x * scale, box["y"] + at_y * scale)
    assert picked(page) == {baseline}
    assert "optimizer step 40" in page.locator("#readout").inner_text()
    page.mouse.move(2, 2)
    assert picked(page) == set()


def test_a_stage_is_picked_out_by_keyboard(browser: Browser, page_file: Path) -> None:
    page = open_page(browser, page_file)
    button = page.locator("table.ladder button.pick", has_text="step04")
    button.focus()
    page.keyboard.press("Enter")
    stage = button.get_attribute("data-stage")
    assert stage is not None
    assert button.get_attribute("aria-pressed") == "true"
    page.keyboard.press("Tab")
    page.evaluate("document.activeElement.blur()")
    assert picked(page) == {stage}, "what was chosen stays picked out"
    page.keyboard.press("Escape")
    assert picked(page) == set()
    assert button.get_attribute("aria-pressed") == "false"


def test_without_scripts_the_page_says_everything(browser: Browser, page_file: Path) -> None:
    page = open_page(browser, page_file, java_script_enabled=False)
    text = page.locator("body").inner_text()
    for said in ("7.550 to 6.150 held-out loss", "diverged at step 30", "[10.95, 6.30]"):
        assert said in text
    assert page.locator("svg.picture").count() > 15
    assert page.locator(".script-only").first.is_hidden()


def test_every_picture_has_a_text_alternative(browser: Browser, page_file: Path) -> None:
    page = open_page(browser, page_file)
    named = page.locator("svg.picture[role=img][aria-label]")
    assert named.count() == page.locator("svg.picture").count()
    label = page.locator("[data-plot='stage-wild'] svg").get_attribute("aria-label")
    assert label is not None
    assert "spike to 14.00 at step 20" in label
    assert "diverged at step 30" in label


@pytest.mark.skipif(not AXE.exists(), reason="needs axe-core: npm ci --prefix tests/reports")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_axe_finds_nothing(browser: Browser, page_file: Path, width: int, scheme: Any) -> None:
    page = open_page(browser, page_file, width, color_scheme=scheme, bypass_csp=True)
    page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    problems = [
        (violation["id"], node["html"][:200], node.get("failureSummary", "")[:300])
        for violation in found["violations"]
        for node in violation["nodes"]
    ]
    assert problems == []
