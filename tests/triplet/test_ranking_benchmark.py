"""The benchmark compares like with like: its straightforward formulations give the same values and gradients."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import triplet
from reproduction.runtime.tf import tf, tf1
from triplet_tf import ranking


def test_row_by_row_mining_is_the_same_loss():
    rng = np.random.default_rng(0)
    e = rng.normal(size=(12, 5))
    with tf1.Graph().as_default(), tf1.Session() as session:
        labels, x = tf.constant(np.arange(12) // 3), tf.constant(e)
        losses = [triplet.row_by_row_hard(labels, x, 0.2), ranking.batch_hard_loss(labels, x, 0.2)]
        (a, slope), (b, ours) = session.run([(loss, tf1.gradients(loss, x)[0]) for loss in losses])
    assert a == pytest.approx(b, rel=1e-12)
    np.testing.assert_allclose(slope, ours, atol=1e-12)


def test_each_mode_goes_first_as_often_as_last(monkeypatch):
    ran = []

    class Session:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def run(self, mode):
            ran.append(mode)
            return 1.0

    monkeypatch.setattr(triplet, "started", lambda device: None)
    monkeypatch.setattr(triplet, "train_ops", lambda *_: {mode: mode for mode in triplet.MODES})
    monkeypatch.setattr(triplet.tf_runtime, "session", lambda config: Session())
    assert len(triplet.overhead("cpu", small=True)[0].ratios) == 6
    steps = [tuple(ran[i : i + 4]) for i in range(4, len(ran), 4)]  # the first step warms up
    assert steps[:2] in ([triplet.MODES, triplet.MODES[::-1]], [triplet.MODES[::-1], triplet.MODES])
    assert steps == steps[:2] * 3
