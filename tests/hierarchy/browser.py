"""A real Chromium for the viewer's tests; where there is none, they skip and say so."""

import contextlib
import os
import shutil

import numpy as np
import pytest

from hierarchy_cnn_torch.method import statistics

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def need_browser():
    """Skips the calling module without Chromium or playwright."""
    if os.environ.get("REQUIRE_BROWSER"):  # set in .ci/run: skipping would hide the viewer's tests
        import playwright.sync_api  # noqa: F401

        assert CHROMIUM, "REQUIRE_BROWSER is set and there is no Chromium"
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    if not CHROMIUM:
        pytest.skip("no Chromium: apt-get install chromium, or set CHROMIUM to one", allow_module_level=True)


@contextlib.contextmanager
def opened():
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Page:
    """One viewer page, with what went wrong on it."""

    def __init__(self, browser, path, fragment="", width=1400, height=860):
        self.page = browser.new_page(viewport={"width": width, "height": height})
        self.errors, self.requests = [], []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.goto(f"file://{path}{fragment}")
        self.until("!!(window.blocks && (blocks.ready || blocks.failed))")
        assert self.js("blocks.failed") is None

    def _console(self, message):
        if message.type in ("error", "warning") and "getImageData" not in message.text:  # the tests read pixels
            self.errors.append(message.text)

    def js(self, code, argument=None):
        return self.page.evaluate(code, argument)

    def until(self, code, tries=600):
        for _ in range(tries):
            if self.js(code):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"never true: {code}")

    def after(self, action):
        """Does something and waits until the page has drawn its effect."""
        before = self.js("blocks.updates")
        action()
        self.until(f"blocks.updates > {before}")

    def click_cell(self, row, column, **options):
        x, y = self.js("([r, c]) => blocks.cellCentre(r, c)", [row, column])
        box = self.page.locator("#overlay").bounding_box()
        self.page.mouse.click(box["x"] + x, box["y"] + y, **options)

    def click_node(self, index, modifiers=()):
        x, y = self.js("i => blocks.nodeCentre(i)", index)
        self.page.locator("#icicle").click(position={"x": x, "y": y}, modifiers=list(modifiers))

    def pixel(self, row, column):
        """Colour of the matrix canvas at the middle of a cell."""
        return self.js(
            """([r, c]) => { const m = document.getElementById('matrix'), [x, y] = blocks.cellCentre(r, c);
            const k = window.devicePixelRatio;
            return Array.from(m.getContext('2d').getImageData(Math.round(x * k), Math.round(y * k), 1, 1).data); }""",
            [row, column],
        )


def planted_files(folder, num_classes, levels, shares, per_class, channels, images=True):
    """Files in the documented import formats, with three epochs and a second run."""
    accuracies = (0.4, 0.55, 0.67)
    counts = [statistics.planted_confusion(levels, per_class, a, shares, s) for s, a in enumerate(accuracies)]
    other = [statistics.planted_confusion(levels, per_class, a + 0.03, shares, s + 9) for s, a in enumerate(accuracies)]
    np.save(folder / "m.npy", np.stack(counts))
    np.save(folder / "other.npy", np.stack(other))
    (folder / "names.txt").write_text("\n".join(f"class {i:03d}" for i in range(num_classes)))
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(num_classes), per_class)
    predicted = np.concatenate([np.repeat(np.arange(num_classes), row) for row in counts[-1]])
    scores = rng.normal(size=(len(labels), num_classes)).astype(np.float32)
    for level in levels:
        scores += 2 * (level[labels][:, None] == level[None])
    scores[np.arange(len(labels)), predicted] += 22
    np.savez(folder / "scores.npz", scores=scores, labels=labels)
    profile = rng.normal(size=(int(levels[-1].max()) + 1, channels))[levels[-1]]
    maps = [np.maximum(0, profile * s + rng.normal(size=(num_classes, channels))) for s in (0.2, 0.6, 1.2)]
    np.savez(folder / "responses.npz", conv1=np.stack(maps), conv2=np.stack(maps)[:, :, ::-1])
    if images:
        np.save(folder / "images.npy", rng.integers(0, 256, (len(labels), 16, 16, 3), dtype=np.uint8))
    return counts, labels, predicted


def export_arguments(folder, out, images=True):
    names = {"--confusion": "m.npy", "--names": "names.txt", "--scores": "scores.npz", "--compare": "other.npy"}
    names |= {"--responses": "responses.npz"} | ({"--images": "images.npy"} if images else {})
    return [word for flag, name in names.items() for word in (flag, str(folder / name))] + ["--out", str(out)]
