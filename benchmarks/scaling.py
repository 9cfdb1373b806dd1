"""Cost of the parts of the methods against batch, classes and images, and the fitted exponents."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable

import numpy as np

from benchmarks.measure import Benchmark, Curve, seconds

Work = Callable[[], object]
SIZES, MOST = 7, 9  # sizes of a curve, and calls at each of them at most


def neglection(batch: int, classes: int) -> Work:
    """Neglection degree of one batch with 512 features."""
    import torch

    from subclass_torch.method import neglect

    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, 512, generator=generator)
    p, y = torch.rand(batch, classes, generator=generator), torch.randint(classes, (batch,), generator=generator)
    return lambda: neglect.degree(*neglect.gradient_parts(x, p, y)[:2])


def ranking_loss(name: str, batch: int) -> Work:
    """Value and gradient of a ranking loss at dimension 256."""
    from benchmarks.triplet import loss_runner

    return loss_runner(name)(batch)


def seriation(classes: int) -> Work:
    """Exact leaf order of an average-linkage tree over random points."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import pdist, squareform

    from hierarchy_cnn_torch.method.seriation import optimal_order

    condensed = pdist(np.random.default_rng(0).random((classes, 8)))
    merged, distance = linkage(condensed, "average"), squareform(condensed)
    return lambda: optimal_order(merged, distance)


def uncertainty(images: int) -> Work:
    """Five views of every image through the small network."""
    import torch

    from finegrained_torch.method.uncertainty import uncertainty as method
    from finegrained_torch.networks import resnet

    net, labels = resnet.inference_copy(resnet.build("small", 2)), np.arange(images) % 2
    pictures = torch.rand(images, 3, 32, 32)
    return lambda: method(net, pictures, labels, 5, 42)


def partition(images: int) -> Work:
    """k-means of one class of 32 x 32 images into two subclasses, ten starts."""
    from subclass_torch.method.partition import split

    rng = np.random.default_rng(0)
    pixels = rng.random((images, 3072), np.float32)
    pixels[::2] += 0.5
    return lambda: split(pixels.copy(), 2)


def clustering(images: int) -> Work:
    """UMAP and HDBSCAN of one coarse class with 64 features, in this process."""
    from finegrained_torch.method.clustering import cluster_classes

    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(5, 64))
    features = (centres[np.arange(images) % 5] + rng.normal(size=(images, 64))).astype(np.float32)
    coarse, certain = np.zeros(images, np.int64), np.ones(images, bool)
    return lambda: cluster_classes(features, coarse, certain, min_cluster_size=20)


def decode(images: int, classes: int) -> Work:
    """Class of every image by the most likely class string, 16 bits."""
    from class2str_tf.method import codes

    rng = np.random.default_rng(0)
    one = rng.random((images, 16, 1))
    p = np.concatenate([one, 1 - one], 2)
    owners = rng.choice(2**16, classes, replace=False)
    table = (owners[:, None] >> np.arange(16) & 1).astype(np.uint8)
    return lambda: codes.decode(p, table, "ml")


def augmentation(images: int) -> Work:
    """Crop, flip, normalize and cutout of one batch."""
    import torch

    from subclass_torch.data import augment

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 32, 32, 3), dtype=torch.uint8, generator=generator)
    draws, half = augment.draw(images, 32, 1, generator), torch.full((3,), 128.0)
    return lambda: augment.training_batch(pixels, draws, half, half, True, True, 16)


def selectivity(images: int) -> Work:
    """How well each of 256 channels separates a group of classes: a sort of every channel."""
    from hierarchy_cnn_torch.method.selectivity import sample_selectivity

    data = np.random.default_rng(0).random((images, 256), np.float32)
    group = np.arange(images) % 10 == 0
    return lambda: sample_selectivity(data, group)


# part, what grows, smallest and largest size, order of the operations, size -> work
PARTS: dict[str, tuple[str, str, int, int, str, Callable[[int], Work]]] = {
    "neglection batch": ("neglection degree", "batch", 128, 8192, "B C F", lambda n: neglection(n, 100)),
    "neglection classes": ("neglection degree", "classes", 64, 4096, "B C F", lambda n: neglection(256, n)),
    "batch-hard": ("batch-hard loss", "batch", 64, 2048, "B^2 d", lambda n: ranking_loss("hard", n)),
    "semi-hard": ("semi-hard loss", "batch", 64, 2048, "B^2 (d + log B)", lambda n: ranking_loss("semi_hard", n)),
    "seriation": ("seriation", "classes", 64, 1024, "K^3", seriation),
    "uncertainty": ("uncertainty", "images", 32, 1024, "N", uncertainty),
    "k-means": ("k-means split", "images", 1000, 16000, "N k D x iterations", partition),
    "clustering": ("UMAP and HDBSCAN", "images", 400, 4000, "N log N", clustering),
    "decode images": ("string decode", "images", 500, 20000, "N C L", lambda n: decode(n, 100)),
    "decode classes": ("string decode", "classes", 32, 2048, "N C L", lambda n: decode(1000, n)),
    "augmentation": ("augmentation", "images", 256, 16384, "N", augmentation),
    "selectivity": ("selectivity of 256 channels", "images", 500, 16000, "N log N", selectivity),
}


def curve(name: str, small: bool) -> Curve:
    """Medians at seven sizes after a warm-up: of up to nine calls in two seconds, of one that takes longer."""
    import torch

    torch.set_flush_denormal(True)
    part, against, low, high, order, prepare = PARTS[name]
    high, count = (min(high, 4 * low), 3) if small else (high, SIZES)
    sizes = np.geomspace(low, high, count).round().astype(int).tolist()
    medians: list[float] = []
    for size in sizes:
        work = prepare(size)
        if not medians or medians[-1] < 1:  # what is compiled at the first call is compiled by then
            work()
        took = [seconds(work)()]
        inner = max(1, min(50, int(0.01 / max(took[0], 1e-6))))  # clocks are too coarse for microseconds
        repeats = max(0, min(MOST, int(2 / (took[0] * inner)) - 1))
        took = [seconds(work, inner)() for _ in range(repeats)] or took
        medians.append(statistics.median(took))
    return Curve(part, against, sizes, medians, order)


BENCHMARKS: dict[str, Benchmark] = {name: functools.partial(curve, name) for name in PARTS}
