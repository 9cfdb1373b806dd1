"""The viewer in a real Chromium: interactions I1 to I10, no network, what is drawn is what was given."""

import json

import numpy as np
import pytest

from tests.hierarchy.browser import Page, export_arguments, need_browser, opened, planted_files

need_browser()

L10 = [np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1]), np.array([0, 0, 1, 2, 3, 3, 3, 4, 5, 5])]


def make(folder, size, levels, shares, per_class, channels):
    from hierarchy_cnn_torch.data import tree_files
    from hierarchy_cnn_torch.method import trees
    from hierarchy_cnn_torch.viewer import export
    from hierarchy_cnn_torch.viewer.view import write

    given = planted_files(folder, size, levels, shares, per_class, channels, images=size < 500)
    tree = trees.tree_of(levels, [f"class {i:03d}" for i in range(size)])
    tree_files.save_tree(folder / "tree.json", tree)
    words = export_arguments(folder, folder / "view.html", images=size < 500) + ["--tree", str(folder / "tree.json")]
    args = export.parser().parse_args(words)
    write(export.from_files(args), folder / "view.html")
    return folder / "view.html", *given


@pytest.fixture(scope="module")
def browser():
    with opened() as browser:
        yield browser


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    return make(tmp_path_factory.mktemp("ten"), 10, L10, [0.5, 0.35, 0.15], 60, 24)


@pytest.fixture
def page(browser, ten):
    page = Page(browser, ten[0])
    yield page
    assert page.errors == []
    assert all(url.startswith(("file://", "data:", "blob:")) for url in page.requests)
    page.page.close()


def samples_of_cell(ten, row, column):
    _, _, labels, predicted = ten
    return set(np.flatnonzero((labels == row) & (predicted == column)).tolist())


def test_first_view_hides_the_diagonal_and_adds_up(page, ten):
    errors = ten[1][-1].sum() - np.trace(ten[1][-1])
    assert page.js("blocks.shown.total") == errors
    assert sorted(page.js("blocks.order")) == list(range(10))
    totals = page.page.locator("#totals")
    assert totals.inner_text() == f"{errors} shown of {errors} errors, {ten[1][-1].sum()} images"
    page.after(lambda: page.page.keyboard.press("d"))
    assert page.js("blocks.shown.total") == ten[1][-1].sum()
    assert totals.inner_text() == f"{ten[1][-1].sum()} shown of {ten[1][-1].sum()} images"


def test_the_matrix_fills_the_window_and_no_name_meets_the_note(browser, ten, tmp_path):
    long = [f"a class with a long name, number {i}" for i in range(10)]
    (tmp_path / "names.txt").write_text("\n".join(long))
    words = ["--confusion", str(ten[0].parent / "m.npy"), "--names", str(tmp_path / "names.txt")]
    from hierarchy_cnn_torch.viewer import export
    from hierarchy_cnn_torch.viewer.view import write

    write(export.from_files(export.parser().parse_args([*words, "--out", "view.html"])), tmp_path / "view.html")
    page = Page(browser, tmp_path / "view.html", width=1440, height=1000)
    box = page.page.locator("#overlay").bounding_box()
    (left, top), (right, bottom) = (page.js("([r, c]) => blocks.cellCentre(r, c)", place) for place in ([0, 0], [9, 9]))
    half = (right - left) / 18, (bottom - top) / 18
    assert right + half[0] >= 0.93 * box["width"] and bottom + half[1] >= 0.98 * box["height"]
    # between the note on the axes and the names below it a line is blank, and both have ink
    ink = page.js(
        """() => { const m = document.getElementById('matrix'), g = m.getContext('2d');
        return Array.from({ length: 92 }, (_, y) => g.getImageData(0, y, m.width, 1).data.some(v => v)); }"""
    )
    assert any(ink[:14]) and not any(ink[14:18]) and sum(ink[18:88]) > 35
    assert page.errors == []


def test_the_panel_explains_itself_while_nothing_is_selected(page, ten):
    counts = ten[1][-1].copy()
    np.fill_diagonal(counts, 0)
    panel = page.page.locator("#groupinfo")
    rows = [row.split("\t") for row in panel.locator("table").inner_text().splitlines()]
    for level, row in zip(L10, rows[1:], strict=True):
        inside = counts[level[:, None] == level[None]].sum() / counts.sum()
        size = np.bincount(level)[level]
        chance = (counts.sum(1) * (size - 1) / 9).sum() / counts.sum()
        assert [cell.strip() for cell in row][1:] == [
            str(level.max() + 1),
            f"{100 * inside:.1f} %",
            f"{100 * chance:.1f} %",
        ]
    assert page.page.locator("#samplebar").is_hidden() and page.js("blocks.samples") == []
    page.after(lambda: panel.locator("button").first.click())
    [[row, column]] = page.js("blocks.state.cells")
    assert counts[row, column] == counts.max() and set(page.js("blocks.samples")) == samples_of_cell(ten, row, column)
    assert "What this shows" not in panel.inner_text()
    page.after(lambda: page.page.keyboard.press("Escape"))
    for key, word in (("2", "channels of a layer"), ("3", "two classes"), ("1", "Most frequent confusions")):
        page.after(lambda key=key: page.page.keyboard.press(key))
        assert word in panel.inner_text()


def test_the_picture_for_the_docs_is_small_and_shows_a_group(ten, tmp_path, capsys):
    from PIL import Image

    from hierarchy_cnn_torch.viewer import screenshot

    meta = json.loads(screenshot.META.search(ten[0].read_text()).group(1))
    group = list(screenshot.names_of(meta["tree"]))[1]
    for words, name in (([], "plain.png"), (["--group", group], "group.png")):
        screenshot.main([str(ten[0]), "--out", str(tmp_path / name), *words])
        with Image.open(tmp_path / name) as image:
            assert image.size == (1200, 833) and (tmp_path / name).stat().st_size < 300_000
    assert "plain.png: " in capsys.readouterr().out
    assert (tmp_path / "plain.png").read_bytes() != (tmp_path / "group.png").read_bytes()
    (tmp_path / "other.html").write_text("<html></html>")
    for words, said in (
        ([str(ten[0]), "--group", "none such"], "--group none such: not in the tree"),
        ([str(tmp_path / "other.html")], "not a page of the viewer"),
        ([str(tmp_path / "missing.html")], "No such file"),
    ):
        with pytest.raises(SystemExit):
            screenshot.main([*words, "--out", str(tmp_path / "no.png")])
        assert said in capsys.readouterr().err and not (tmp_path / "no.png").exists()


def test_i1_a_node_selects_its_classes_and_bands_change_colour(page):
    nodes = page.js("blocks.nodes")
    index = next(i for i, node in enumerate(nodes) if node["depth"] == 1)
    inside = page.js("blocks.order").index(nodes[index]["classes"][0])
    outside = next(i for i, c in enumerate(page.js("blocks.order")) if c not in nodes[index]["classes"])
    before = page.pixel(inside, inside), page.pixel(outside, outside)
    page.after(lambda: page.click_node(index))
    assert page.js("blocks.selection") == nodes[index]["classes"]
    assert page.pixel(inside, inside) != before[0] and page.pixel(outside, outside) == before[1]
    other = next(i for i, node in enumerate(nodes) if node["depth"] == 1 and i != index)
    page.after(lambda: page.click_node(other, ["Shift"]))
    assert page.js("blocks.selection") == list(range(10))
    page.after(lambda: page.page.keyboard.press("Escape"))
    assert page.js("blocks.selection") == []


def test_i1_group_figures_are_those_of_the_metrics(page, ten):
    from hierarchy_cnn_torch.method.statistics import group_report

    report = group_report(ten[1][-1], L10[0])
    nodes = page.js("blocks.nodes")
    index = next(i for i, node in enumerate(nodes) if node["classes"] == [0, 1, 2, 3])
    page.after(lambda: page.click_node(index))
    text = page.page.locator("#groupinfo").inner_text()
    for value in (report["recall"][0], report["precision"][0], report["f1"][0]):
        assert f"{100 * value:.1f} %" in text


def test_i2_hover_says_what_the_cell_is(page, ten):
    order = page.js("blocks.order")
    row, column = next((r, c) for r in range(10) for c in range(10) if r != c and ten[1][-1][order[r], order[c]] > 0)
    x, y = page.js("([r, c]) => blocks.cellCentre(r, c)", [row, column])
    box = page.page.locator("#overlay").bounding_box()
    page.page.mouse.move(box["x"] + x, box["y"] + y)
    count = ten[1][-1][order[row], order[column]]
    text = page.page.locator("#status").inner_text()
    assert f"actual class {order[row]:03d}, predicted class {order[column]:03d}: {count} " in text
    assert "lowest common group" in text


def test_i3_a_cell_gives_its_image_ids(page, ten):
    order = page.js("blocks.order")
    row, column = next((r, c) for r in range(10) for c in range(10) if r != c and ten[1][-1][order[r], order[c]] > 1)
    page.after(lambda: page.click_cell(row, column))
    assert set(page.js("blocks.samples")) == samples_of_cell(ten, order[row], order[column])
    assert page.page.locator(".tile").count() == len(page.js("blocks.samples"))


def test_i3_a_rectangle_gives_the_images_of_its_cells_grouped(page, ten):
    order = page.js("blocks.order")
    box = page.page.locator("#overlay").bounding_box()
    start, end = (page.js("([r, c]) => blocks.cellCentre(r, c)", place) for place in ([0, 4], [2, 8]))

    def drag():
        page.page.mouse.move(box["x"] + start[0], box["y"] + start[1])
        page.page.mouse.down()
        page.page.mouse.move(box["x"] + end[0], box["y"] + end[1], steps=4)
        page.page.mouse.up()

    page.after(drag)
    wanted = set()
    for r in range(0, 3):
        for c in range(4, 9):
            if r != c:
                wanted |= samples_of_cell(ten, order[r], order[c])
    assert set(page.js("blocks.samples")) == wanted
    page.after(lambda: page.page.select_option("#groupby", "predicted"))
    assert "predicted: class" in page.page.locator("#samples h2").first.inner_text()
    page.after(lambda: page.page.select_option("#sortby", "s1"))
    assert set(page.js("blocks.samples")) == wanted


def test_i4_filters_count_what_they_show(page, ten):
    counts = ten[1][-1].copy()
    np.fill_diagonal(counts, 0)
    page.after(lambda: page.page.fill("#mincount", "3"))
    assert page.js("blocks.shown.total") == counts[counts >= 3].sum()
    page.after(lambda: page.page.fill("#mincount", "1"))
    level = L10[page.js("blocks.level")]
    same = level[:, None] == level[None]
    page.after(lambda: page.page.select_option("#scope", "inside"))
    assert page.js("blocks.shown.total") == counts[same].sum()
    page.after(lambda: page.page.select_option("#scope", "across"))
    assert page.js("blocks.shown.total") == counts[~same].sum()
    assert f"{counts[~same].sum():,} shown of {counts.sum():,} errors" in page.page.locator("#totals").inner_text()
    before = page.js("blocks.filters")
    page.after(lambda: page.page.select_option("#colour", "binary"))
    assert before["colour"] == "log" and page.js("blocks.filters")["colour"] == "binary"


def test_i5_level_and_aggregate(page, ten):
    page.after(lambda: page.page.keyboard.press("["))
    assert page.js("blocks.level") == 0
    page.after(lambda: page.page.check("#aggregate"))
    counts = ten[1][-1]
    across = counts[np.ix_(L10[0] == 0, L10[0] == 1)].sum() + counts[np.ix_(L10[0] == 1, L10[0] == 0)].sum()
    errors = counts.sum() - np.trace(counts)
    assert page.js("blocks.shown") == {"total": errors, "count": 4}
    page.after(lambda: page.page.select_option("#scope", "inside"))
    assert page.js("blocks.shown") == {"total": errors - across, "count": 2}
    page.after(lambda: page.page.select_option("#scope", "across"))
    assert page.js("blocks.shown") == {"total": across, "count": 2}
    page.after(lambda: page.page.select_option("#scope", "all"))
    page.after(lambda: page.page.check("#diagonal"))
    assert page.js("blocks.shown") == {"total": counts.sum(), "count": 4}


def test_i6_orders_are_shared(page, ten):
    counts = ten[1][-1]
    page.after(lambda: page.page.select_option("#order", "id"))
    assert page.js("blocks.order") == list(range(10))
    page.after(lambda: page.page.select_option("#order", "popularity"))
    popularity = counts.sum(0) / counts.sum(1)
    assert page.js("blocks.order") == sorted(range(10), key=lambda c: (-popularity[c], c))
    page.after(lambda: page.page.select_option("#order", "recall"))
    order = page.js("blocks.order")
    recall = np.diag(counts) / counts.sum(1)
    for group in range(6):
        inside = [c for c in order if L10[1][c] == group]
        assert inside == sorted(inside, key=lambda c: (-recall[c], c))
        places = [order.index(c) for c in inside]
        assert max(places) - min(places) == len(inside) - 1


def test_i7_response_columns_are_resorted_and_a_channel_is_explained(page, ten):
    from hierarchy_cnn_torch.method.selectivity import random_best, sample_selectivity
    from hierarchy_cnn_torch.viewer.view import scaled_bytes

    page.after(lambda: page.page.keyboard.press("2"))
    assert page.js("blocks.channels") == list(range(24))
    nodes = page.js("blocks.nodes")
    index = next(i for i, node in enumerate(nodes) if node["classes"] == [0, 1, 2, 3])
    page.after(lambda: page.click_node(index))
    maps = np.load(ten[0].parent / "responses.npz")["conv1"][-1]
    share = sample_selectivity(scaled_bytes(maps), L10[0] == 0)
    shown = share[page.js("blocks.channels")]
    assert (np.diff(shown) <= 1e-9).all() and shown[0] == share.max()
    page.after(lambda: page.click_cell(3, 0))
    text = page.page.locator("#channelinfo").inner_text()
    assert f"channel {page.js('blocks.channels')[0]}" in text and "level 1" in text and "by chance" in text
    assert page.page.locator("#channelinfo canvas").count() == 1
    best = f"class-rank S = {share.max():.2f}, by chance {random_best(10, 4, 24):.2f}"
    assert best in page.page.locator("#totals").inner_text() and "class-rank S" in text


def test_i8_epochs_play_and_difference(page, ten):
    page.after(lambda: page.page.keyboard.press(","))
    first = ten[1][1]
    assert page.js("blocks.shown.total") == first.sum() - np.trace(first)
    page.after(lambda: page.page.keyboard.press("."))
    page.after(lambda: page.page.select_option("#run", "diff"))
    other = np.load(ten[0].parent / "other.npy")[-1]
    change = other - ten[1][-1]
    np.fill_diagonal(change, 0)
    assert page.js("blocks.shown.total") == change.sum()
    page.after(lambda: page.page.select_option("#sign", "fewer"))
    assert page.js("blocks.shown.total") == change[change < 0].sum()
    page.after(lambda: page.page.click("#play"))
    page.until("blocks.state.epoch !== 2")
    page.page.click("#play")


def test_i9_zoom_minimap_search_and_keyboard(page):
    box = page.page.locator("#overlay").bounding_box()
    page.page.mouse.move(box["x"] + 300, box["y"] + 300)
    assert page.page.locator("#minimap").is_hidden()
    page.after(lambda: page.page.mouse.wheel(0, -300))
    assert page.js("blocks.view.kx") > 1 and page.page.locator("#minimap").is_visible()
    before = page.js("blocks.view.x")
    page.after(lambda: page.page.click("#minimap", position={"x": 100, "y": 100}))
    assert page.js("blocks.view.x") > before
    page.after(lambda: page.page.keyboard.press("0"))
    assert page.js("blocks.view") == {"x": 0, "y": 0, "kx": 1, "ky": 1}
    page.page.keyboard.press("/")
    page.page.keyboard.type("class 004")
    page.after(lambda: page.page.keyboard.press("Enter"))
    assert page.js("blocks.selection") == [4]
    page.page.focus("#overlay")
    for key in ("ArrowDown", "ArrowRight", "ArrowRight"):
        page.page.keyboard.press(key)
    page.after(lambda: page.page.keyboard.press("Enter"))
    order = page.js("blocks.order")
    assert f"actual class {order[0]:03d}" in page.page.locator("#status").inner_text() or page.js("blocks.state.cells")


def test_i9_the_tree_works_without_a_mouse(page):
    page.page.focus("#icicle")
    page.page.keyboard.press("ArrowRight")
    page.after(lambda: page.page.keyboard.press("Enter"))
    assert len(page.js("blocks.selection")) in (4, 6)
    assert "recall" in page.page.locator("#status").inner_text()


def test_i10_selection_file_picture_and_link(page, ten, browser, tmp_path):
    order = page.js("blocks.order")
    row, column = next((r, c) for r in range(10) for c in range(10) if r != c and ten[1][-1][order[r], order[c]] > 1)
    page.after(lambda: page.click_cell(row, column))
    with page.page.expect_download() as caught:
        page.page.click("#save-json")
    caught.value.save_as(tmp_path / "selection.json")
    saved = json.loads((tmp_path / "selection.json").read_text())
    assert {image["id"] for image in saved["images"]} == samples_of_cell(ten, order[row], order[column])
    assert all(image["relabel"] is None for image in saved["images"])
    with page.page.expect_download() as caught:
        page.page.click("#save-png")
    caught.value.save_as(tmp_path / "view.png")
    assert (tmp_path / "view.png").read_bytes()[1:4] == b"PNG"
    page.after(lambda: page.page.select_option("#order", "popularity"))
    fragment = page.js("location.hash")
    again = Page(browser, ten[0], fragment)
    assert again.js("blocks.state.order") == "popularity" and again.js("blocks.samples") == page.js("blocks.samples")
    broken = Page(browser, ten[0], "#%7B%22order%22%3A%22nonsense%22%2C%22nodes%22%3A%5B999%5D%7D")
    assert broken.js("blocks.state.order") == "tree" and broken.js("blocks.selection") == []
    assert again.errors == broken.errors == []


def test_class_correlation_tab(page):
    page.after(lambda: page.page.keyboard.press("3"))
    assert page.pixel(0, 0) != page.pixel(0, 9)
    assert "conv1" in page.page.locator("#totals").inner_text()


def test_keys_are_listed_and_every_control_has_a_name(page):
    page.page.keyboard.press("?")
    assert page.page.locator("#helpbox").is_visible()
    unnamed = page.js(
        """() => [...document.querySelectorAll('select, input, button, canvas')].filter(e =>
        !(e.labels && e.labels.length) && !e.textContent.trim() && !e.getAttribute('aria-label')
        && !e.getAttribute('aria-hidden')).map(e => e.id)"""
    )
    assert unnamed == []


@pytest.mark.parametrize("size", [100, 1000])
def test_larger_files_draw_what_they_hold(browser, tmp_path, size):
    if size == 100:
        levels, shares, per_class, channels = [np.arange(100) // 50, np.arange(100) // 5], [0.55, 0.3, 0.15], 40, 128
    else:
        levels = [np.arange(1000) // 500, np.arange(1000) // 100, np.arange(1000) // 20]
        shares, per_class, channels = [0.6, 0.2, 0.12, 0.08], 10, 500
    path, counts, _, _ = make(tmp_path, size, levels, shares, per_class, channels)
    page = Page(browser, path)
    assert page.js("blocks.shown.total") == counts[-1].sum() - np.trace(counts[-1])
    for order in ("id", "popularity", "tree"):
        page.js("order => blocks.update({ order })", order)
    page.js("blocks.update({ tab: 'response' })")
    assert len(page.js("blocks.channels")) == channels
    page.js("blocks.update({ tab: 'correlation' })")
    assert page.errors == []
    # a lone count must be visible at less than a pixel per cell
    if size == 1000:
        page.js("blocks.update({ tab: 'confusion', order: 'id' })")
        matrix = counts[-1].copy()
        np.fill_diagonal(matrix, 0)
        rows, columns = np.nonzero(matrix == 1)
        far = np.flatnonzero(np.abs(rows - columns) > 300)[:5]
        assert all(page.pixel(int(rows[i]), int(columns[i]))[:3] != [255, 255, 255] for i in far)
