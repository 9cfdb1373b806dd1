"""Triplet: what the second head costs, XLA, and the ranking losses against straightforward formulations."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.measure import (
    REPEATS,
    Benchmark,
    Measure,
    Pair,
    Rise,
    interleave,
    median_interval,
    memory_pair,
    on_each_device,
    rate,
    rise,
    seconds,
)
from benchmarks.tf_sessions import compare_sessions, precision_configs, started, xla_configs
from reproduction.runtime import tf_runtime
from reproduction.runtime.tf import slim, tf, tf1
from triplet_tf import nets, ranking
from triplet_tf.ranking.distances import NO_NEGATIVE, pair_masks, squared_distances
from triplet_tf.ranking.semi_hard import sorted_semi_hard_loss

MODES = ("vanilla", "cntr", "semi_hard", "hard")
STEPS = 20  # of each mode, after the first
MARGIN, WIDTH, CLASSES = 0.2, 256, 100


def train_ops(net: str, frame: int, batch: int) -> dict[str, tf.Operation]:
    """One update of each mode in the current graph: softmax, and softmax plus each regularizer, as a run builds it.

    All modes stand in one graph on the same weights and optimizer slots, so that one process holds them once and the
    steps can take turns.
    """
    step = tf1.train.get_or_create_global_step()
    rng = np.random.default_rng(0)
    images = tf1.get_variable(  # not fed, so that no step copies its pixels
        "images", [batch, frame, frame, 3], trainable=False, initializer=tf1.random_uniform_initializer(-1, 1, seed=1)
    )
    labels = tf.constant(rng.permutation(CLASSES)[np.arange(batch) // 4], tf.int64)
    logits, feature_map, _ = nets.backbone(net, images.read_value(), CLASSES, is_training=True)
    embeddings = nets.embedding_head(feature_map, WIDTH)
    centers = ranking.new_centers(CLASSES, WIDTH)
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


def overhead_of(ratios: Sequence[float]) -> tuple[float, ...]:
    """Median of time ratios as a percentage above 1, and the ends of its 95 percent interval."""
    return tuple(100 * (value - 1) for value in median_interval(ratios))


def overhead(device: str, small: bool) -> list[Pair]:
    """Seconds of a training step with and without the second head, in turn, and the ratios step by step.

    Raises:
      RuntimeError: a loss that is not finite; its times mean nothing.
    """
    net, frame, batch, steps = ("mobile", 64, 32, 6) if small else ("resnet50", 224, 32, STEPS)
    config, where = started(device), "" if device == "cpu" else f", {device}"
    taken: dict[str, list[float]] = {mode: [] for mode in MODES}
    with tf1.Graph().as_default():
        tf1.set_random_seed(0)
        ops = train_ops(net, frame, batch)
        with tf_runtime.session(config) as session:
            for number in range(steps + 1):
                for mode in MODES[:: -1 if number % 2 else 1]:  # each goes first as often as last
                    began = time.perf_counter()
                    loss = session.run(ops[mode])
                    taken[mode].append(time.perf_counter() - began)
                    if not np.isfinite(loss):
                        raise RuntimeError(f"{mode}: loss is {loss} at step {number}")
    rows = []
    bars = {("cntr", "vanilla"): 3, ("semi_hard", "vanilla"): 3, ("hard", "vanilla"): 3, ("hard", "semi_hard"): 1}
    for (a, b), bar in bars.items():
        slower, faster = taken[a][1:], taken[b][1:]  # the first step warms up
        middle, low, high = overhead_of([x / y for x, y in zip(slower, faster, strict=True)])
        other = "softmax alone" if b == "vanilla" else b
        name = f"training step, {net} at {frame}, batch {batch}{where}: {a} against {other}"
        note = f"overhead {middle:+.2f} % (95 % interval of the median {low:+.2f} to {high:+.2f}), bar {bar} %"
        rows.append(Pair(name, "s", faster, slower, bar=1 / (1 + bar / 100), note=note))
    return rows


def xla(device: str, small: bool) -> Pair:
    """Images/s of a training step of mode hard with and without XLA."""
    inner = 1 if device == "cpu" else 30
    return compare_steps(f"{device}: XLA against none", 64, 8 if small else 32, xla_configs(device), inner)


def bfloat16(small: bool) -> Pair:
    """Images/s of a training step at the size of profile matched in float32, and in bfloat16 (--amp auto).

    Raises:
      NotSupported: this CPU has no instructions for bfloat16.
    """
    frame, batch = (64, 8) if small else (128, 32)
    return compare_steps("cpu: bf16 against float32", frame, batch, precision_configs())


def compare_steps(what: str, frame: int, batch: int, configs: list[tf1.ConfigProto], inner: int = 1) -> Pair:
    """Images/s of a training step of MobileNet in mode hard in two sessions; see `compare_sessions`."""
    name = f"training step, mobile at {frame}, mode hard, batch {batch}, {what}"
    with tf1.Graph().as_default():
        tf1.set_random_seed(0)
        return compare_sessions(name, batch, train_ops("mobile", frame, batch)["hard"], configs, inner=inner)


def evaluation(small: bool) -> Pair:
    """Images/s of a test at the size of profile matched: batches of 128 (--eval-batch) against those of training."""
    frame, sizes = (64, (8, 16)) if small else (128, (32, 128))
    config, tests = started("cpu"), list[tf.Tensor]()
    with tf1.Graph().as_default():
        tf1.set_random_seed(0)
        for size in sizes:
            images = tf1.get_variable(  # a constant would be computed once, with all that follows from it
                f"images{size}", [size, frame, frame, 3], initializer=tf1.random_uniform_initializer(-1, 1, seed=1)
            )
            logits, feature_map, _ = nets.backbone(
                "mobile", images.read_value(), 120, is_training=False, reuse=bool(tests)
            )
            embeddings = nets.embedding_head(feature_map, WIDTH, reuse=bool(tests))
            tests.append(tf.reduce_sum(logits) + tf.reduce_sum(embeddings))  # TensorFlow skips what nobody fetches
        with tf_runtime.session(config) as session:
            small_batches, large_batches = (
                rate(size, functools.partial(session.run, test), sizes[1] // size)
                for size, test in zip(sizes, tests, strict=True)
            )
            name = f"test, mobile at {frame}, cpu: batches of {sizes[1]} against {sizes[0]}"
            return interleave(name, "images/s", small_batches, large_batches)


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
    "center": lambda y, e: ranking.center_loss(y, e, tf.zeros([1024, WIDTH])),
    "statistics": lambda y, e: sum(ranking.batch_statistics(y, e, MARGIN).values()),
}


def loss_runner(name: str, device: str = "cpu") -> Callable[[int], Callable[[], object]]:
    """batch -> a call that computes value and gradient of a loss on random unit vectors, 4 images a class."""
    config = tf1.ConfigProto(device_count={"GPU": int(device != "cpu")})
    config.gpu_options.allow_growth = True
    with tf1.Graph().as_default():
        labels, e = tf1.placeholder(tf.int64, [None]), tf1.placeholder(tf.float32, [None, None])
        loss = LOSSES[name](labels, e)
        wanted = [loss] if name == "statistics" else [loss, tf1.gradients(loss, e)[0]]
        session = tf1.Session(config=config)

    def of(batch: int) -> Callable[[], object]:
        x = np.random.default_rng(batch).normal(size=(batch, WIDTH)).astype(np.float32)
        feeds: dict[Any, np.ndarray] = {labels: np.arange(batch) // 4, e: x / np.linalg.norm(x, axis=1, keepdims=True)}
        return functools.partial(session.run, wanted, feeds)

    return of


def batch_hard(device: str, small: bool) -> list[Pair]:
    """Batch-hard, value and gradient: vectorised against row by row."""
    slow, fast = loss_runner("hard row by row", device), loss_runner("hard", device)
    where = "" if device == "cpu" else f", {device}"
    return [
        interleave(
            f"batch-hard, value and gradient, batch {batch}{where}: against a row-by-row map",
            "s",
            seconds(slow(batch)),
            seconds(fast(batch), 5),
        )
        for batch in ((32,) if small else (32, 256))
    ]


def prepare_loss(name: str, batch: int) -> Callable[[], float]:
    """For `measure.rise`: value and gradient of a loss once; what TensorFlow sets up at first does not count."""
    of = loss_runner(name)
    for _ in range(2):
        of(8)()
    return seconds(of(batch))


def semi_hard(batch: int, small: bool) -> list[Pair]:
    """Semi-hard, value and gradient: by sorted rows against tf-slim's tiled B^2 x B matrices; memory and time."""
    batch = 64 if small else batch
    name = f"semi-hard, value and gradient, batch {batch}: sorted rows against tf-slim's tiled matrices"
    repeats = 2 if small else REPEATS
    theirs, mine = ((prepare_loss, loss, batch) for loss in ("semi_hard tiled (tf-slim)", "semi_hard"))
    memory, tiled, ours = memory_pair(f"{name}: memory", theirs, mine, repeats)
    before, after = ([run.seconds for run in side] for side in (tiled, ours))
    return [
        memory,
        Pair(f"{name}: time", "s", before, after, note=memory.note or "the first call of this size in a process"),
    ]


def loss_memory(small: bool) -> list[Measure]:
    """Every loss of ours, value and gradient, at batch 1024 and dimension 256."""
    batch = 128 if small else 1024
    matrix = 4 * batch * batch
    chosen = [name for name in LOSSES if "slim" not in name and "row" not in name]
    rises: dict[str, Rise] = {name: rise(prepare_loss, name, batch) for name in (chosen[:1] if small else chosen)}
    return [
        Measure(
            f"{name}, value and gradient, batch {batch}: memory",
            "MiB",
            [run.bytes / 2**20],
            note=f"{run.bytes / matrix:.1f} matrices of batch x batch float32",
        )
        for name, run in rises.items()
    ]


def _pairs(device: str) -> dict[str, Benchmark]:
    return {
        "overhead": lambda small: overhead(device, small),
        "xla mobile": lambda small: xla(device, small),
        "batch-hard": lambda small: batch_hard(device, small),
    }


BENCHMARKS: dict[str, Benchmark] = {
    "semi-hard 256": lambda small: semi_hard(256, small),
    "semi-hard 1024": lambda small: semi_hard(1024, small),
    "bf16": bfloat16,
    "evaluation": evaluation,
    **on_each_device(_pairs),
    "loss memory": loss_memory,
}
