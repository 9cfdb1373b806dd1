"""Fine-grained labels: batched uncertainty, the clustering of a whole data set, Lightning against a bare loop."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Benchmark, Measure, Pair, interleave, loops, on_each_device, rate, rise
from benchmarks.steps import synchronize
from finegrained_torch import flags
from finegrained_torch.data.images import Items, normalize
from finegrained_torch.method.uncertainty import FLIPS, draw_views, formula, uncertainty
from finegrained_torch.networks import resnet
from finegrained_torch.training.cluster_jobs import cluster_in_processes
from finegrained_torch.training.loop import train
from finegrained_torch.training.modules import LitResnet, Optimization
from finegrained_torch.training.setting import Task
from reproduction.runtime import torch_runtime as runtime

N_AUG = 5
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def one_view_loop(
    net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, views: torch.Tensor
) -> torch.Tensor:
    """The formulation of the released code: one image, one view, one forward pass."""
    means = []
    with torch.no_grad():
        for at in range(len(images)):
            total = torch.zeros(1, device=images.device)
            for a in range(views.shape[1]):
                view = FLIPS[int(views[at, a])](images[at : at + 1])
                total = total + torch.softmax(net(view), 1)[0]
            means.append(total / views.shape[1])
    return formula(torch.stack(means), labels)


def uncertainty_pair(small: bool) -> Pair:
    """Images per second on ResNet-18 with the authors' stem, 32 x 32, five augmentations an image.

    Raises:
      AssertionError: the two differ by more than 1e-5.
    """
    runtime.start(0)
    name, count = ("small", 6) if small else ("resnet18", 96)
    net = resnet.build(name, 2).eval()
    images = torch.randn(count, 3, 32, 32)
    labels = torch.arange(count) % 2
    views = draw_views(count, N_AUG, 42, "flips")
    uncertainties: dict[str, np.ndarray] = {}

    def one_by_one() -> None:
        uncertainties["loop"] = one_view_loop(net, images, labels, views).numpy()

    def ours() -> None:
        uncertainties["ours"] = uncertainty(resnet.inference_copy(net), images, labels, N_AUG, 42).U

    title = f"uncertainty of {name}, 5 views of {count} images: batched against one by one"
    pair = interleave(title, "images/s", rate(count, one_by_one), rate(count, ours), bar=4)
    worst = float(np.abs(uncertainties["loop"] - uncertainties["ours"]).max())
    assert worst < 1e-5, f"the two differ by {worst:.2e}"
    return pair


class _Timed(LitResnet):
    """Notes when an epoch's steps begin, and when what ends an epoch does."""

    def on_train_epoch_start(self) -> None:
        self.began = time.perf_counter()

    def on_validation_start(self) -> None:
        synchronize(self.device)
        self.took = time.perf_counter() - self.began


def loop(network: str, batch: int, steps: int, device: str, small: bool) -> Pair:
    """Images/s of an epoch on coarse labels: Lightning with all our callbacks, and a bare torch loop."""
    runtime.start(0)
    where = torch.device(device)
    batch, steps = (8, min(steps, 2)) if small else (batch, steps)
    words = ["--lr", "0.001", "--max_epochs", "1", "--min_epochs", "1", "--no-pretrained", "--device", device]
    config = flags.parse_pipeline([*words, "--network", network, "--batch_size", str(batch)])
    runtime.set_threads(config.threads)
    count = steps * batch
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(2, (count,), generator=generator)
    items, everything, first = Items(images, labels, labels), np.arange(count), np.arange(1)
    mean, std = torch.tensor(MEAN, device=where), torch.tensor(STD, device=where)

    def fresh() -> _Timed:
        torch.manual_seed(0)
        optimization = Optimization(max_epochs=1, key=(0, "bench"))
        return _Timed(0.001, 2, network=network, optimization=optimization, mean=MEAN, std=STD)

    def bare() -> float:
        net = fresh().network.to(where)
        optimizer = torch.optim.SGD(net.parameters(), 0.001, 0.9, weight_decay=5e-4)
        net.train()
        began = time.perf_counter()
        order = torch.randperm(count)
        for at in range(0, count, batch):
            rows = order[at : at + batch]
            logits = net(normalize(images[rows].to(where), mean, std))
            loss = torch.nn.functional.cross_entropy(logits, labels[rows].to(where))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        synchronize(where)
        return count / (time.perf_counter() - began)

    def ours() -> float:
        with tempfile.TemporaryDirectory() as folder:
            module, key, facts = fresh(), (0, "bench"), {"stage": "bench"}
            task = Task("bench", Path(folder), module, (items, everything), (items, first), key, facts)
            train(task, config)
        return count / module.took

    name = f"training, {network}, batch {batch}, {device}: Lightning and our callbacks against a bare torch loop"
    why = "Lightning's hooks, loss and accuracy of every step, the seed of its dropout"
    return loops(name, batch, steps, bare, ours, why)


def prepare_clustering(points: int, dims: int = 512) -> Callable[[], int]:
    """For `measure.rise`: UMAP and HDBSCAN of two coarse classes, 60 and 40 percent, as in CIFAR-10."""
    coarse = (np.arange(points) >= points * 6 // 10).astype(np.int64)
    path = Path(tempfile.mkdtemp()) / "features.npy"
    out = np.lib.format.open_memmap(path, "w+", np.float32, (points, dims))
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(10, dims)).astype(np.float32) * 3
    for at in range(0, points, 4096):
        of = coarse[at : at + 4096] * 5 + rng.integers(0, 5, min(4096, points - at))
        out[at : at + 4096] = centres[of] + rng.normal(size=(len(of), dims)).astype(np.float32)
    out.flush()
    del out
    features = np.load(path, mmap_mode="r")

    def work() -> int:
        try:
            return cluster_in_processes(features, coarse, np.ones(points, bool)).num_labels
        finally:
            path.unlink()
            path.parent.rmdir()

    return work


def clustering_measures(small: bool) -> list[Measure]:
    """Memory of all processes, and time, of clustering 50,000 x 512 features."""
    points = 1_000 if small else 50_000
    growth = rise(prepare_clustering, points, family=True)
    name = f"UMAP and HDBSCAN of {points:,} x 512 in two classes"
    memory = Measure(f"{name}: memory of all processes", "MiB", [growth.bytes / 2**20], 4 * 1024, "budget 4 GiB")
    return [memory, Measure(f"{name}: time", "s", [growth.seconds], note=f"{growth.returned} pseudo-labels")]


def _loops(device: str) -> dict[str, Benchmark]:
    long = 1 if device == "cpu" else 60
    return {
        "loop resnet18": lambda small: loop("resnet18", 50, 3 * long, device, small),
        "loop small": lambda small: loop("small", 200, 20 * long, device, small),
    }


BENCHMARKS: dict[str, Benchmark] = {
    "uncertainty": uncertainty_pair,
    **on_each_device(_loops),
    "clustering": clustering_measures,
}
