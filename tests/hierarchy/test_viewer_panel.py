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


@pytest.fixture(scope="module")
def run(view):
    """Two variants of seven and two epochs, and layers that were kept at fewer epochs."""
    from hierarchy_cnn_torch.viewer import export
    from hierarchy_cnn_torch.viewer.view import write

    words = [*export_arguments(view, view / "run.html"), "--tree", str(view / "tree.json")]
    view_of_run = export.from_files(export.parser().parse_args(words))
    ours, theirs = ([counts for _, counts in epochs] for _, epochs in view_of_run.runs)
    numbered = [(f"epoch {at + 1}", ours[at // 3]) for at in range(7)]
    view_of_run.runs = [
        ("A0", [*numbered, ("end", ours[2])]),
        ("A1", [("epoch 1", theirs[0]), ("epoch 2", theirs[1]), ("end", theirs[2])]),
    ]
    for at, layer in enumerate(view_of_run.layers):
        channels = 24 >> at
        kept = zip((0, 1, 2, 3, 5, 7), [*layer.epochs, *layer.epochs], strict=True)
        layer.epochs = [(f"epoch {epoch}", r[:, :channels], c, epoch / 10) for epoch, (_, r, c, _) in kept]
        layer.top = np.random.default_rng(at).choice(view_of_run.samples.ids, (25, channels))
    view_of_run.layers[0].simg, view_of_run.layers[0].null = SIMG, NULL
    write(view_of_run, view / "run.html")
    return view / "run.html"


@pytest.fixture(scope="module")
def browser():
    with opened() as browser:
        yield browser


@pytest.fixture
def run_page(browser, run):
    page = Page(browser, run)
    yield page
    assert page.errors == []
    page.page.close()


@pytest.fixture
def page(browser, view):
    page = Page(browser, view / "view.html")
    yield page
    assert page.errors == []
    page.page.close()


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


def test_epochs_are_found_by_their_number(run_page):
    """Not by their place in the list: runs and layers hold different epochs."""
    totals, name = run_page.page.locator("#totals"), run_page.page.locator("#epochname")

    def go(**change):
        run_page.js("change => blocks.update(change)", change)
        return totals.inner_text(), name.inner_text()

    assert run_page.js("blocks.state.epoch") == 8 and name.inner_text() == "end"
    assert go(tab="correlation") == ("conv1, epoch 7 (tree: confusions of end); Spearman with the tree 0.70", "epoch 7")
    assert go(epoch=6)[0].startswith("conv1, epoch 5 (tree: confusions of epoch 6); Spearman with the tree 0.50")
    assert go(epoch=5)[0] == "conv1, epoch 5; Spearman with the tree 0.50"
    assert go(epoch=0)[0].startswith("conv1, epoch 0 (tree: confusions of epoch 1)")
    assert go(epoch=4, tab="response")[0] == "conv1, 24 channels, epoch 3 (tree: confusions of epoch 4)"
    assert "(tree: confusions of A1, epoch 2)" in go(run="1")[0]
    assert go(tab="confusion")[1] == "epoch 2"
    assert go(run="diff")[1] == "A1 epoch 2, A0 epoch 4"
    assert go(epoch=8)[1] == "end"


def test_the_panel_names_the_epoch_of_what_exists_for_the_last_one_alone(run_page):
    said = lambda: run_page.page.locator("#channelinfo").inner_text()  # noqa: E731
    run_page.js("blocks.update({ tab: 'response', epoch: 1, channel: 3 })")
    assert "Always of epoch 7, the last one kept: S and the strongest images." in said()
    run_page.js("blocks.update({ layer: 1 })")
    assert "Always of epoch 7, the last one kept: the strongest images." in said()


def test_a_channel_that_the_layer_does_not_have_is_not_chosen(browser, run_page, run):
    run_page.js("blocks.update({ tab: 'response', channel: 20 })")
    assert "channel 20 of conv1" in run_page.page.locator("#channelinfo").inner_text()
    assert len(run_page.js("blocks.samples")) > 0
    run_page.after(lambda: run_page.page.select_option("#layer", "1"))  # of 12 channels
    fragment = run_page.js("location.hash")
    again = Page(browser, run, fragment)
    for page in (run_page, again):
        assert page.js("[blocks.state.layer, blocks.state.channel]") == [1, 20]
        assert page.js("blocks.samples") == [] and page.page.locator("#samplebar").is_hidden()
        assert "What this shows" in page.page.locator("#groupinfo").inner_text()
    assert again.errors == []
    again.page.close()


def test_cells_without_a_listed_image_do_not_claim_that_there_is_none(page, view):
    """The list holds the images of one run at its last epoch; the cell can be of another."""
    counts = np.load(view / "m.npy")
    row, column = (int(at[0]) for at in np.nonzero((counts[0] > 0) & (counts[-1] == 0)))
    page.js("change => blocks.update(change)", {"epoch": 0, "cells": [[row, column]]})
    assert f"1 cells, {counts[0][row, column]} images" in page.page.locator("#groupinfo").inner_text()
    said = page.page.locator("#samples").inner_text()
    assert said == "None of the listed images (errors and five right images of each class) is in these cells."
    page.js("blocks.update({ tab: 'response', cells: null, channel: 3 })")
    assert "does not list the strongest images of this channel" in page.page.locator("#samples").inner_text()


def test_a_page_without_images_names_the_flag_that_lists_them(browser, view, tmp_path):
    from hierarchy_cnn_torch.viewer import export
    from hierarchy_cnn_torch.viewer.view import write

    words = ["--confusion", view / "m.npy", "--names", view / "names.txt", "--out", tmp_path / "v.html"]
    write(export.from_files(export.parser().parse_args([str(word) for word in words])), tmp_path / "v.html")
    page = Page(browser, tmp_path / "v.html")
    page.after(lambda: page.click_node(1))
    (flag,) = [word.strip(",") for word in page.page.locator("#samples").inner_text().split() if "--" in word]
    assert flag in export.FLAGS
    page.page.close()
