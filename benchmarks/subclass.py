"""Speed and memory of subclass_torch against straightforward formulations, in one process each.

    python benchmarks/subclass.py [neglection] [augmentation] [kmeans] [steps] [--repeats 5] [--small]

Every ratio is printed with both absolute figures: median over repeats, and the spread (smallest to largest).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

torch.set_flush_denormal(True)

from reproduction.torch_runtime import set_threads, torchvision_ready  # noqa: E402
from subclass_torch import augment, losses, models, neglect  # noqa: E402


def timed(work: Callable[[], object], repeats: int, inner: int = 1) -> list[float]:
    """Seconds of one call, `repeats` times, after one call that does not count."""
    work()
    out = []
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(inner):
            work()
        out.append((time.perf_counter() - began) / inner)
    return out


def text(values: list[float], unit: str = "ms", scale: float = 1e3) -> str:
    """Median and spread."""
    low, middle, high = (scale * f(values) for f in (min, statistics.median, max))
    return f"{middle:.2f} {unit} ({low:.2f} to {high:.2f})"


def ratio(a: list[float], b: list[float]) -> float:
    """Ratio of the medians."""
    return statistics.median(a) / statistics.median(b)


def per_sample_loop(x: torch.Tensor, p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The formulation of the released code: for every label of the batch two masked sums over it."""
    indicator = torch.nn.functional.one_hot(y, p.shape[1]).to(p.dtype)
    total = torch.zeros(p.shape[1])
    for label in y:
        i = int(label)
        z = p[:, i] - indicator[:, i]
        mine = indicator[:, i] == 1
        own, others = z[mine] @ x[mine], z[~mine] @ x[~mine]
        total[i] += (own.norm() + others.norm()) / (own + others).norm()
    return total


def per_class_loop(x: torch.Tensor, p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The same once per class."""
    total = torch.zeros(p.shape[1])
    for i in range(p.shape[1]):
        mine = y == i
        z = p[:, i] - mine.to(p.dtype)
        own, others = z[mine] @ x[mine], z[~mine] @ x[~mine]
        total[i] = (own.norm() + others.norm()) / (own + others).norm()
    return total


def neglection(repeats: int, small: bool) -> None:
    """Overhead of the neglection degree over a plain training step, and against both loops."""
    name = "vgg_small" if small else "vgg16"
    torch.manual_seed(0)
    model = models.build(name, "cifar10", 10).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, nesterov=True, weight_decay=5e-4)
    images = torch.randn(128, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (128,))
    totals = neglect.new_totals(10, torch.device("cpu"))
    plain, extra = [], []
    with neglect.watch(model.penultim_layer) as seen:
        for number in range(repeats + 1):
            began = time.perf_counter()
            logits = model(images)
            optimizer.zero_grad(set_to_none=True)
            losses.class_loss(logits, labels).mean().backward()
            optimizer.step()
            middle = time.perf_counter()
            r, count = neglect.batch_degree(seen[0], logits, labels)
            neglect.add_batch(totals, r, count, 128)
            if number:
                plain.append(middle - began)
                extra.append(time.perf_counter() - middle)
        x, p = seen[0].clone(), torch.sigmoid(logits.detach())
    print(f"neglection degree, {name}, batch 128, 10 classes, F = {x.shape[1]}")
    print(f"  plain training step {text(plain)}; degree {text(extra)}; overhead {100 * ratio(extra, plain):.2f} %")
    for classes in (10, 100):
        generator = torch.Generator().manual_seed(0)
        p = torch.rand(128, classes, generator=generator)
        y = torch.randint(classes, (128,), generator=generator)

        def ours(p: torch.Tensor = p, y: torch.Tensor = y) -> torch.Tensor:
            return neglect.degree(*neglect.gradient_parts(x, p, y)[:2])

        fast = timed(ours, repeats, 5)
        for title, loop in (("per-sample loop", per_sample_loop), ("per-class loop", per_class_loop)):
            slow = timed(lambda loop=loop, p=p, y=y: loop(x, p, y), repeats)
            print(f"  {classes} classes, {title}: {text(slow)} against {text(fast)}: {ratio(slow, fast):.1f} times")


class _Pictures(torch.utils.data.Dataset):
    """What torchvision's CIFAR10 class does per image, with the authors' transforms."""

    def __init__(self, images, transform):
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index):
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), index % 10


def cutout_one(image: torch.Tensor, length: int = 16) -> torch.Tensor:
    """Cutout of one image, as a transform."""
    import numpy as np

    y, x = (int(v) for v in torch.randint(32, (2,)))
    mask = np.ones((32, 32), np.float32)
    mask[max(0, y - length // 2) : y + length // 2, max(0, x - length // 2) : x + length // 2] = 0
    return image * torch.from_numpy(mask)


def augmentation(repeats: int, small: bool) -> None:
    """Images per second: batched uint8 pipeline against PIL transforms in a DataLoader with two workers."""
    torchvision_ready()
    from torchvision import transforms

    count = 2000 if small else 10000
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator)
    mean, std = torch.tensor([125.3, 123.0, 113.9]), torch.tensor([63.0, 62.1, 66.7])
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((mean / 255).tolist(), (std / 255).tolist()),
            cutout_one,
        ]
    )
    loader = torch.utils.data.DataLoader(_Pictures(images.numpy(), transform), 128, shuffle=True, num_workers=2)

    def pil() -> None:
        for _ in loader:
            pass

    def ours() -> None:
        order = torch.randperm(count)
        draws = augment.draw(count, 32, 1, generator)
        for at in range(0, count, 128):
            items = order[at : at + 128]
            augment.training_batch(images[items], draws.of(items), mean, std, True, True, 16)

    slow, fast = timed(pil, repeats), timed(ours, repeats, 2)
    a, b = ([count / value for value in values] for values in (slow, fast))
    print(f"crop, flip, normalize, cutout of {count:,} images, {torch.get_num_threads()} threads")
    print(f"  PIL transforms, DataLoader with 2 workers {text(a, 'images/s', 1)}")
    print(f"  batched uint8 {text(b, 'images/s', 1)}: {ratio(slow, fast):.1f} times")


KMEANS_CHILD = """
import json, sys, threading, time
sys.path.insert(0, {root!r})
import numpy as np, torch
from sklearn.cluster import KMeans  # imported before the value that the rise is measured from
from subclass_torch import augment, partition
def anonymous():
    with open('/proc/self/status') as file:
        return next(int(line.split()[1]) for line in file if line.startswith('RssAnon')) * 1024
count, share = {count}, {share}
rng = np.random.default_rng(0)
images = np.empty((count, 32, 32, 3), np.uint8)
for at in range(0, count, 8192):
    block = images[at:at + 8192]
    block[:] = rng.integers(0, 60, block.shape, dtype=np.uint8)
    block += rng.integers(0, 2, (len(block), 1, 1, 1), dtype=np.uint8) * np.uint8(150)
labels = (rng.random(count) >= share).astype(np.int64)
mean, std = torch.tensor([109.9, 109.7, 113.8]), torch.tensor([50.1, 50.6, 50.8])
before, peak, done = anonymous(), 0, False
def look():
    global peak
    while not done:
        peak = max(peak, anonymous()); time.sleep(0.01)
watcher = threading.Thread(target=look); watcher.start()
began = time.perf_counter()
def view(x, _):
    return augment.normalize(torch.from_numpy(x), mean, std).numpy()
made = partition.make_partition(images, labels, [0], 2, 2, view, lambda label, n: rng.integers(count, size=n))
seconds = time.perf_counter() - began
done = True; watcher.join()
print(json.dumps({{'selected': int((labels == 0).sum()), 'rise': peak - before, 'seconds': seconds}}))
"""


def kmeans(repeats: int, small: bool) -> None:
    """Peak memory of the partition of SVHN's largest class out of train + extra, in a child process."""
    count = 20_000 if small else 604_388
    code = KMEANS_CHILD.format(root=str(ROOT), count=count, share=0.173)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    print(f"partition of a class of {found['selected']:,} images (doubled by mixing) out of {count:,} x 3,072 uint8")
    print(f"  anonymous memory rises by {found['rise'] / 2**30:.2f} GiB; {found['seconds']:.0f} s")


def steps(repeats: int, small: bool) -> None:
    """Training step of VGG16-BN with each fast path."""
    name, labels = "vgg_small" if small else "vgg16", torch.randint(10, (128,))
    first: list[float] = []
    for amp, last in ((False, False), (False, True), (True, False), (True, True)):
        title = ("bf16" if amp else "float32") + (", channels-last" if last else "")
        torch.manual_seed(0)
        model, images = models.build(name, "cifar10", 10), torch.randn(128, 3, 32, 32)
        if last:
            model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, nesterov=True)

        def work(model=model, images=images, optimizer=optimizer, amp=amp) -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                logits = model(images)
            optimizer.zero_grad(set_to_none=True)
            losses.class_loss(logits, labels).mean().backward()
            optimizer.step()

        found = timed(work, repeats)
        first = first or found
        print(f"  {name} step, batch 128, {title}: {text(found)}: {ratio(first, found):.2f} times float32")


def main() -> None:
    """Runs the named parts, all without a name."""
    parts = {"neglection": neglection, "augmentation": augmentation, "kmeans": kmeans, "steps": steps}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="seconds, for tests")
    args = parser.parse_args()
    if unknown := set(args.parts) - parts.keys():
        parser.error(f"unknown part {sorted(unknown)}: choose {', '.join(parts)}")
    set_threads(args.threads)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    for name in args.parts or parts:
        parts[name](args.repeats, args.small)


if __name__ == "__main__":
    main()
