"""Stage 1: the CNN with its fully connected classifier. Cross-entropy + 0.001 * sum of 0.5 ||W||^2, Adam.

Source: authors' train_fc_classifier.py.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

import datasets
from class2str_tf.data.batches import Batches, has_fixed_order, slices, steps_per_epoch
from class2str_tf.data.images import load
from class2str_tf.flags import Config
from class2str_tf.method.layers import tf, tf1
from class2str_tf.networks import build as networks
from class2str_tf.training import record
from class2str_tf.training.loop import run_steps
from reproduction.runtime import run_data, tf_runtime
from reproduction.runtime.flags import as_dict
from reproduction.runtime.run_folder import open_run

TEST = "cnn_train/acc"  # the authors' name of the accuracy


class Graph(NamedTuple):
    """Tensors of stage 1."""

    batches: Batches
    loss: tf.Tensor
    scalars: dict[str, tf.Tensor]
    train: tf.Operation
    images: tf.Tensor
    num_correct: tf.Tensor
    test_labels: tf.Tensor


def build(config: Config, data: datasets.Dataset) -> Graph:
    """Training and evaluation towers on shared variables, in the current graph."""
    num_classes = len(data.class_names)
    step = tf1.train.get_or_create_global_step()
    batches = Batches(data.train_images, data.train_labels, config.B, config.seed, has_fixed_order(config))
    features = networks.cnn(batches.x, config, training=True)
    logits = networks.fc_classifier(features, config, num_classes, training=True)
    loss_classifier = networks.cross_entropy(batches.labels, logits)
    regularizer = networks.WEIGHT_DECAY * networks.weight_penalty("cnn", "classifier")
    loss = loss_classifier + regularizer
    correct = tf.equal(tf.argmax(logits, axis=1), batches.labels)
    scalars = {
        "cnn_train/loss_classifier": loss_classifier,
        "cnn_train/regularizer": regularizer,
        "cnn_train/loss": loss,
        "cnn_train/acc": tf.reduce_mean(tf.cast(correct, tf.float32)),
    }
    with tf.control_dependencies(tf1.get_collection(tf1.GraphKeys.UPDATE_OPS)):
        train = tf1.train.AdamOptimizer(config.lr).minimize(loss, global_step=step)

    images = tf1.placeholder(tf.uint8, [None, *data.train_images.shape[1:]], name="x")
    labels = tf1.placeholder(tf.int64, [None], name="y")
    test_logits = networks.fc_classifier(
        networks.cnn(images, config, training=False), config, num_classes, training=False
    )
    num_correct = tf.reduce_sum(tf.cast(tf.equal(tf.argmax(test_logits, axis=1), labels), tf.int32))
    return Graph(batches, loss, scalars, train, images, num_correct, labels)


def accuracy(session: tf1.Session, graph: Graph, images: np.ndarray, labels: np.ndarray, batch_size: int) -> float:
    """Accuracy over all given images, by integer counts, in [0, 1]."""
    parts = zip(slices(images, batch_size), slices(labels, batch_size), strict=True)
    counts = [session.run(graph.num_correct, {graph.images: x, graph.test_labels: y}) for x, y in parts]
    return int(sum(counts)) / len(labels)


def run_stage1(config: Config) -> None:
    """Runs a stage-1 script: trains (or goes on), evaluates, writes the record."""
    if config.eval:
        evaluate_checkpoint(config, config.eval)
        return
    with open_run(config.folder, as_dict(config), config.overwrite) as run:
        session_config = tf_runtime.start(config.seed, config.device, config.xla)
        seen = run_data.look_at(run.config)
        data = load(config)
        if run_data.is_finished(run, seen, lambda: data.digests):
            return
        total = min(config.epochs * steps_per_epoch(len(data.train_labels), config.B), config.max_steps or sys.maxsize)
        with tf1.Graph().as_default():
            tf1.set_random_seed(config.seed)
            graph = build(config, data)
            record.describe(data)
            with tf_runtime.session(session_config) as session:
                test = partial(accuracy, session, graph, data.test_images, data.test_labels, config.B)
                history = run_steps(
                    "stage 1", session, graph, config, run.folder, len(data.train_labels), total,
                    evaluate=lambda step: {TEST: test()}, best_by=f"test/{TEST}",
                )  # fmt: skip
            record.finish_stage1(run, config, data, history, total)


def evaluate_checkpoint(config: Config, prefix: str) -> None:
    """--eval: accuracy of one checkpoint over the whole test set."""
    session_config = tf_runtime.start(config.seed, config.device)
    data = load(config)
    with tf1.Graph().as_default():
        tf1.set_random_seed(config.seed)
        graph = build(config, data)
        with tf_runtime.session(session_config) as session:
            built = f"{config.model} on {data.name}"
            tf_runtime.restore_for_evaluation(session, Path(prefix), built)
            test = accuracy(session, graph, data.test_images, data.test_labels, config.B)
    print(f"{prefix}: FC accuracy {100 * test:.2f} % of {len(data.test_labels)} test images")
