"""Speed and memory of hierarchy_cnn_torch: exact seriation against SciPy's, streaming responses, the viewer's budgets.

    python benchmarks/hierarchy.py [seriation] [responses] [viewer] [--repeats 5] [--small]

Every figure is a median over repeats with its spread (smallest to largest). The viewer part needs Chromium and
playwright.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering  # noqa: E402
from scipy.spatial.distance import squareform  # noqa: E402

from hierarchy_cnn_torch import metrics, seriation, similarity, trees  # noqa: E402


def timed(work: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each call."""
    out = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        out.append(time.perf_counter() - began)
    return out


def shown(values: list[float], unit: str = "s", scale: float = 1.0) -> str:
    """Median and spread."""
    values = [v * scale for v in values]
    return f"{statistics.median(values):.3g} {unit} ({min(values):.3g} to {max(values):.3g})"


def bench_seriation(repeats: int, small: bool) -> None:
    """Exact dynamic programme against SciPy's optimal_leaf_ordering: time and path length."""
    for size in (100, 365) if small else (100, 365, 1000):
        rng = np.random.default_rng(0)
        points = rng.random((size, 8))
        distance = np.sqrt(((points[:, None] - points[None]) ** 2).sum(2))
        condensed = squareform(distance, checks=False)
        merged = linkage(condensed, "average")
        ours = timed(lambda merged=merged, distance=distance: seriation.optimal_order(merged, distance), repeats)
        theirs = timed(lambda merged=merged, condensed=condensed: optimal_leaf_ordering(merged, condensed), repeats)
        length = seriation.path_length(seriation.optimal_order(merged, distance), distance)
        other = seriation.path_length(leaves_list(optimal_leaf_ordering(merged, condensed)), distance)
        ratio = statistics.median(theirs) / statistics.median(ours)
        print(
            f"seriation, {size} classes: exact {shown(ours)}, SciPy {shown(theirs)}, ratio {ratio:.2f}; "
            f"path {length:.3f} against {other:.3f} ({100 * (1 - length / other):.1f} % shorter)"
        )


RESPONSES = """
import numpy as np, pathlib, re, sys, tempfile, time
from hierarchy_cnn_torch import responses, selectivity
images, channels = int(sys.argv[1]), int(sys.argv[2])
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) / 1024
before, peak = anonymous(), 0.0
def batches():
    global peak
    rng = np.random.default_rng(0)
    for start in range(0, images, 250):
        ids = np.arange(start, min(start + 250, images))
        yield {"layer": rng.random((len(ids), channels), np.float32)}, ids % 1000, ids
        peak = max(peak, anonymous())
began = time.perf_counter()
with tempfile.TemporaryDirectory() as folder:
    responses.stream(batches(), images, 1000, pathlib.Path(folder))
    streamed = time.perf_counter() - began
    data, _ = responses.open_responses(pathlib.Path(folder) / "layer")
    began = time.perf_counter()
    selectivity.sample_selectivity(data, np.arange(images) % 1000 < 59)
    peak = max(peak, anonymous())
print(f"{peak - before:.0f} {streamed:.1f} {time.perf_counter() - began:.1f}")
"""


def bench_responses(_repeats: int, small: bool) -> None:
    """Rise of anonymous memory while 50,000 x 6,000 responses are streamed and ranked, in a child process."""
    images, channels = (5000, 600) if small else (50000, 6000)
    command = [sys.executable, "-c", RESPONSES, str(images), str(channels)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    memory, streamed, ranked = answer.stdout.split()
    matrix = images * channels * 4 / 2**20
    print(
        f"responses, {images:,} images x {channels:,} channels: anonymous memory rises by {memory} MiB (the matrix in "
        f"float32 would be {matrix:.0f} MiB); streamed in {streamed} s, ranked in {ranked} s"
    )


TIMED = "async o => { const t = performance.now(); await blocks.update(o); return performance.now() - t; }"


def bench_viewer(repeats: int, small: bool) -> None:
    """Load, re-order + redraw and hover in headless Chromium, 1,000 classes. Budgets: 3 s, 300 ms, 16 ms."""
    from hierarchy_cnn_torch.viewer.view import Layer, View, write
    from tests.hierarchy import browser

    size, epochs, channels = (200, 2, 200) if small else (1000, 8, 330)
    levels = [np.arange(size) // (size // 2), np.arange(size) // (size // 10), np.arange(size) // 20]
    counts = [metrics.planted_confusion(levels, 50, 0.4 + 0.035 * e, [0.6, 0.2, 0.12, 0.08], e) for e in range(epochs)]
    names = [f"class {i:04d}" for i in range(size)]
    distance = similarity.profile_distance(counts[-1])
    rng = np.random.default_rng(0)
    layers = []
    for at in range(6):
        maps = [(f"epoch {e}", rng.random((size, channels)), None, float("nan")) for e in range(epochs)]
        maps[-1] = (maps[-1][0], maps[-1][1], similarity.correlation(maps[-1][1]), 0.0)
        layers.append(Layer(f"layer {at}", maps))
    runs = [("A0", [(f"epoch {e}", c) for e, c in enumerate(counts)])]
    view = View("benchmark", names, trees.tree_of(levels, names), distance, runs, layers)
    with tempfile.TemporaryDirectory() as folder, browser.opened() as chromium:
        path = Path(folder) / "view.html"
        write(view, path)
        megabytes = path.stat().st_size / 1e6
        loads, redraws, hovers, maps_ms = [], [], [], []
        for _ in range(repeats):
            page = browser.Page(chromium, path)
            loads.append(page.js("blocks.loadMs"))
            for order in ("id", "popularity", "recall", "tree"):
                redraws.append(page.js(TIMED, {"order": order}))
            hovers += [page.js("i => blocks.drawCursorAt(i, i + 1)", at) for at in range(0, 100, 20)]
            maps_ms.append(page.js(TIMED, {"tab": "response"}))
            page.page.close()
    print(
        f"viewer, {size} classes, {epochs} epochs, 6 layers of {channels} channels, {megabytes:.1f} MB: load "
        f"{shown(loads, 'ms')}, re-order + redraw {shown(redraws, 'ms')}, hover {shown(hovers, 'ms')}, "
        f"response map decoded and drawn {shown(maps_ms, 'ms')}"
    )


def main() -> None:
    """Command line."""
    parts = {"seriation": bench_seriation, "responses": bench_responses, "viewer": bench_viewer}
    parser = argparse.ArgumentParser(description=re.sub(r"\n.*", "", __doc__))
    parser.add_argument("what", nargs="*", help=f"of {', '.join(parts)} (default: all)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="small sizes, to see that it runs")
    args = parser.parse_args()
    for name in args.what or parts:
        if name not in parts:
            parser.error(f"{name!r} is not one of {', '.join(parts)}")
        parts[name](args.repeats, args.small)


if __name__ == "__main__":
    main()
