"""The viewer's panels and filters in a real Chromium, where what they once said was not so."""

import numpy as np
import pytest

from tests.hierarchy.browser import Page, export_arguments, need_browser, opened, planted_files

need_browser()

LEVELS = [np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1]), np.array([0, 0, 1, 2, 3, 3, 3, 4, 5, 5])]
SIMG, NULL = np.full((8, 24), 0.1), [0.5, 0.75, *[0.3] * 6]
SIMG[:2, 0], SIMG[3, 0] = (0.6, 0.72), 0.9


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    from hierarchy_cnn_torch.data import tree_files
    from hierarchy_cnn_torch.method import trees
    from hierarchy_cnn_torch.viewer import export
    from hierarchy_cnn_torch.viewer.view import write

    folder = tmp_path_factory.mktemp("ten")
    planted_files(folder, 10, LEVELS, [0.5, 0.35, 0.15], 30, 24)
    tree_files.save_tree(folder / "tree.json", trees.tree_of(LEVELS, [f"class {i:03d}" for i in range(10)]))
    words = [*export_arguments(folder, folder / "view.html"), "--tree", str(folder / "tree.json")]
    view = export.from_files(export.parser().parse_args(words))
    view.layers[0].simg, view.layers[0].null = SIMG, NULL
    write(view, folder / "view.html")
    return folder


@pytest.fixture
def page(view):
    with opened() as browser:
        page = Page(browser, view / "view.html")
        yield page
        assert page.errors == []


def test_a_channels_group_is_that_for_which_it_exceeds_chance_most(page):
    """Not that with the largest S: large groups have a large S by chance."""
    page.after(lambda: page.page.keyboard.press("2"))
    page.after(lambda: page.click_cell(3, 0))
    rows = [row.split("\t") for row in page.page.locator("#channelinfo table").inner_text().splitlines()]
    titles = [level["groups"] for level in page.js("blocks.meta.levels")]
    assert [[cell.strip() for cell in row] for row in rows[1:]] == [
        ["level 1", titles[0][0], "0.60", "0.50"],
        ["level 2", titles[1][1], "0.90", "0.30"],
    ]
    assert rows[0][2].strip() == "S" and page.js("blocks.meta.layers")[1]["null"] is None


def test_a_difference_is_named_by_its_sign_and_runs(page, view):
    page.after(lambda: page.page.select_option("#run", "diff"))
    change = np.load(view / "other.npy")[-1] - np.load(view / "m.npy")[-1]
    np.fill_diagonal(change, 0)
    runs = "from m to other"
    assert f"{change.sum():+} images {runs} in the cells shown" in page.page.locator("#totals").inner_text()
    order = page.js("blocks.order")
    row, column = next((r, c) for r in range(10) for c in range(10) if change[order[r], order[c]])
    page.after(lambda: page.click_cell(row, column))
    said = f"1 cells, {change[order[row], order[column]]:+} images {runs}"
    assert said in page.page.locator("#groupinfo").inner_text()


@pytest.mark.parametrize("filters", [{"minCount": 3}, {"scope": "across"}, {"run": "diff", "sign": "fewer"}, {}])
@pytest.mark.parametrize("aggregate", [False, True])
def test_a_rectangle_selects_the_cells_that_are_drawn(page, filters, aggregate):
    page.js("change => blocks.update(change)", filters | {"aggregate": aggregate, "diagonal": filters == {}})
    total = page.js("blocks.shown.total")
    ends = [page.js("([r, c]) => blocks.cellCentre(r, c)", place) for place in ([0, 0], [9, 9])]
    box = page.page.locator("#overlay").bounding_box()

    def drag():
        page.page.mouse.move(box["x"] + ends[0][0], box["y"] + ends[0][1])
        page.page.mouse.down()
        page.page.mouse.move(box["x"] + ends[1][0], box["y"] + ends[1][1], steps=4)
        page.page.mouse.up()

    page.after(drag)
    said = page.page.locator("#groupinfo h2").first.inner_text()
    assert f"cells, {total:+} images" in said if "run" in filters else f"cells, {total} images" in said


def test_escape_closes_the_help_and_keeps_the_selection(page):
    page.after(lambda: page.click_node(1))
    chosen = page.js("blocks.selection")
    page.page.keyboard.press("?")
    page.page.keyboard.press("Escape")
    assert page.page.locator("#helpbox").is_hidden() and page.js("blocks.selection") == chosen != []
    page.after(lambda: page.page.keyboard.press("Escape"))
    assert page.js("blocks.selection") == []


def test_a_print_has_no_controls_and_its_legend_stays_in_place(page):
    place = page.page.locator("#legend").bounding_box()
    page.page.emulate_media(media="print")
    for control in ("header label", "#filters", "#exports", "#minimap"):
        assert page.page.locator(control).first.is_hidden()
    legend = page.page.locator("#legend")
    assert legend.is_visible() and legend.bounding_box()["x"] == place["x"]
