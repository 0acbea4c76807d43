"""The page in a real browser: Debian's Chromium, and axe-core where npm has installed it.

apt-get install chromium; npm ci --prefix tests/reports
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = Path("/usr/bin/chromium")
AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
WIDTHS = {"phone": 390, "desktop": 1440}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs Chromium at {CHROMIUM}"),
    pytest.mark.xdist_group("browser"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield launched
        launched.close()


def open_page(browser: Browser, file: Path, width: int = 1440, **options: Any) -> Page:
    opened = browser.new_context(viewport={"width": width, "height": 900}, **options).new_page()
    opened.goto(file.as_uri())
    return opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_the_page_is_quiet_whole_and_fits(
    browser: Browser, page: Path, width: int, scheme: Any
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(page.as_uri())
    for details in opened.query_selector_all("details"):
        details.evaluate("d => { d.open = true }")
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    wide = opened.evaluate(
        """width => [...document.querySelectorAll('body *')]
             .filter(e => !e.closest('thead'))
             .filter(e => e.getBoundingClientRect().right > width + 1).map(e => e.outerHTML)""",
        width,
    )
    assert wide == []
    narrow = opened.evaluate(
        """() => [...document.querySelectorAll('.verdict')]
             .filter(e => e.getBoundingClientRect().width < 60).map(e => e.textContent)"""
    )
    assert narrow == [], "a word a line, or a letter"
    ids = opened.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    context.close()


def test_light_and_dark_follow_the_system(browser: Browser, page: Path) -> None:
    opened = open_page(browser, page, color_scheme="light")
    style = "([name, key]) => getComputedStyle(document.querySelector(name))[key]"

    def seen() -> tuple[str, str]:
        return tuple(
            opened.evaluate(style, of) for of in (("body", "backgroundColor"), ("img", "filter"))
        )

    assert seen() == ("rgb(255, 255, 255)", "none")
    opened.emulate_media(color_scheme="dark")
    assert seen() == ("rgb(20, 23, 28)", "invert(0.92) hue-rotate(180deg)")


def test_every_picture_is_drawn_and_has_a_text_alternative(browser: Browser, page: Path) -> None:
    opened = open_page(browser, page)
    pictures = opened.locator("img")
    assert pictures.count() > 25
    for picture in pictures.all():
        picture.scroll_into_view_if_needed()
        picture.evaluate("e => e.decode()")
        assert picture.evaluate("e => e.naturalWidth") > 100
        assert picture.get_attribute("alt")
    alternatives = [str(picture.get_attribute("alt")) for picture in pictures.all()]
    assert any("wild" in each and "diverged at step 30" in each for each in alternatives)


def test_there_are_no_scripts_and_none_is_needed(browser: Browser, page: Path) -> None:
    opened = open_page(browser, page, java_script_enabled=False)
    text = opened.locator("body").inner_text()
    for said in ("7.550 to 6.150 held-out loss", "diverged at step 30", "[10.95, 6.30]"):
        assert said in text
    assert opened.locator("script").count() == 0
    opened.locator("summary", has_text="Its 14 rows").click()
    assert "train.learning_rate=0.0007" in opened.locator("body").inner_text()


@pytest.mark.skipif(not AXE.exists(), reason="needs axe-core: npm ci --prefix tests/reports")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_axe_finds_nothing(browser: Browser, page: Path, width: int, scheme: Any) -> None:
    opened = open_page(browser, page, width, color_scheme=scheme, bypass_csp=True)
    opened.add_script_tag(content=AXE.read_text(encoding="utf-8"))
    found = opened.evaluate("axe.run(document, {resultTypes: ['violations']})")
    problems = [
        (violation["id"], node["html"][:200], node.get("failureSummary", "")[:300])
        for violation in found["violations"]
        for node in violation["nodes"]
    ]
    assert problems == []
