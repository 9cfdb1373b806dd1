"""Hierarchy-aware CNNs: exact seriation against SciPy's, our loop, streamed responses, the viewer."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from benchmarks.measure import REPEATS, Benchmark, Measure, Pair, interleave, loops, on_each_device, rise, seconds
from benchmarks.steps import synchronize
from hierarchy_cnn_torch import flags
from hierarchy_cnn_torch.data.images import Augment, Data, prepared
from hierarchy_cnn_torch.method import branches as losses
from hierarchy_cnn_torch.method import selectivity, seriation, similarity, statistics, trees
from hierarchy_cnn_torch.networks.alexnet import PRESETS, Network
from hierarchy_cnn_torch.report import response_file
from hierarchy_cnn_torch.training import loop as ours_loop
from hierarchy_cnn_torch.viewer.view import Layer, View, write
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.run_folder import Stop


def scipys_order(merged: np.ndarray, condensed: np.ndarray) -> np.ndarray:
    """Order of the leaves by SciPy: int [N], of a linkage matrix and the condensed distances."""
    return np.asarray(leaves_list(optimal_leaf_ordering(merged, condensed)))


def seriation_pairs(small: bool) -> list[Pair]:
    """Exact dynamic programme against SciPy's optimal_leaf_ordering: time and path length."""
    pairs = []
    for size in (50, 100) if small else (100, 365, 1000):
        points = np.random.default_rng(0).random((size, 8))
        distance = np.sqrt(((points[:, None] - points[None]) ** 2).sum(2))
        condensed = squareform(distance, checks=False)
        merged = linkage(condensed, "average")
        theirs = functools.partial(scipys_order, merged, condensed)
        ours = functools.partial(seriation.optimal_order, merged, distance)
        name = f"seriation of {size} classes against SciPy's optimal_leaf_ordering"
        pairs.append(interleave(f"{name}: time", "s", seconds(theirs), seconds(ours)))
        lengths = [seriation.path_length(order(), distance) for order in (theirs, ours)]
        note = "one value each; SciPy misses the optimum of a tree (its issue 11227), ours is exact"
        pairs.append(Pair(f"{name}: path length", "sum of distances", [lengths[0]], [lengths[1]], note=note))
    return pairs


def data_of(pixels: np.ndarray, labels: np.ndarray, train: np.ndarray, tested: np.ndarray) -> Data:
    """A data set of 100 classes.

    Args:
      pixels: uint8 [N, H, W, 3].
      labels: int64 [N].
      train: which of them are trained on.
      tested: which of them are the validation and the test split, and drawn in the curves.
    """
    return Data(
        images=pixels,
        labels=labels,
        train=train,
        val=tested,
        test_images=pixels[tested],
        test_labels=labels[tested],
        curve=np.arange(len(tested)),
        names=[f"c{i}" for i in range(100)],
        kind=np.zeros(len(pixels), np.int8),
        true_labels=labels,
        mean=torch.full((3,), 0.5),
        sd=torch.full((3,), 0.25),
        digests={},
        verified=True,
    )


def loop(preset: str, steps: int, device: str, small: bool) -> Pair:
    """Images/s of an epoch of variant A1 (three branches): the simplest correct loop on the same batches, and ours."""
    runtime.start(0)
    where = torch.device(device)
    preset, batch, steps = ("mini", 8, min(steps, 2)) if small else (preset, 128, steps)
    words = ["--dataset", "cifar100", "--stage", "aware", "--preset", preset, "--batch", str(batch), "--epochs", "1"]
    config = flags.resolve_train(flags.train_parser().parse_args([*words, "--device", device, "--keep-epochs", "none"]))
    count, classes = steps * batch, 100
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count + 1, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, classes, count + 1)
    data = data_of(pixels, labels, np.arange(count), np.array([count]))
    levels = [np.arange(classes) // width for width in (50, 20, 5)]
    branches = losses.branches_of("A1", levels, [], 0)
    maps = [torch.from_numpy(table).to(where) for table in branches.labels]

    def fresh() -> Network:
        return Network(PRESETS[preset], 3, classes, branches.outputs(), seed=0).to(where)

    def bare() -> float:
        network = fresh()
        optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=5e-4)
        weights = losses.loss_weights("joint", len(branches.taps), 1.0, 0, 1, [])
        x_all, y_all = torch.from_numpy(pixels[:count]).to(where), torch.from_numpy(labels[:count]).to(where)
        mean, sd = data.mean.to(where), data.sd.to(where)
        network.train()
        began = time.perf_counter()
        order = torch.randperm(count)
        augment = Augment(0, 0, count, where)
        for at in range(0, count, batch):
            rows = order[at : at + batch].to(where)
            x = prepared(augment(x_all[rows], rows), mean, sd, 32)
            logits, heads = network(x)
            branch_logits = [heads[tap] for tap in branches.taps]
            loss = losses.total_loss(logits, branch_logits, y_all[rows], maps, weights) / len(rows)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        synchronize(where)
        return count / (time.perf_counter() - began)

    def ours() -> float:
        with tempfile.TemporaryDirectory() as folder:
            training = ours_loop.run(config, fresh(), data, branches, runtime.World(0, 1, where), Stop(), Path(folder))
        return count / training.seconds

    name = f"training, alexnet32 {preset} with branches, batch {batch}, {device}: our loop against a bare loop"
    why = "every layer's gradient norms and the accuracy, which the figures need; the seed of its dropout"
    return loops(name, batch, steps, bare, ours, why)


def prepare_responses(images: int, channels: int) -> Callable[[], list[float]]:
    """For `measure.rise`: streams responses to disk, then ranks the images of every channel; seconds of both."""

    def batches() -> Iterator[tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]]:
        rng = np.random.default_rng(0)
        for start in range(0, images, 250):
            ids = np.arange(start, min(start + 250, images))
            yield {"layer": rng.random((len(ids), channels), np.float32)}, ids % 1000, ids

    def work() -> list[float]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            stream = seconds(lambda: response_file.stream(batches(), images, 1000, folder))
            data: list[np.ndarray] = []

            def rank() -> None:
                data.append(response_file.open_responses(folder / "layer")[0])
                selectivity.sample_selectivity(data[0], np.arange(images) % 1000 < 59)

            return [stream(), seconds(rank)()]

    return work


def responses_measures(small: bool) -> list[Measure]:
    """Memory and time while 50,000 x 6,000 responses are streamed and ranked."""
    images, channels = (2000, 100) if small else (50000, 6000)
    growth = rise(prepare_responses, images, channels)
    name = f"responses of {images:,} images x {channels:,} channels"
    note = f"budget 1 GiB; the matrix in float32 would be {images * channels * 4 / 2**20:,.0f} MiB"
    return [
        Measure(f"{name}: memory", "MiB", [growth.bytes / 2**20], 1024, note),
        Measure(f"{name}: streamed to disk", "s", [growth.returned[0]]),
        Measure(f"{name}: ranked", "s", [growth.returned[1]]),
    ]


TIMED = "async o => { const t = performance.now(); await blocks.update(o); return performance.now() - t; }"


def viewer(small: bool) -> list[Measure]:
    """Load, re-order + redraw and hover in headless Chromium, 1,000 classes. Budgets: 3 s, 300 ms, 16 ms."""
    from tests.hierarchy import browser

    size, epochs, channels = (200, 2, 200) if small else (1000, 8, 330)
    levels = [np.arange(size) // (size // 2), np.arange(size) // (size // 10), np.arange(size) // 20]
    counts = [
        statistics.planted_confusion(levels, 50, 0.4 + 0.035 * e, [0.6, 0.2, 0.12, 0.08], e) for e in range(epochs)
    ]
    names = [f"class {i:04d}" for i in range(size)]
    distance = similarity.profile_distance(counts[-1])
    rng = np.random.default_rng(0)
    layers = []
    for at in range(6):
        features = [rng.random((size, channels)) for _ in range(epochs)]
        ends = [(None, float("nan"))] * (epochs - 1) + [(similarity.correlation(features[-1]), 0.0)]
        maps = [(f"epoch {e}", f, *end) for e, (f, end) in enumerate(zip(features, ends, strict=True))]
        layers.append(Layer(f"layer {at}", maps))
    runs = [("A0", [(f"epoch {e}", c) for e, c in enumerate(counts)])]
    view = View("benchmark", names, trees.tree_of(levels, names), distance, runs, layers)
    loads, redraws, hovers, maps_ms = [], [], [], []
    with tempfile.TemporaryDirectory() as folder, browser.opened() as chromium:
        path = Path(folder) / "view.html"
        write(view, path)
        megabytes = path.stat().st_size / 1e6
        for _ in range(2 if small else REPEATS):
            page = browser.Page(chromium, path)
            loads.append(page.js("blocks.loadMs"))
            for order in ("id", "popularity", "recall", "tree"):
                redraws.append(page.js(TIMED, {"order": order}))
            hovers += [page.js("i => blocks.drawCursorAt(i, i + 1)", at) for at in range(0, 100, 20)]
            maps_ms.append(page.js(TIMED, {"tab": "response"}))
            page.page.close()
    name = f"viewer, {size} classes, {epochs} epochs, 6 layers of {channels} channels"
    return [
        Measure(f"{name}: load", "ms", loads, 3000, f"{megabytes:.1f} MB"),
        Measure(f"{name}: re-order and redraw", "ms", redraws, 300),
        Measure(f"{name}: hover", "ms", hovers, 16),
        Measure(f"{name}: response map decoded and drawn", "ms", maps_ms),
    ]


def _loops(device: str) -> dict[str, Benchmark]:
    long = 1 if device == "cpu" else 30
    return {
        "loop paper32": lambda small: loop("paper32", 4 * long, device, small),
        "loop mini": lambda small: loop("mini", 30 * long, device, small),
    }


BENCHMARKS: dict[str, Benchmark] = {
    "seriation": seriation_pairs,
    **on_each_device(_loops),
    "responses": responses_measures,
    "viewer": viewer,
}
