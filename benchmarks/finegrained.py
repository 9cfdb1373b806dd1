"""Speed and memory of the fine-grained package: the batched uncertainty pass, and the clustering of a whole data set.

    python benchmarks/finegrained.py [uncertainty] [clustering] [--images 48] [--points 50000] [--threads 2]

`uncertainty`: images/s of the paper's ResNet-18, one view at a time as released against ours, in turn, in one process.
`clustering`: rise of anonymous memory over the value before the call, of this process and its children together.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.measure import Pair, interleave  # noqa: E402
from finegrained_torch import augment, networks  # noqa: E402
from finegrained_torch.uncertainty import draw_views, formula, uncertainty  # noqa: E402
from reproduction.torch_runtime import set_threads  # noqa: E402

N_AUG = 5


def one_view_loop(
    net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, views: torch.Tensor
) -> torch.Tensor:
    """The formulation of the released code: one image, one view, one forward pass."""
    means = []
    with torch.no_grad():
        for at in range(len(images)):
            total = torch.zeros(1, device=images.device)
            for a in range(views.shape[1]):
                view = augment.FLIPS[int(views[at, a])](images[at : at + 1])
                total = total + torch.softmax(net(view), 1)[0]
            means.append(total / views.shape[1])
    return formula(torch.stack(means), labels)


def uncertainty_pair(count: int = 48, repeats: int = 5) -> Pair:
    """Images per second on ResNet-18 with the authors' stem, 32 x 32, five augmentations an image.

    Raises:
      AssertionError: the two differ by more than 1e-5.
    """
    torch.manual_seed(0)
    net = networks.build("resnet18", 2).eval()
    images = torch.randn(count, 3, 32, 32)
    labels = torch.arange(count) % 2
    views = draw_views(count, N_AUG, 42, "flips")
    found: dict[str, np.ndarray] = {}

    def loop() -> float:
        began = time.perf_counter()
        found["loop"] = one_view_loop(net, images, labels, views).numpy()
        return count / (time.perf_counter() - began)

    def ours() -> float:
        began = time.perf_counter()
        found["ours"] = uncertainty(net, images, labels, N_AUG, 42).U
        return count / (time.perf_counter() - began)

    pair = interleave("uncertainty of ResNet-18, 5 views", "images/s", loop, ours, repeats)
    worst = float(np.abs(found["loop"] - found["ours"]).max())
    assert worst < 1e-5, f"the two differ by {worst:.2e}"
    return pair


PAIRS = {"uncertainty": uncertainty_pair}

CLUSTERING_CHILD = """
import json, os, sys, tempfile, threading, time
from pathlib import Path
sys.path.insert(0, {root!r})
import numpy as np
from finegrained_torch import clustering


def anonymous():
    total, here = 0, str(os.getpid())
    children, stats = {{}}, {{}}
    for name in os.listdir('/proc'):
        if name.isdigit():
            try:
                with open(f'/proc/{{name}}/stat') as file:
                    parent = file.read().rpartition(')')[2].split()[1]
                with open(f'/proc/{{name}}/status') as file:
                    stats[name] = next((int(l.split()[1]) for l in file if l.startswith('RssAnon')), 0) * 1024
            except (OSError, StopIteration):
                continue
            children.setdefault(parent, []).append(name)
    todo = [here]
    while todo:
        one = todo.pop()
        total += stats.get(one, 0)
        todo += children.get(one, [])
    return total


if __name__ == '__main__':
    points, classes, dims = {points}, {classes}, 512
    folder = Path(tempfile.mkdtemp())
    out = np.lib.format.open_memmap(folder / 'features.npy', 'w+', np.float32, (points, dims))
    rng = np.random.default_rng(0)
    coarse = np.repeat(np.arange(classes), [{shares}]).astype(np.int64)
    centres = rng.normal(size=(classes * 5, dims)).astype(np.float32) * 3
    for at in range(0, points, 4096):
        of = coarse[at:at + 4096] * 5 + rng.integers(0, 5, min(4096, points - at))
        out[at:at + 4096] = centres[of] + rng.normal(size=(len(of), dims)).astype(np.float32)
    out.flush()
    del out
    features = np.load(folder / 'features.npy', mmap_mode='r')
    before, peak, done = anonymous(), 0, False

    def look():
        global peak
        while not done:
            peak = max(peak, anonymous())
            time.sleep(0.2)

    watcher = threading.Thread(target=look)
    watcher.start()
    began = time.perf_counter()
    found = clustering.cluster_classes(features, coarse, np.ones(points, bool), workers={workers}, progress=False)
    seconds = time.perf_counter() - began
    done = True
    watcher.join()
    print(json.dumps({{'labels': found.num_labels, 'rise': peak - before, 'seconds': seconds}}))
"""


def clustering(points: int, workers: int) -> None:
    """Peak memory of UMAP and HDBSCAN on CIFAR-10's two coarse classes (60 and 40 percent), in a child process."""
    first = points * 6 // 10
    code = CLUSTERING_CHILD.format(
        root=str(ROOT), points=points, classes=2, shares=f"{first}, {points - first}", workers=workers or None
    )
    path = Path(tempfile.gettempdir()) / f"finegrained_clustering_{os.getpid()}.py"
    path.write_text(code)  # a file: its worker processes are spawned and import it again
    try:
        done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True)
    finally:
        path.unlink()
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"clustering of {points:,} x 512 in two classes of {first:,} and {points - first:,}, "
          f"{workers or 'as many as fit'} process(es)")  # fmt: skip
    print(f"  anonymous memory of all processes rises by {found['rise'] / 2**30:.2f} GiB; {found['seconds']:.0f} s, "
          f"{found['labels']} pseudo-labels")  # fmt: skip


def main() -> None:
    """Runs the named parts, both without a name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="uncertainty, clustering")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--points", type=int, default=50_000)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    parts = args.parts or ["uncertainty", "clustering"]
    if unknown := set(parts) - {"uncertainty", "clustering"}:
        parser.error(f"unknown part {sorted(unknown)}: choose uncertainty, clustering")
    set_threads(args.threads)
    print(f"torch {torch.__version__}, {args.threads} threads, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if "uncertainty" in parts:
        found = uncertainty_pair(args.images, args.repeats).summary()
        print(
            f"{found['name']}: one view at a time {found['baseline']:.1f}, ours {found['ours']:.1f} {found['unit']}: "
            f"{found['ratio']:.2f} times ({found['ratio_min']:.2f} to {found['ratio_max']:.2f}, n = {found['n']})",
            flush=True,
        )
    if "clustering" in parts:
        clustering(args.points, args.workers)


if __name__ == "__main__":
    main()
