"""Stage 1: the CNN with its fully connected classifier. Cross-entropy + 0.001 * sum of 0.5 ||W||^2, Adam.

Source: authors' train_fc_classifier.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import datasets
from class2str_tf.data.batches import Batches, has_fixed_order, slices
from class2str_tf.data.images import load
from class2str_tf.flags import Config, of_run
from class2str_tf.networks import build as networks
from class2str_tf.training import loop, record
from class2str_tf.training.frozen_features import newest_checkpoint
from reproduction.runtime import run_data, tf_runtime
from reproduction.runtime.run_folder import UserError, open_run
from reproduction.runtime.tf import tf, tf1

TEST = "cnn_train/acc"  # the authors' name of the accuracy


@dataclass(frozen=True)
class Graph(loop.Graph):
    """Tensors of stage 1.

    Attributes:
      images: uint8 [B, H, W, C], to be classified.
      predicted: int64 [B], their classes, see `networks.classes_of`.
    """

    images: tf.Tensor
    predicted: tf.Tensor


def build(config: Config, data: datasets.Dataset, total: int = 1) -> Graph:
    """Training and evaluation towers on shared variables, in the current graph; `total` steps, for the rate."""
    num_classes = len(data.class_names)
    step = tf1.train.get_or_create_global_step()
    fixed = has_fixed_order(config)
    batches = Batches(data.train_images, data.train_labels, config.B, config.seed, fixed, config.augment)

    def classify(batch: tf.Tensor, training: bool) -> tf.Tensor:
        features = networks.cnn(batch, config, training)
        if not config.fc_weights:
            return networks.fc_classifier(features, config, num_classes, training)
        hidden = networks.reduced_hidden(config.fc_weights, features.shape[1], num_classes)
        if not hidden:
            least = features.shape[1] + num_classes
            raise UserError(f"--fc-weights {config.fc_weights}: at least {least}, the weights of one hidden unit")
        return networks.reduced_fc(features, hidden, num_classes, relu=not config.fc_linear)

    logits = classify(batches.x, training=True)
    loss_classifier = networks.cross_entropy(batches.labels, logits)
    penalty = networks.weight_penalty("cnn", "reduced" if config.fc_weights else "classifier")
    regularizer = networks.weight_decay(config) * penalty
    loss = loss_classifier + regularizer
    correct = tf.equal(tf.argmax(logits, axis=1), batches.labels)
    scalars = {
        "cnn_train/loss_classifier": loss_classifier,
        "cnn_train/regularizer": regularizer,
        "cnn_train/loss": loss,
        "cnn_train/acc": tf.reduce_mean(tf.cast(correct, tf.float32)),
    }
    with tf.control_dependencies(tf1.get_collection(tf1.GraphKeys.UPDATE_OPS)):
        rate = loop.learning_rate(config, step, total)
        train = tf1.train.AdamOptimizer(rate).minimize(loss, global_step=step)

    images = tf1.placeholder(tf.uint8, [None, *data.train_images.shape[1:]], name="x")
    return Graph(batches, loss, scalars, train, images, networks.classes_of(classify(images, training=False)))


def right(session: tf1.Session, graph: Graph, config: Config, data: datasets.Dataset) -> np.ndarray:
    """Which test images are classified correctly, bool [N].

    Raises:
      UserError: outputs that are not finite; the loss of a step, taken before its update, shows that too late.
    """
    parts = slices(data.test_images, config.eval_batch or config.B)
    predicted = np.concatenate([session.run(graph.predicted, {graph.images: x}) for x in parts])
    loop.refuse_non_finite("stage 1", bool((predicted >= 0).all()))
    return predicted == data.test_labels


def run_stage1(config: Config) -> None:
    """Runs a stage-1 script: trains (or resumes), evaluates, writes the record."""
    if config.eval:
        evaluate_checkpoint(config, config.eval)
        return
    with open_run(config.folder, of_run(config), config.overwrite) as run:
        # DEVIATION C2S-D32: float32, not compiled, unless a flag asks for speed
        session_config = tf_runtime.start(config.seed, config.device, config.xla, config.amp)
        prefix = newest_checkpoint(config) if config.cnn_dir else None  # its absence is reported before data are read
        seen = run_data.look_at(run.config)
        data = load(config)
        if run_data.is_finished(run, seen, lambda: data.digests):
            return
        num_tests = len(data.test_labels)
        total = loop.total_steps(config, len(data.train_labels))
        with tf1.Graph().as_default():
            tf1.set_random_seed(config.seed)
            graph = build(config, data, total)
            record.describe(data)
            with tf_runtime.session(session_config) as session:
                if prefix:
                    go_on_from(session, config, prefix, data)
                elif config.model == "early":
                    networks.whiten(session, data.train_images, config)
                history = loop.run_steps(
                    "stage 1",
                    session,
                    graph,
                    config,
                    run.folder,
                    len(data.train_labels),
                    total,
                    evaluate=lambda step: {TEST: int(right(session, graph, config, data).sum()) / num_tests},
                    best_by=f"test/{TEST}",
                )
                outcomes = right(session, graph, config, data)
            precision = tf_runtime.precision_of(session_config)
            record.finish_stage1(run, config, data, history, total, outcomes, precision)


def go_on_from(session: tf1.Session, config: Config, prefix: Path, data: datasets.Dataset) -> None:
    """Puts the weights of a finished stage 1 into the graph; a reduced FC classifier keeps its initial values."""
    run_data.check_data(prefix.parent, data.digests, "run stage 1 with --overwrite, or choose --cnn-dir")
    variables = networks.variables("cnn", *[] if config.fc_weights else ["classifier"])
    tf_runtime.restore_for_evaluation(session, prefix, f"{config.model} on {data.name}", variables)


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
            test = float(right(session, graph, config, data).mean())
    print(f"{prefix}: FC accuracy {100 * test:.2f} % of {len(data.test_labels)} test images")
