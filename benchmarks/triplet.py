"""Speed and memory of triplet_tf: what the second head costs, and the losses against straightforward formulations.

    python benchmarks/triplet.py [overhead] [hard] [semi_hard] [memory] [--steps 30] [--repeats 9] [--small]

`overhead` trains ResNet-50 at 224 with batch 32 (about 4 modes x 30 steps); all modes stand in one graph on the same
weights and optimizer slots, so that one process holds them once and the steps can take turns. Every figure is a median
with its spread (smallest to largest) or its 95 percent interval; memory is the rise of anonymous memory in a child
process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from scipy.stats import binom  # noqa: E402

from reproduction import tf_runtime  # noqa: E402
from triplet_tf import nets, ranking  # noqa: E402
from triplet_tf.nets.layers import tf, tf1  # noqa: E402
from triplet_tf.ranking.distances import NO_NEGATIVE, pair_masks, slim, squared_distances  # noqa: E402
from triplet_tf.ranking.semi_hard import sorted_semi_hard_loss  # noqa: E402

MODES = ("vanilla", "cntr", "semi_hard", "hard")
MARGIN = 0.2


def text(values: Sequence[float], unit: str = "ms", scale: float = 1e3) -> str:
    """Median and spread."""
    low, middle, high = (scale * f(values) for f in (min, statistics.median, max))
    return f"{middle:,.4g} {unit} ({low:,.4g} to {high:,.4g})"


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Median and its 95 percent interval by order statistics: no assumption about the distribution.

    Fewer than 6 values have no such interval; then it is the whole range.
    """
    ordered = sorted(values)
    rank = max(int(binom.ppf(0.025, len(ordered), 0.5)), 1)
    return statistics.median(ordered), ordered[rank - 1], ordered[-rank]


def percent(values: Sequence[float]) -> str:
    """Median of ratios as a percentage above 1, with its interval."""
    middle, low, high = (100 * (value - 1) for value in median_interval(values))
    return f"{middle:+.2f} % ({low:+.2f} to {high:+.2f})"


def train_ops(net: str, frame: int, batch: int, num_classes: int = 100) -> dict[str, tf.Operation]:
    """One update of each mode in the current graph: softmax, and softmax plus each regularizer, as a run builds it."""
    step = tf1.train.get_or_create_global_step()
    rng = np.random.default_rng(0)
    images = tf1.get_variable(  # not fed, so that no step copies its pixels
        "images", [batch, frame, frame, 3], trainable=False, initializer=tf1.random_uniform_initializer(-1, 1, seed=1)
    )
    labels = tf.constant(rng.permutation(num_classes)[np.arange(batch) // 4], tf.int64)
    logits, feature_map, _ = nets.backbone(net, images.read_value(), num_classes, is_training=True)
    embeddings = nets.embedding_head(feature_map, 256)
    centers = ranking.new_centers(num_classes, 256)
    softmax = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
    center = ranking.CENTER_LAMBDA * ranking.center_loss(labels, embeddings, centers)
    losses = {
        "vanilla": softmax,
        "cntr": softmax + center,
        "semi_hard": softmax + ranking.semi_hard_loss(labels, embeddings, MARGIN),
        "hard": softmax + ranking.batch_hard_loss(labels, embeddings, MARGIN),
    }
    with tf1.control_dependencies([center]):
        moved = ranking.center_update(labels, embeddings, centers)
    optimizer = tf1.train.MomentumOptimizer(0.001, 0.9)
    updates = tf1.get_collection(tf1.GraphKeys.UPDATE_OPS)
    ops = {}
    for mode, loss in losses.items():
        pairs = [(g, v) for g, v in optimizer.compute_gradients(loss) if g is not None]
        with tf1.control_dependencies([*updates, *([moved] if mode == "cntr" else [])]):
            with tf1.control_dependencies([optimizer.apply_gradients(pairs, step)]):
                ops[mode] = tf.identity(loss)
    return ops


def overhead(steps: int, repeats: int, small: bool) -> None:
    """Seconds of a training step with and without the second head, in turn, and the ratios step by step."""
    net, frame, batch = ("mobile", 64, 32) if small else ("resnet50", 224, 32)
    config = tf_runtime.start(0, "auto")  # as a run has it: deterministic kernels, the first GPU where there is one
    with tf1.Graph().as_default():
        tf1.set_random_seed(0)
        ops = train_ops(net, frame, batch)
        session = tf1.Session(config=config)
        session.run(tf1.global_variables_initializer())
        seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
        for mode in MODES * 2:
            session.run(ops[mode])  # warm-up: a first run of each, and one with all memory there
        for number in range(steps):
            for turn in range(
                len(MODES)
            ):  # another one begins each time, so that no mode has the same neighbour's cache
                mode = MODES[(number + turn * (1 if number % 2 else -1)) % len(MODES)]
                began = time.perf_counter()
                loss = session.run(ops[mode])
                seconds[mode].append(time.perf_counter() - began)
                if not np.isfinite(loss):
                    raise SystemExit(f"{mode}: loss is {loss} at step {number}: these times mean nothing")
    print(f"{net} at {frame}, batch {batch}, {steps} steps of each mode in turn; median and its 95 % interval")
    for mode in MODES:
        middle, low, high = median_interval(seconds[mode])
        line = f"  {mode:10s} {middle:.3f} s ({low:.3f} to {high:.3f})"
        if mode != "vanilla":
            line += f"; over softmax {percent(_ratios(seconds[mode], seconds['vanilla']))}"
        print(line)
    print(f"  hard over semi_hard {percent(_ratios(seconds['hard'], seconds['semi_hard']))}", flush=True)


def _ratios(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x / y for x, y in zip(a, b, strict=True)]


def row_by_row_hard(labels: tf.Tensor, embeddings: tf.Tensor, margin: float) -> tf.Tensor:
    """Batch-hard as released: the nearest negative by map_fn and boolean_mask, one anchor after another."""
    distances = squared_distances(embeddings)
    positive, negative = pair_masks(labels)
    farthest = tf.reduce_max(distances * tf.cast(positive, distances.dtype), axis=1)

    def nearest(row: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        return tf.reduce_min(tf.boolean_mask(row[0], row[1]))

    near = tf1.map_fn(nearest, (distances, negative), dtype=distances.dtype)
    return tf.reduce_mean(tf.maximum(farthest - tf.minimum(near, NO_NEGATIVE) + margin, 0.0))


LOSSES: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "semi_hard tiled (tf-slim)": lambda y, e: slim.losses.metric_learning.triplet_semihard_loss(y, e, MARGIN),
    "semi_hard": lambda y, e: sorted_semi_hard_loss(y, e, MARGIN),
    "hard row by row": lambda y, e: row_by_row_hard(y, e, MARGIN),
    "hard": lambda y, e: ranking.batch_hard_loss(y, e, MARGIN),
    "hard, soft margin": lambda y, e: ranking.batch_hard_loss(y, e, "soft"),
    "hard, no margin": lambda y, e: ranking.batch_hard_loss(y, e, "none"),
    "hard_awtl": lambda y, e: ranking.adaptive_weight_loss(y, e, MARGIN),
    "center": lambda y, e: ranking.center_loss(y, e, tf.zeros([1024, 256])),
    "statistics": lambda y, e: sum(ranking.batch_statistics(y, e, MARGIN).values()),
}


def loss_runner(name: str) -> Callable[[int, int], float]:
    """(batch, width) -> seconds of one value and gradient of a loss on random unit vectors, 4 images a class."""
    labels, e = tf1.placeholder(tf.int64, [None]), tf1.placeholder(tf.float32, [None, None])
    loss = LOSSES[name](labels, e)
    wanted = [loss] if name == "statistics" else [loss, tf1.gradients(loss, e)[0]]
    session = tf1.Session()

    def run(batch: int, width: int) -> float:
        x = np.random.default_rng(batch).normal(size=(batch, width)).astype(np.float32)
        feeds = {labels: np.arange(batch) // 4, e: x / np.linalg.norm(x, axis=1, keepdims=True)}
        began = time.perf_counter()
        session.run(wanted, feeds)
        return time.perf_counter() - began

    return run


def hard(steps: int, repeats: int, small: bool) -> None:
    """Batch-hard, value and gradient: vectorised against row by row."""
    with tf1.Graph().as_default():
        slow, fast = loss_runner("hard row by row"), loss_runner("hard")
        for batch in (32,) if small else (32, 256):
            slow(batch, 256), fast(batch, 256)
            pairs = [(slow(batch, 256), fast(batch, 256)) for _ in range(repeats)]
            a, b = zip(*pairs, strict=True)
            print(f"batch-hard, value and gradient, batch {batch}: row by row {text(a)}, vectorised {text(b)}", end="")
            print(f": {statistics.median(_ratios(a, b)):.1f} times", flush=True)


def child(request: dict[str, Any]) -> None:
    """In a child process: seconds and rise of anonymous memory of one loss; gives up above the limit."""
    peak, before, done = 0, sys.maxsize, False

    def watch() -> None:
        nonlocal peak
        while not done:
            peak = max(peak, anonymous())
            if peak - before > request["limit"]:
                print(json.dumps({"over": peak - before}), flush=True)
                os._exit(0)
            time.sleep(0.002)

    with tf1.Graph().as_default():
        run = loss_runner(request["loss"])
        for _ in range(2):
            run(8, request["width"])  # whatever TensorFlow sets up at first is there before the value that counts
        np.random.default_rng(0).normal(size=(request["batch"], request["width"]))
        before = peak = anonymous()
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        seconds = [run(request["batch"], request["width"]) for _ in range(request["repeats"])]
        done = True
        watcher.join()
    print(json.dumps({"rise": peak - before, "seconds": seconds}))


def anonymous() -> int:
    """Anonymous memory of this process, bytes (Linux)."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) * 1024


def available() -> int:
    """Memory that the machine can still give, bytes (Linux)."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) * 1024


def in_child(loss: str, batch: int, width: int, repeats: int) -> dict[str, Any]:
    """`child` in a process of its own, allowed 70 percent of what is free."""
    limit = int(0.7 * available())
    request = {"loss": loss, "batch": batch, "width": width, "repeats": repeats, "limit": limit}
    command = [sys.executable, str(Path(__file__).resolve()), "--child", json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{loss}, batch {batch}: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])


def shown(found: dict[str, Any], matrix: int) -> str:
    """Memory, also in B x B float32 matrices, and time."""
    if "over" in found:
        return f"given up after {found['over'] / 2**30:.1f} GiB, which is 70 % of the memory that was free"
    rise = found["rise"]
    return f"{rise / 2**20:,.1f} MiB ({rise / matrix:,.1f} B x B matrices), {text(found['seconds'])}"


def semi_hard(steps: int, repeats: int, small: bool) -> None:
    """Semi-hard, value and gradient: by sorted rows against tf-slim's tiled B^2 x B matrices."""
    for batch in (64,) if small else (256, 1024):
        times = {}
        for name in ("semi_hard tiled (tf-slim)", "semi_hard"):
            found = times[name] = in_child(
                name, batch, 256, min(repeats, 3) if batch > 256 and "slim" in name else repeats
            )
            print(f"{name}, batch {batch}, dimension 256: {shown(found, 4 * batch * batch)}", flush=True)
        slow, fast = times.values()
        if "seconds" in slow:
            ratio = statistics.median(slow["seconds"]) / statistics.median(fast["seconds"])
            print(f"  {ratio:.1f} times faster, {slow['rise'] / max(fast['rise'], 1):.0f} times less memory")


def memory(steps: int, repeats: int, small: bool) -> None:
    """Every loss of ours, value and gradient, at batch 1024 and dimension 256."""
    batch = 128 if small else 1024
    print(f"batch {batch}, dimension 256; one B x B matrix is {4 * batch * batch / 2**20:g} MiB")
    for name in LOSSES:
        if "slim" not in name and "row" not in name:
            print(f"  {name}: {shown(in_child(name, batch, 256, repeats), 4 * batch * batch)}", flush=True)


def main() -> None:
    """Runs the named parts, all without a name."""
    parts = {"overhead": overhead, "hard": hard, "semi_hard": semi_hard, "memory": memory}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--steps", type=int, default=30, help="of each mode, for overhead")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--small", action="store_true", help="seconds, for tests")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(json.loads(args.child))
        return
    if unknown := set(args.parts) - parts.keys():
        parser.error(f"unknown part {sorted(unknown)}: choose {', '.join(parts)}")
    print(f"tensorflow {tf.__version__}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    for name in args.parts or parts:
        parts[name](args.steps, args.repeats, args.small)


if __name__ == "__main__":
    main()
