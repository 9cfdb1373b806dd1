"""The loss of each mode, the schedule, and one update: accumulation, weight decay, centers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from reproduction.runtime.tf import tf, tf1
from triplet_tf import ranking
from triplet_tf.config.base_config import Config, parse, training_parser
from triplet_tf.training import graph as model

ANGLES = np.deg2rad([0.0, 25.0, 60.0, 150.0])
EMBEDDINGS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1).astype(np.float32)
LABELS = np.array([0, 0, 1, 1])


def config_of(*flags: str) -> Config:
    return parse(training_parser(), list(flags))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--train_mode", "semi_hard"), 0.3064221),
        (("--train_mode", "hard"), 0.4659982),
        (("--train_mode", "hard", "--margin", "soft"), 0.7671574),
        (("--train_mode", "hard", "--margin", "none"), -0.1239440),
        (("--train_mode", "hard", "--triplet_loss_lambda", "0.5"), 0.2329991),
    ],
)
def test_metric_term_of_each_mode_with_the_papers_vectors(tf1_graph, flags, expected):
    loss, after = model._metric_loss(config_of(*flags), tf.constant(LABELS), tf.constant(EMBEDDINGS), 2)
    with tf1.Session() as session:
        assert session.run(loss) == pytest.approx(expected, abs=2e-6)
    assert after == []


def test_euclidean_distances_reach_loss_and_statistics(tf1_graph):
    """STL-D23, and that the default is the released loss."""
    flags = ("--train_mode", "hard", "--margin", "0.2")
    terms = [
        model._metric_loss(config_of(*flags, *more), tf.constant(LABELS), tf.constant(EMBEDDINGS), 2)[0]
        for more in ((), ("--distance", "euclidean"))
    ]
    distances = np.sqrt(((EMBEDDINGS[:, None] - EMBEDDINGS[None]) ** 2).sum(axis=2))
    same = LABELS[:, None] == LABELS[None]
    gaps = np.where(same, distances, 0).max(axis=1) - np.where(same, np.inf, distances).min(axis=1)
    with tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        assert session.run(terms) == pytest.approx([0.4659982, np.maximum(gaps + 0.2, 0).mean()], abs=1e-6)


@pytest.mark.parametrize(("step", "shares"), [(0, (1.0, 0.0)), (50, (1.0, 0.5)), (100, (0.0, 1.0)), (299, (0.0, 1.0))])
def test_the_first_third_of_the_steps_may_be_milder(tf1_graph, step, shares):
    """STL-D21: semi-hard triplets until a third of the steps is done, or lambda rising to its value."""
    semi, hard = 0.3064221, 0.4659982
    terms = [
        model._metric_loss(
            config_of("--train_mode", "hard", "--first_third", kind, "--train_iters", "300"),
            tf.constant(LABELS),
            tf.constant(EMBEDDINGS),
            2,
        )[0]
        for kind in ("semi_hard", "lambda")
    ]
    with tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        session.run(tf1.train.get_global_step().assign(step))
        found = session.run(terms)
    assert found == pytest.approx([shares[0] * semi + (1 - shares[0]) * hard, shares[1] * hard], abs=2e-6)


def test_adaptive_weight_mode_is_wired(tf1_graph):
    loss, _ = model._metric_loss(
        config_of("--train_mode", "hard_awtl"), tf.constant(LABELS), tf.constant(EMBEDDINGS), 2
    )
    expected = ranking.adaptive_weight_loss(tf.constant(LABELS), tf.constant(EMBEDDINGS), 0.2)
    with tf1.Session() as session:
        assert session.run(loss) == session.run(expected) > 0


@pytest.mark.parametrize("switch", ["on", "off"])
def test_center_mode_ignores_lambda_and_updates_after_the_loss(tf1_graph, switch):
    """STL-D01: loss 0.003 * 1.5 by the old centers; c = (1/6, 1/6), (1.75, 0) afterwards, or unchanged."""
    config = config_of("--train_mode", "cntr", "--triplet_loss_lambda", "7", "--center_update", switch)
    embeddings = tf.constant([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    loss, after = model._metric_loss(dataclasses.replace(config, emb_dim=2), tf.constant([0, 0, 1]), embeddings, 2)
    (centers,) = tf1.global_variables("centers")
    with tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        session.run(centers.assign([[0.0, 0.0], [2.0, 0.0]]))
        value, _ = session.run([loss, after])
        assert value == pytest.approx(0.003 * 1.5, abs=1e-8)
        moved = [[1 / 6, 1 / 6], [1.75, 0.0]] if switch == "on" else [[0.0, 0.0], [2.0, 0.0]]
        np.testing.assert_allclose(session.run(centers), moved, atol=1e-6)
    assert len(after) == (switch == "on") and centers not in tf1.trainable_variables()


@pytest.mark.parametrize(("step", "rate"), [(0, 0.01), (20000, 0.005), (39999, 2.5e-7), (40000, 0.0), (50000, 0.0)])
def test_learning_rate_of_the_paper(tf1_graph, step, rate):
    config = config_of()
    global_step = tf1.train.get_global_step()
    tensor = model.learning_rate(config, global_step)
    with tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        session.run(global_step.assign(step))
        assert session.run(tensor) == pytest.approx(rate, rel=2e-3, abs=1e-9)


def updates(size: int, data: np.ndarray, rate: float) -> tuple[list[np.ndarray], int, int]:
    """Weights after each update of a linear model on those mini-batches, global step and passes."""
    with tf1.Graph().as_default(), tf1.Session() as session:
        step = tf1.train.get_or_create_global_step()
        passes = tf1.get_variable("passes", [], tf.int64, tf1.zeros_initializer(), trainable=False)
        weights = tf1.get_variable("w", [2], initializer=tf1.ones_initializer())
        batch = tf1.placeholder(tf.float32, [None, 2])
        loss = tf.reduce_mean((tf.linalg.matvec(batch, weights) - 3.0) ** 2)
        config = config_of("--caffe_iter_size", str(size))
        start, accumulate, train = model._update(config, loss, tf.constant(rate), step, passes, [])
        session.run([tf1.global_variables_initializer(), tf1.local_variables_initializer()])
        found = []
        for i in range(0, len(data), size):
            session.run(start)
            for part in data[i : i + size - 1]:
                session.run(accumulate, {batch: part})
            session.run(train, {batch: data[i + size - 1]})
            found.append(session.run(weights))
        return found, int(session.run(step)), int(session.run(passes))


@pytest.mark.parametrize("size", [1, 3])
def test_accumulated_gradient_is_the_mean_of_all_mini_batches(size):
    """STL-D03, with momentum 0.9 over three updates; the same as one large batch."""
    data = np.random.default_rng(0).normal(size=(9, 4, 2)).astype(np.float32)
    found, step, passes = updates(size, data, 0.05)
    weights, momentum = np.ones(2), np.zeros(2)
    for i in range(0, 9, size):
        x = np.concatenate(data[i : i + size]).astype(np.float64)
        momentum = 0.9 * momentum + 2 * ((x @ weights - 3)[:, None] * x).mean(axis=0)
        weights = weights - 0.05 * momentum
        np.testing.assert_allclose(found[i // size], weights, rtol=2e-5)
    assert (step, passes) == (9 // size, 9)


def normalised(ranked: bool = False) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, list[tf.Variable]]:
    """A small network with batch norm: images, labels, loss (hard triplets where `ranked`), trainable variables."""
    from reproduction.runtime.tf import slim

    tf1.set_random_seed(3)
    x, labels = tf1.placeholder(tf.float32, [None, 6]), tf1.placeholder(tf.int64, [None])
    hidden = slim.fully_connected(x, 5, normalizer_fn=slim.batch_norm, normalizer_params={"is_training": True})
    outputs = slim.fully_connected(hidden, 3, activation_fn=None)
    if ranked:
        return x, labels, model.LOSSES["hard"](labels, tf.math.l2_normalize(outputs, 1), 0.2), tf1.trainable_variables()
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=outputs)
    return x, labels, tf.reduce_mean(entropy), tf1.trainable_variables()


def one_update(images: np.ndarray, classes: np.ndarray, ranked: bool = False) -> tuple[list[np.ndarray], list, list]:
    """Variables before and after one update of accumulated mini-batches, and each mini-batch's own gradients."""
    with tf1.Graph().as_default(), tf1.Session() as session:
        step = tf1.train.get_or_create_global_step()
        x, labels, loss, variables = normalised(ranked)
        passes = tf1.get_variable("passes", [], tf.int64, tf1.zeros_initializer(), trainable=False)
        config = config_of("--caffe_iter_size", str(len(images)))
        start, accumulate, train = model._update(config, loss, tf.constant(0.1), step, passes, [])
        own = tf1.gradients(loss, variables)
        session.run([tf1.global_variables_initializer(), tf1.local_variables_initializer()])
        before = session.run(variables)
        feeds = [{x: part, labels: known} for part, known in zip(images, classes, strict=True)]
        gradients = [session.run(own, feed) for feed in feeds]  # batch norm sees one mini-batch at a time
        session.run(start)
        for feed in feeds[:-1]:
            session.run(accumulate, feed)
        if len(images) > 1:
            assert all(np.array_equal(a, b) for a, b in zip(before, session.run(variables), strict=True))
        session.run(train, feeds[-1])
        return before, session.run(variables), gradients


@pytest.mark.parametrize("ranked", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_with_batch_norm_an_update_is_one_step_on_the_mean_of_the_mini_batches_gradients(count, ranked):
    rng = np.random.default_rng(count)
    images, classes = rng.normal(size=(count, 8, 6)).astype(np.float32), np.tile(np.arange(8) % 3, (count, 1))
    before, after, gradients = one_update(images, classes, ranked)
    for old, new, *parts in zip(before, after, *gradients, strict=True):
        mean = np.mean(np.array(parts, np.float64), axis=0)
        assert np.abs(mean).max() > 1e-4 or old.ndim == 1
        np.testing.assert_allclose(new, old - 0.1 * mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ranked", [False, True])
def test_two_mini_batches_are_not_one_large_batch_where_a_batch_norm_or_mining_looks_at_the_batch(ranked):
    """So it is by definition; docs/papers/triplet.md says so."""
    rng = np.random.default_rng(0)
    images, classes = rng.normal(size=(2, 8, 6)).astype(np.float32), np.tile(np.arange(8) % 3, (2, 1))
    _, halves, _ = one_update(images, classes, ranked)
    _, whole, _ = one_update(images.reshape(1, 16, 6), classes.reshape(1, 16), ranked)
    assert max(np.abs(a - b).max() for a, b in zip(halves, whole, strict=True)) > 1e-4


def test_whole_graph_of_a_two_head_run_with_weight_decay(tiny):
    """STL-D02: the switch adds the backbone's terms and never W's; without it test_runs sees none of them."""
    from triplet_tf import nets
    from triplet_tf.data_sampling.image_lists import open_lists

    config = config_of(
        *"--db_name csv:tiny --net mobile --batch_size 4 --Triplet_K 2 --aug_style img --frame_size 16".split(),
        *"--resize_sides 16,16 --train_mode hard --weight_decay on --emb_dim 8".split(),
        "--datasets_dir",
        str(tiny),
    )
    with tf1.Graph().as_default() as graph, tf1.Session() as session:
        tf1.set_random_seed(0)
        built = model.build(config, open_lists(config))
        session.run(tf1.global_variables_initializer())
        built.batches.start(session, 0)
        scalars, terms = session.run([built.scalars, nets.weight_decay_terms("mobile")])
        names = {v.op.name for v in graph.get_collection(tf1.GraphKeys.GLOBAL_VARIABLES)}
        assert model.count_parameters() == 3_309_476 - (1024 * 100 + 100) + (1024 * 5 + 5) + 1024 * 8 + 8
    assert scalars["loss"] == pytest.approx(scalars["cross_entropy"] + scalars["metric_loss"] + sum(terms), rel=1e-5)
    assert sum(terms) > 0.01 and "W" in names
    assert {"W", "b", "passes", "global_step"} <= names and "centers" not in names
    assert {
        "cross_entropy",
        "batch_accuracy",
        "metric_loss",
        "positive_distance",
        "negative_distance",
        "active_triplets",
        "loss",
    } == set(scalars)
