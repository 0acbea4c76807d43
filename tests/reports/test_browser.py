"""The page in a real browser: Debian's Chromium, and axe-core where npm has installed it.

apt-get install chromium; npm ci --prefix tests/reports
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = Path("/usr/bin/chromium")
AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
VIEWS = [*product([390, 1440], ["light", "dark"])]  # of a phone and a desktop
COLOURS = {
    "light": ["rgb(255, 255, 255)", "none"],
    "dark": ["rgb(20, 23, 28)", "invert(0.92) hue-rotate(180deg)"],
}
SEEN = """async width => {
  document.querySelectorAll('details').forEach(each => { each.open = true })
  const all = [...document.querySelectorAll('body *')], right = e => e.getBoundingClientRect().right
  const style = (name, key) => getComputedStyle(document.querySelector(name))[key]
  for (const image of document.images) { image.loading = 'eager'; await image.decode() }
  return {
    whole: document.documentElement.scrollWidth,
    wide: all.filter(e => !e.closest('thead, nav') && right(e) > width + 1).map(e => e.outerHTML),
    narrow: [...document.querySelectorAll('.verdict')].map(e => [e, e.getBoundingClientRect()])
      .filter(([_, box]) => box.width < 60 && box.height > 30).map(([e]) => e.textContent),
    ids: [...document.querySelectorAll('[id]')].map(e => e.id),
    colours: [style('body', 'backgroundColor'), style('img', 'filter')],
    pictures: [...document.images].map(e => [e.naturalWidth, e.alt]),
  }
}"""

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


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_the_page_is_quiet_whole_and_fits(
    browser: Browser, page: Path, width: int, scheme: Any
) -> None:
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(page.as_uri())
    seen = opened.evaluate(SEEN, width)
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert seen["whole"] <= width
    assert (seen["wide"], seen["narrow"]) == ([], []), "a word a line, or a letter"
    assert len(seen["ids"]) == len(set(seen["ids"])) > 10
    assert seen["colours"] == COLOURS[scheme]
    assert len(seen["pictures"]) > 25
    assert all(wide > 100 and alternative for wide, alternative in seen["pictures"])
    assert any("wild" in alt and "diverged at step 30" in alt for _, alt in seen["pictures"])
    opened.close()


@pytest.mark.skipif(not AXE.exists(), reason="needs axe-core: npm ci --prefix tests/reports")
@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_axe_finds_nothing(browser: Browser, page: Path, width: int, scheme: Any) -> None:
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened.goto(page.as_uri())
    opened.evaluate(AXE.read_text(encoding="utf-8"))
    found = opened.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    problems = [(each["id"], node["html"][:200]) for each in found for node in each["nodes"]]
    assert problems == []
    opened.close()


def test_there_are_no_scripts_and_none_is_needed(browser: Browser, page: Path) -> None:
    opened = browser.new_page(java_script_enabled=False)
    opened.goto(page.as_uri())
    text = opened.locator("body").inner_text()
    for said in ("7.550 to 6.150 held-out loss", "diverged at step 30", "10.95 to 6.30"):
        assert said in text
    assert opened.locator("script").count() == 0
    rates = opened.locator("section", has=opened.locator("h2", has_text="Learning rates"))
    assert "train.learning_rate=0.0007" not in rates.inner_text()
    rates.locator("summary").click()
    assert "train.learning_rate=0.0007" in rates.inner_text()
    opened.get_by_label("More on step07").click()
    assert "model.attention: manual → flash" in opened.locator("body").inner_text()
