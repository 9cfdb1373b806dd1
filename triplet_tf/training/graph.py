"""The graph of a run: training and evaluation copies of the backbone, both heads, total loss, one update.

Source: the released fast_fgvr_semi_train.py (losses, schedule, update) and config/base_config.py (constants).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from datasets.lists import ImageLists
from reproduction.runtime.tf import tf, tf1
from triplet_tf import nets, ranking
from triplet_tf.config.base_config import TRIPLET_MODES, Config
from triplet_tf.data_sampling.loader import TestBatches, TrainBatches

MOMENTUM = 0.9
LOSSES: dict[str, Callable[..., tf.Tensor]] = {
    "semi_hard": ranking.semi_hard_loss,
    "hard": ranking.batch_hard_loss,
    # DEVIATION STL-D04: accepted and not implemented in the released code
    "hard_awtl": ranking.adaptive_weight_loss,
}


class Evaluation(NamedTuple):
    """Tensors of one test batch."""

    batches: TestBatches
    logits: tf.Tensor  # [<=B, C]
    embeddings: tf.Tensor  # unit length: the embedding head's, or the pooled features in mode vanilla
    cross_entropy: tf.Tensor  # [<=B]
    pooled: tf.Tensor | None  # unit length: the pooled features next to an embedding head; None in mode vanilla


class Graph(NamedTuple):
    """Tensors of a run."""

    batches: TrainBatches
    loss: tf.Tensor
    scalars: dict[str, tf.Tensor]  # for the log
    accumulate: tf.Operation | None  # a mini-batch before the last of an update (--caffe_iter_size > 1)
    train: tf.Operation
    learning_rate: tf.Tensor
    evaluation: Evaluation
    start_update: tf.Operation


def build(config: Config, lists: ImageLists) -> Graph:
    """Builds the whole graph of a run in the current graph, whose seed must be set."""
    step = tf1.train.get_or_create_global_step()
    batches = TrainBatches(config, lists)
    passes = tf1.get_variable(  # forward passes so far: what keys dropout; saved with the rest
        "passes", [], tf.int64, tf1.zeros_initializer(), trainable=False
    )
    logits, feature_map, _ = nets.backbone(
        config.net,
        batches.images,
        lists.num_classes,
        is_training=True,
        bn_decay=config.bn_decay,
        tap=config.tap,
        seed=config.seed,
        step=passes,
    )
    cross_entropy = tf.reduce_mean(_cross_entropy(batches.labels, logits))
    right = tf.equal(tf.argmax(logits, axis=1), batches.labels)
    scalars = {"cross_entropy": cross_entropy, "batch_accuracy": tf.reduce_mean(tf.cast(right, tf.float32))}
    loss = cross_entropy
    after: list[tf.Operation] = []
    if config.train_mode != "vanilla":
        embeddings = nets.embedding_head(feature_map, config.emb_dim)
        metric, after = _metric_loss(config, batches.labels, embeddings, lists.num_classes)
        loss += metric
        euclidean = config.distance == "euclidean"
        scalars |= {
            "metric_loss": metric,
            **ranking.batch_statistics(batches.labels, embeddings, config.margin, euclidean),
        }
    if config.weight_decay == "on":  # DEVIATION STL-D02: collected and never added as released, hence off
        loss += tf.add_n(nets.weight_decay_terms(config.net))
    scalars["loss"] = loss
    rate = learning_rate(config, step)
    start_update, accumulate, train = _update(config, loss, rate, step, passes, after)
    return Graph(batches, loss, scalars, accumulate, train, rate, build_evaluation(config, lists), start_update)


def learning_rate(config: Config, step: tf.Tensor) -> tf.Tensor:
    """(lr0 - lr_end) * (1 - min(g, T) / T) + lr_end with g updates done so far; scalar float32."""
    start, end = float(config.learning_rate), float(config.end_learning_rate)
    return tf1.train.polynomial_decay(start, step, config.train_iters, end, power=1.0)


def _cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def _metric_loss(
    config: Config, labels: tf.Tensor, embeddings: tf.Tensor, num_classes: int
) -> tuple[tf.Tensor, list[tf.Operation]]:
    """Returns the weighted ranking term, and what has to run after it."""
    if config.train_mode in TRIPLET_MODES:
        weight = float(config.triplet_loss_lambda)
        euclidean = (True,) if config.distance == "euclidean" else ()  # mode hard alone takes it
        loss = LOSSES[config.train_mode](labels, embeddings, config.margin, *euclidean)
        done = tf.cast(tf1.train.get_global_step(), tf.float32)
        passed = 3.0 * done / config.train_iters  # 1 where the first third ends
        if config.first_third == "semi_hard":  # DEVIATION STL-D21: hardest triplets from the start collapse
            loss = tf.where(passed < 1.0, LOSSES["semi_hard"](labels, embeddings, config.margin), loss)
        elif config.first_third == "lambda":  # DEVIATION STL-D21
            loss *= tf.minimum(passed, 1.0)
        return weight * loss, []
    centers = ranking.new_centers(num_classes, config.emb_dim)
    loss = ranking.CENTER_LAMBDA * ranking.center_loss(labels, embeddings, centers)
    if config.center_update == "off":  # as released, STL-D01
        return loss, []
    with tf.control_dependencies([loss]):
        return loss, [ranking.center_update(labels, embeddings, centers)]


def _update(
    config: Config, loss: tf.Tensor, rate: tf.Tensor, step: tf.Tensor, passes: tf.Variable, after: list[tf.Operation]
) -> tuple[tf.Operation, tf.Operation | None, tf.Operation]:
    """Momentum 0.9 on the mean gradient of --caffe_iter_size mini-batches; every pass moves the BN statistics.

    DEVIATION STL-D03: all N gradients count; the released code drops the last one and still divides by N.

    Returns:
      (what opens an update, the op of every mini-batch but the last or None, the op of the last one).
    """
    optimizer = tf1.train.MomentumOptimizer(rate, MOMENTUM)
    pairs = [(g, v) for g, v in optimizer.compute_gradients(loss) if g is not None]
    with tf.control_dependencies([loss, *(g for g, _ in pairs)]):
        counted = passes.assign_add(1, read_value=False)
    each_pass = [*tf1.get_collection(tf1.GraphKeys.UPDATE_OPS), *after, counted]
    size = config.caffe_iter_size
    if size == 1:
        nothing = tf.no_op()
        with tf.control_dependencies(each_pass):
            return nothing, None, optimizer.apply_gradients(pairs, step)
    sums = [  # local: an update that was cut off starts again with its first mini-batch
        tf1.get_variable(
            f"gradient_sum_{i}",
            v.shape,
            initializer=tf1.zeros_initializer(),
            trainable=False,
            collections=[tf1.GraphKeys.LOCAL_VARIABLES],
        )
        for i, (_, v) in enumerate(pairs)
    ]
    cleared = tf.group(*(total.assign(tf.zeros_like(total), read_value=False) for total in sums))
    added = [total.assign_add(g, read_value=False) for total, (g, _) in zip(sums, pairs, strict=True)]
    accumulate = tf.group(*added, *each_pass)
    with tf.control_dependencies([accumulate]):
        means = [total.read_value() / size for total in sums]
    return cleared, accumulate, optimizer.apply_gradients(list(zip(means, (v for _, v in pairs), strict=True)), step)


def build_evaluation(config: Config, lists: ImageLists, reuse: bool = True) -> Evaluation:
    """Builds the copy that tests, on the variables of the training copy (`reuse`) or, to evaluate only, on its own.

    DEVIATION STL-D05: the released code has the embedding head on the training copy alone.
    """
    batches = TestBatches(config, lists)
    logits, feature_map, pooled = nets.backbone(
        config.net,
        batches.images,
        lists.num_classes,
        is_training=False,
        reuse=reuse,
        bn_decay=config.bn_decay,
        tap=config.tap,
    )
    pooled = tf.math.l2_normalize(pooled, axis=1, epsilon=1e-10)
    cross_entropy = _cross_entropy(batches.labels, logits)
    if config.train_mode == "vanilla":
        return Evaluation(batches, logits, pooled, cross_entropy, None)
    embeddings = nets.embedding_head(feature_map, config.emb_dim, reuse=reuse)
    return Evaluation(batches, logits, embeddings, cross_entropy, pooled)


def count_parameters() -> int:
    """Counts the trainable parameters of the current graph."""
    return sum(variable.shape.num_elements() for variable in tf1.trainable_variables())
