"""Subclass deep networks: neglection degree, augmentation, the partition's memory, our loop against a bare one."""

from __future__ import annotations

import functools
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import Benchmark, Measure, Pair, interleave, loops, on_each_device, rate, rise, seconds
from benchmarks.steps import synchronize
from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.run_folder import Stop
from reproduction.runtime.torchvision_guard import torchvision_ready
from subclass_torch import flags
from subclass_torch.data import augment
from subclass_torch.method import losses, neglect, partition
from subclass_torch.networks import build as models
from subclass_torch.training.loop import run_stage
from subclass_torch.training.optimizer import optimizer_of
from subclass_torch.training.setting import Task

BATCH = 128
MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)


def per_sample_loop(x: torch.Tensor, p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The formulation of the released code: for every label of the batch two masked sums over it."""
    indicator = torch.nn.functional.one_hot(y, p.shape[1]).to(p.dtype)
    total = torch.zeros(p.shape[1])
    for label in y:
        i = int(label)
        z = p[:, i] - indicator[:, i]
        mine = indicator[:, i] == 1
        positive, negative = z[mine] @ x[mine], z[~mine] @ x[~mine]
        total[i] += (positive.norm() + negative.norm()) / (positive + negative).norm()
    return total


def per_class_loop(x: torch.Tensor, p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The same once per class."""
    total = torch.zeros(p.shape[1])
    for i in range(p.shape[1]):
        mine = y == i
        z = p[:, i] - mine.to(p.dtype)
        positive, negative = z[mine] @ x[mine], z[~mine] @ x[~mine]
        total[i] = (positive.norm() + negative.norm()) / (positive + negative).norm()
    return total


def two_products(x: torch.Tensor, p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The same by our code."""
    return neglect.degree(*neglect.gradient_parts(x, p, y)[:2])


def neglection(small: bool) -> list[Pair]:
    """Neglection degree of a batch of 128 with 4,096 features as two matrix products, against both loops."""
    runtime.start(0)
    width, pairs = 128 if small else 4096, []
    x = torch.randn(BATCH, width, generator=torch.Generator().manual_seed(1)).relu()
    for classes in (10, 100):
        generator = torch.Generator().manual_seed(0)
        p = torch.rand(BATCH, classes, generator=generator)
        y = torch.randint(classes, (BATCH,), generator=generator)
        ours = functools.partial(two_products, x, p, y)
        for title, slow in (("per-sample", per_sample_loop), ("per-class", per_class_loop)):
            name = f"neglection degree, batch {BATCH}, {classes} classes, F = {width}: against the {title} loop"
            baseline = seconds(functools.partial(slow, x, p, y))
            pairs.append(interleave(name, "s", baseline, seconds(ours, 5)))
    return pairs


def neglection_overhead(small: bool) -> Pair:
    """A training step of VGG16-BN at batch 128 without and with the neglection degree."""
    runtime.start(0)
    network = "vgg_small" if small else "vgg16"
    torch.manual_seed(0)
    model = models.place(models.build(network, "cifar10", 10), torch.device("cpu"), channels_last=True)
    optimizer = optimizer_of(model, 0.001)
    images = torch.randn(BATCH, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (BATCH,))
    totals = neglect.new_totals(10, torch.device("cpu"))
    plain, extra = [], []
    with neglect.watch(model.get_submodule("penultim_layer")) as seen:
        for number in range(8):
            began = time.perf_counter()
            logits = model(images)
            optimizer.zero_grad(set_to_none=True)
            losses.class_loss(logits, labels).mean().backward()
            optimizer.step()
            middle = time.perf_counter()
            r, count = neglect.batch_degree(seen[0], logits, labels)
            neglect.add_batch(totals, r, count, BATCH)
            if number:
                plain.append(middle - began)
                extra.append(time.perf_counter() - middle)
    both = [a + b for a, b in zip(plain, extra, strict=True)]
    share = 100 * float(np.median(np.array(extra) / plain))
    name = f"training step, {network}, batch {BATCH}: with the neglection degree against without"
    return Pair(name, "s", plain, both, note=f"overhead {share:.2f} %, each taken within one step")


class _Pictures(torch.utils.data.Dataset):
    """What torchvision's CIFAR10 class does per image, with the authors' transforms."""

    def __init__(self, images: np.ndarray, transform: Callable[[Any], Any]):
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), index % 10


def cutout_one(image: torch.Tensor, length: int = 16) -> torch.Tensor:
    """Cutout of one image, as a transform."""
    y, x = (int(v) for v in torch.randint(32, (2,)))
    mask = np.ones((32, 32), np.float32)
    mask[max(0, y - length // 2) : y + length // 2, max(0, x - length // 2) : x + length // 2] = 0
    return image * torch.from_numpy(mask)


def augmentation(small: bool) -> Pair:
    """Images per second: batched uint8 pipeline against PIL transforms in a DataLoader with two workers."""
    runtime.start(0)
    torchvision_ready()
    from torchvision import transforms

    count = 1000 if small else 10000
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator)
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((mean / 255).tolist(), (std / 255).tolist()),
            cutout_one,
        ]
    )
    loader = torch.utils.data.DataLoader(  # the warm-up starts its workers
        _Pictures(images.numpy(), transform), BATCH, shuffle=True, num_workers=2, persistent_workers=True
    )

    def pil() -> None:
        for _ in loader:
            pass

    def ours() -> None:
        order = torch.randperm(count)
        draws = augment.draw(count, 32, 1, generator)
        for at in range(0, count, BATCH):
            items = order[at : at + BATCH]
            augment.training_batch(images[items], draws.of(items), mean, std, True, True, 16)

    name = f"crop, flip, normalize, cutout of {count:,} images: batched uint8 against PIL in a 2-worker DataLoader"
    return interleave(name, "images/s", rate(count, pil), rate(count, ours, 2), bar=5)


def loop(network: str, steps: int, device: str, small: bool) -> Pair:
    """Images/s of an epoch of stage 2: the simplest correct loop on the same batches, and ours."""
    runtime.start(0)
    where = torch.device(device)
    batch, steps = (16, min(steps, 3)) if small else (BATCH, steps)
    words = ["--dataset", "cifar10", "--model", network, "--cutout", "--batch_size", str(batch), "--epochs", "1"]
    config = flags.parse([*words, "--chance-epochs", "0", "--learning_rate", "0.001", "--device", device])
    count = steps * batch
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator).to(where)
    labels = torch.randint(10, (count,), generator=generator).to(where)
    constants = torch.tensor(MEAN, device=where), torch.tensor(STD, device=where)
    task = Task(
        stage="bench",
        images=images,
        labels=labels,
        subclass2class=torch.arange(10, device=where),
        criterion=losses.class_loss,
        constants=constants,
        epochs=1,
        lr_at=lambda epoch: 0.001,
        observe=False,
        first_test=2,
        test_images=images[:0],
        test_labels=labels[:0],
    )

    def fresh() -> torch.nn.Module:
        torch.manual_seed(0)
        return models.build(network, "cifar10", 10).to(where)

    def bare() -> float:
        model = fresh()
        optimizer = torch.optim.SGD(model.parameters(), 0.001, 0.9, nesterov=True, weight_decay=5e-4)
        order = torch.randperm(count)
        draws = augment.Draws(*(d.to(where) for d in augment.draw(count, 32, 1, torch.Generator())))
        synchronize(where)
        began = time.perf_counter()  # an epoch's draws are no part of the seconds that our loop reports
        for at in range(0, count, batch):
            items = order[at : at + batch].to(where)
            x = augment.training_batch(images[items], draws.of(items), *constants, True, True, 16)
            loss = losses.class_loss(model(x.contiguous()), labels[items]).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        synchronize(where)
        return count / (time.perf_counter() - began)

    def ours() -> float:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            training = run_stage(task, config, fresh(), runtime.World(0, 1, where), Stop(), path, path / "log.csv")
        return count / training.history[-1]["seconds"]

    name = f"training, {network}, batch {batch}, {device}: our loop against a bare loop on the same batches"
    why = "loss and both accuracies of every step, the seed of its dropout"
    return loops(name, batch, steps, bare, ours, why)


def prepare_partition(count: int, share: float) -> Callable[[], int]:
    """For `measure.rise`: the k-means split of the largest class of `count` images, with its mixed copies."""
    from sklearn.cluster import KMeans  # noqa: F401 - imported before the value that the rise is measured from

    runtime.start(0)
    rng = np.random.default_rng(0)
    images = np.empty((count, 32, 32, 3), np.uint8)
    for at in range(0, count, 8192):
        block = images[at : at + 8192]
        block[:] = rng.integers(0, 60, block.shape, dtype=np.uint8)
        block += rng.integers(0, 2, (len(block), 1, 1, 1), dtype=np.uint8) * np.uint8(150)
    labels = (rng.random(count) >= share).astype(np.int64)
    mean, std = torch.tensor([109.9, 109.7, 113.8]), torch.tensor([50.1, 50.6, 50.8])

    def view(_label: int, x: np.ndarray, _place: np.ndarray) -> np.ndarray:
        return augment.normalize(torch.from_numpy(x), mean, std).numpy()

    def work() -> int:
        partition.make_partition(images, labels, [0], 2, 2, view, lambda label, n: rng.integers(count, size=n))
        return int((labels == 0).sum())

    return work


def kmeans(small: bool) -> list[Measure]:
    """Memory and time of the partition of SVHN's largest class out of train + extra."""
    count = 5_000 if small else 604_388
    growth = rise(prepare_partition, count, 0.173)
    name = f"k-means split of a class of {growth.returned:,} images (doubled by mixing) out of {count:,}"
    memory = Measure(f"{name}: memory", "MiB", [growth.bytes / 2**20], 6 * 1024, "budget 6 GiB")
    return [memory, Measure(f"{name}: time", "s", [growth.seconds])]


def _loops(device: str) -> dict[str, Benchmark]:
    long = 1 if device == "cpu" else 60
    return {
        "loop vgg16": lambda small: loop("vgg16", 2 * long, device, small),
        "loop vgg_small": lambda small: loop("vgg_small", 24 * math.ceil(long / 10), device, small),
    }


BENCHMARKS: dict[str, Benchmark] = {
    "neglection": neglection,
    "neglection overhead": neglection_overhead,
    "augmentation": augmentation,
    **on_each_device(_loops),
    "k-means": kmeans,
}
