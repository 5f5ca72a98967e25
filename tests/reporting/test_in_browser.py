"""The page in Chromium: nothing runs over, every link leads somewhere, colours can be read, texts are texts."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from skiplab.reporting.html import html
from tests.reporting.test_html import page as whole_page

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
SIZES = """
[...document.querySelectorAll("svg text")].filter((text) => text.getClientRects().length && text.textContent.trim())
  .map((text) => parseFloat(getComputedStyle(text).fontSize) * Math.hypot(text.getScreenCTM().a, text.getScreenCTM().b))
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[tuple[Page, list[str]]]":
    """The page in a browser, and what the browser's console says."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: extra `browser`")
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine: apt-get install chromium")
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html(whole_page(1, 8)))
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        tab = browser.new_page()
        said: list[str] = []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.goto(path.as_uri())
        yield tab, said
        browser.close()


def open_all(tab: "Page") -> None:
    tab.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")


@pytest.mark.parametrize("width", [400, 800, 1400])
def test_nothing_is_wider_than_the_window(shown: "tuple[Page, list[str]]", width: int) -> None:
    tab, _ = shown
    tab.set_viewport_size({"width": width, "height": 900})
    open_all(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [400, 800, 1400])
def test_no_text_of_a_plot_is_under_nine_pixels(shown: "tuple[Page, list[str]]", width: int) -> None:
    tab, _ = shown
    tab.set_viewport_size({"width": width, "height": 900})
    open_all(tab)
    sizes = tab.evaluate(SIZES)
    assert len(sizes) > 50
    assert min(sizes) >= 9


def test_one_of_the_pictures_is_shown(shown: "tuple[Page, list[str]]") -> None:
    tab, _ = shown
    for width, kind in ((400, "narrow"), (800, "narrow"), (1400, "wide")):
        tab.set_viewport_size({"width": width, "height": 900})
        assert tab.locator(".wide svg").is_visible() == (kind == "wide")
        assert tab.locator(".narrow svg").is_visible() == (kind == "narrow")


def test_a_link_opens_the_part_to_which_it_leads(shown: "tuple[Page, list[str]]") -> None:
    tab, _ = shown
    tab.evaluate("for (const part of document.querySelectorAll('details')) part.open = false")
    tab.click("a[href='#plot-depth_by_step']")
    tab.wait_for_function("document.getElementById('plot-depth_by_step').open")
    links = tab.eval_on_selector_all("a[href^='#']", "all => all.map(one => one.getAttribute('href').slice(1))")
    missing = tab.evaluate("names => names.filter(name => !document.getElementById(name))", links)
    assert len(links) > 10
    assert missing == []


def test_headings_sort_by_value_and_keep_failed_settings_last(shown: "tuple[Page, list[str]]") -> None:
    tab, _ = shown

    def names() -> list[str]:
        found = tab.locator("table.sortable tbody th").all_inner_texts()
        return [name.split("\n")[0].strip("●■◆ ") for name in found]

    heading = tab.locator("table.sortable thead button").nth(4)
    heading.click()
    assert names() == ["skipdecode 3x", "full 1x", "lost <b>"]
    heading.click()
    assert names() == ["full 1x", "skipdecode 3x", "lost <b>"]
    assert tab.locator("table.sortable thead [aria-sort=ascending]").count() == 1


def test_a_printed_page_has_margins_and_the_whole_table(shown: "tuple[Page, list[str]]") -> None:
    tab, _ = shown
    tab.emulate_media(media="print")
    cut = "[...document.querySelectorAll('.scroll')].filter(one => one.scrollHeight > one.clientHeight + 1).length"
    assert tab.evaluate(cut) == 0
    tab.set_viewport_size({"width": 690, "height": 900})
    assert tab.evaluate("document.querySelector('.sortable').scrollWidth") <= 690
    assert "@page { margin: 14mm; }" in tab.locator("style").inner_text()
    tab.emulate_media(media="screen")


def test_scripts_in_prompts_and_outputs_are_text(shown: "tuple[Page, list[str]]") -> None:
    tab, said = shown
    assert tab.title() == "x: skiplab"
    assert tab.locator("script").count() == 1
    open_all(tab)
    assert "<script>" in tab.locator("#outputs").inner_text()
    assert said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read(shown: "tuple[Page, list[str]]", scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed: extra `browser`")
    tab, _ = shown
    tab.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    open_all(tab)
    found = axe.Axe().run(tab, options={"runOnly": ["wcag2a", "wcag2aa"], "resultTypes": ["violations"]})
    assert found.response["violations"] == []
