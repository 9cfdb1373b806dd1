"""The second head and the centers start as released; backbones: test_nets.py and test_nets_densenet.py."""

from __future__ import annotations

from reproduction.runtime.tf import tf, tf1
from tests.initial_values import Initial, check, glorot
from triplet_tf import nets
from triplet_tf.ranking import center


def test_head_and_centers():
    with tf1.Graph().as_default(), tf1.Session() as session:
        tf1.set_random_seed(3)
        nets.embedding_head(tf.zeros([1, 7, 7, 64]), 32)
        centers = center.new_centers(100, 64)
        session.run(tf1.global_variables_initializer())
        values = session.run({v.op.name: v for v in tf1.global_variables()})
    check("W", values["W"], glorot(7 * 7 * 64, 32))
    check("b", values["b"], Initial("constant", 0.0))
    check("centers", values[centers.op.name], Initial("normal", 1.0))
