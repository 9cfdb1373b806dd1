"""Semi-hard in O(B^2) memory equals tf-slim's; no loss builds anything larger than a few B x B matrices."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from reproduction.runtime.tf import slim, tf, tf1
from triplet_tf import ranking
from triplet_tf.ranking.semi_hard import SLIM_LIMIT, semi_hard_loss, sorted_semi_hard_loss

BATCH, WIDTH = 1024, 256


@functools.cache
def built(margin: float) -> tuple:
    """A session with tf-slim's loss and ours, each with its gradient."""
    with tf1.Graph().as_default():
        y, x = tf1.placeholder(tf.int64, [None]), tf1.placeholder(tf.float32, [None, None])
        values = [slim.losses.metric_learning.triplet_semihard_loss(y, x, margin), sorted_semi_hard_loss(y, x, margin)]
        return tf1.Session(), y, x, [(value, tf.convert_to_tensor(tf1.gradients(value, x)[0])) for value in values]


def both(labels: np.ndarray, e: np.ndarray, margin: float) -> list:
    """Value and gradient of tf-slim's loss and of ours, float32."""
    session, y, x, wanted = built(margin)
    return session.run(wanted, {y: labels, x: e})


@pytest.mark.parametrize("seed", range(6))
def test_sorted_semi_hard_equals_slim(seed):
    rng = np.random.default_rng(seed)
    classes, k = [(8, 4), (3, 7), (12, 2), (1, 6), (2, 16), (5, 5)][seed]
    labels = rng.permutation(np.repeat(rng.choice(100, classes, replace=False), k))
    e = rng.normal(size=(len(labels), 6)) + (0.0, 2.0, 0.5)[seed % 3] * labels[:, None] / 100
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    for margin in (0.0, 0.2, 1.0):
        (value, gradient), (ours, our_gradient) = both(labels, e, margin)
        assert ours == pytest.approx(value, rel=2e-6, abs=1e-6)
        np.testing.assert_allclose(our_gradient, gradient, atol=2e-6)


def farthest_is_shared_by_a_positive(labels: np.ndarray, e: np.ndarray) -> bool:
    """The one case where tf-slim lets a positive have part of a negative's gradient (see `sorted_semi_hard_loss`)."""
    d = ((e[:, None] - e[None]) ** 2).sum(2)
    same = labels[:, None] == labels[None]
    farthest = d == d.max(1, keepdims=True)
    return bool(((farthest & same).any(1) & (farthest & ~same).any(1)).any())


def test_sorted_semi_hard_equals_slim_on_exact_ties():
    compared = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        labels = rng.permutation(np.repeat(np.arange(3), 3))
        e = rng.integers(-2, 3, (9, 2)).astype(float)  # exact in float32: many distances are equal
        (value, gradient), (ours, our_gradient) = both(labels, e, 0.25)
        assert ours == pytest.approx(value, rel=1e-6, abs=1e-7), seed
        if not farthest_is_shared_by_a_positive(labels, e):
            compared += 1
            np.testing.assert_allclose(our_gradient, gradient, atol=1e-5, err_msg=str(seed))
    assert compared >= 10


def test_the_limit_decides_who_computes_and_nothing_else():
    rng = np.random.default_rng(0)
    e, labels = rng.normal(size=(16, 4)).astype(np.float32), np.repeat(np.arange(4), 4)
    values = {}
    for limit in (15, 16):
        with tf1.Graph().as_default() as graph, tf1.Session() as session:
            loss = semi_hard_loss(tf.constant(labels), tf.constant(e), 0.2, limit)
            uses_slim = any(op.type in ("If", "StatelessIf", "Switch") for op in graph.get_operations())
            assert uses_slim == (limit == 16)
            values[limit] = session.run(loss)
    assert values[15] == pytest.approx(values[16], rel=1e-6)
    assert SLIM_LIMIT >= 32  # the paper's batch goes through the library function, as released


LOSSES = {
    "semi_hard": lambda y, e: ranking.semi_hard_loss(y, e, 0.2),
    "hard": lambda y, e: ranking.batch_hard_loss(y, e, 0.2),
    "soft": lambda y, e: ranking.batch_hard_loss(y, e, "soft"),
    "none": lambda y, e: ranking.batch_hard_loss(y, e, "none"),
    "awtl": lambda y, e: ranking.adaptive_weight_loss(y, e, 0.2),
    "statistics": lambda y, e: tf.add_n(list(ranking.batch_statistics(y, e, 0.2).values())),
}


@pytest.mark.parametrize("name", LOSSES)
def test_no_tensor_is_larger_than_a_matrix_of_the_batch(name):
    """Value and gradient at batch 1024, dimension 256, by the shapes in the graph; nothing is computed."""
    with tf1.Graph().as_default() as graph:
        e = tf1.placeholder(tf.float32, [BATCH, WIDTH])
        loss = LOSSES[name](tf1.placeholder(tf.int64, [BATCH]), e)
        if name != "statistics":
            assert tf1.gradients(loss, e)[0] is not None
        matrices = 0
        for op in graph.get_operations():
            assert op.type not in ("If", "StatelessIf", "While", "StatelessWhile", "Switch"), op.name
            for tensor in op.outputs:
                assert tensor.shape.ndims is not None, tensor
                if tensor.shape.ndims > 2:
                    assert tensor.shape.num_elements() <= 2 * BATCH * BATCH, tensor
                known = [side for side in tensor.shape.as_list() if side is not None]
                assert np.prod(known, dtype=np.int64) <= 2 * BATCH * BATCH, tensor
                matrices += tensor.shape.as_list() == [BATCH, BATCH]
        assert matrices > 3  # the shapes were known, so the bound means something


def test_center_loss_is_linear_in_the_batch():
    with tf1.Graph().as_default() as graph:
        e = tf1.placeholder(tf.float32, [BATCH, WIDTH])
        labels = tf1.placeholder(tf.int64, [BATCH])
        centers = ranking.new_centers(100, WIDTH)
        ranking.center_update(labels, e, centers)
        tf1.gradients(ranking.center_loss(labels, e, centers), e)
        sizes = [tensor.shape.num_elements() or 0 for op in graph.get_operations() for tensor in op.outputs]
        assert max(sizes) == BATCH * WIDTH
