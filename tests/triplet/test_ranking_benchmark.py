"""The benchmark compares like with like: its straightforward formulations give the same values and gradients."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import triplet
from triplet_tf import ranking
from triplet_tf.ranking.distances import tf, tf1


def test_row_by_row_mining_is_the_same_loss():
    rng = np.random.default_rng(0)
    e = rng.normal(size=(12, 5))
    with tf1.Graph().as_default(), tf1.Session() as session:
        labels, x = tf.constant(np.arange(12) // 3), tf.constant(e)
        losses = [triplet.row_by_row_hard(labels, x, 0.2), ranking.batch_hard_loss(labels, x, 0.2)]
        (a, slope), (b, ours) = session.run([(loss, tf1.gradients(loss, x)[0]) for loss in losses])
    assert a == pytest.approx(b, rel=1e-12)
    np.testing.assert_allclose(slope, ours, atol=1e-12)


def test_interval_of_a_median_covers_it():
    rng = np.random.default_rng(1)
    assert triplet.median_interval([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    inside = 0
    for _ in range(400):
        middle, low, high = triplet.median_interval(rng.exponential(size=30))
        assert low <= middle <= high
        inside += low <= np.log(2) <= high
    assert 0.92 <= inside / 400 <= 0.99
