"""Tables of the page in a real Chromium: sorted by what the numbers mean, by touch on a phone, and on paper."""

import numpy as np
import pytest

from reproduction.page import curves, maps
from reproduction.page.templates import PAGE, part
from tests.hierarchy.browser import need_browser, opened

need_browser()
OURS = ["1.61 M (3)", "6.0 K ± 1 (3)", "-", "250 (3)", "31.8 K (3)", "-0.5 (3)"]
ASCENDING = ["-0.5 (3)", "250 (3)", "6.0 K ± 1 (3)", "31.8 K (3)", "1.61 M (3)", "-"]


@pytest.fixture(scope="module")
def browser():
    with opened() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    rows = [(f"row-{at}", ours) for at, ours in enumerate(OURS)]
    text = (
        f"<meta name=viewport content='width=device-width'><style>{(PAGE / 'style.css').read_text()}</style>"
        f"<main>{part('table', ('row', 'ours'), rows)}</main><button class=theme></button>"
        f"<script>{(PAGE / 'script.js').read_text()}</script>"
    )
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(text)
    return path.as_uri()


@pytest.mark.parametrize("width", [1280, 390])
def test_a_table_is_sorted_by_its_numbers_on_a_laptop_and_by_touch(browser, address, width):
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(address)
    head = page.locator("th button").nth(1)
    box = head.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["height"] > 10
    head.click()
    assert page.locator("td[data-label=ours]").all_text_contents() == ASCENDING
    head.click()
    assert page.locator("td[data-label=ours]").all_text_contents() == [*ASCENDING[-2::-1], "-"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


SOFT = {("light", "screen"): (91, 95, 102), ("dark", "screen"): (163, 168, 176), ("dark", "print"): (68, 68, 68)}


@pytest.mark.parametrize(("scheme", "media"), SOFT)
def test_charts_follow_the_colours_of_the_page(browser, tmp_path, scheme, media):
    """Labels are as dark as other small text, lines have one colour a seed, and nothing is wider than a phone."""
    chart = curves.chart("loss", {seed: [(0.0, 1.0), (9.0, float(seed))] for seed in range(5)})
    plane = maps.draw(np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 1.0]]), np.arange(3), ["a", "$b$", "<c>"])
    style = f"<meta name=viewport content='width=device-width'><style>{(PAGE / 'style.css').read_text()}</style>"
    (tmp_path / "page.html").write_text(f"{style}<main>{chart}{plane}</main>", encoding="utf-8")
    page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    page.goto((tmp_path / "page.html").as_uri())
    page.emulate_media(media=media, color_scheme=scheme)
    label = "getComputedStyle(document.querySelector('svg.chart text')).fill"
    assert page.evaluate(label) == f"rgb{SOFT[scheme, media]}"
    strokes = "[...document.querySelectorAll('g[class^=k] path')].map((line) => getComputedStyle(line).stroke)"
    assert len(set(page.evaluate(strokes))) == 5
    assert page.locator("svg.map text").all_text_contents() == ["a", "$b$", "<c>"]
    ink = "getComputedStyle(document.querySelector('svg.map text')).fill"
    assert page.evaluate(ink) == page.evaluate("getComputedStyle(document.body).color")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_paper_is_no_phone(browser, address):
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(address)
    shown = "getComputedStyle(document.querySelector('td')).display"
    assert page.evaluate(shown) == "grid"
    page.emulate_media(media="print")
    assert page.evaluate(shown) == "table-cell"
    page.close()
