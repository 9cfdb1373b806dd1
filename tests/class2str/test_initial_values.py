"""Every variable starts as in the authors' lib.py, the LSTMs as in TF1's LSTMCell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from class2str_tf.method import model
from class2str_tf.networks import build as networks
from class2str_tf.networks import vgg16_imagenet
from reproduction.runtime.tf import tf, tf1
from tests.initial_values import CUT, Initial, check, glorot

BY_NAME = {
    "weights": Initial("truncated", 0.1 * CUT),
    "biases": Initial("constant", 0.1),
    "bias": Initial("constant", 0.0),  # of an LSTM; the forget gate's +1 is added in the cell
    "beta": Initial("constant", 0.0),
    "gamma": Initial("constant", 1.0),
    "moving_mean": Initial("constant", 0.0),
    "moving_variance": Initial("constant", 1.0),
}


def check_graph() -> set[str]:
    """Draws every variable of the current graph and checks it; returns the kinds of names that were seen."""
    variables = [v for v in tf1.global_variables() if v.op.name != "global_step"]
    with tf1.Session() as session:
        session.run(tf1.variables_initializer(variables))
        values = session.run(variables)
    kinds = set()
    for variable, value in zip(variables, values, strict=True):
        kind = variable.op.name.rpartition("/")[2]
        initial = glorot(*value.shape) if kind == "kernel" else BY_NAME[kind]
        check(variable.op.name, value, initial)
        kinds.add(kind)
    return kinds


@pytest.mark.parametrize(
    ("flags", "shape"),
    [({}, (32, 32, 3)), ({"model": "lenet"}, (28, 28, 1)), ({"model": "lenet", "lenet": "poster"}, (28, 28, 1))],
)
def test_stage1(graph, config, flags, shape):
    config = replace(config, **flags)
    features = networks.cnn(tf1.placeholder(tf.uint8, [None, *shape]), config, True)
    networks.fc_classifier(features, config, 10, True)
    networks.reduced_fc(features, 12, 10)
    assert {"weights", "biases"} <= check_graph()


def test_imagenet_head(graph):
    vgg16_imagenet.classifier(tf.zeros([1, 512]), 100, 64)
    assert check_graph() == {"weights", "biases"}


def test_stage2(graph):
    model.lh_classifier(tf.zeros([2, 512]), 4, (100, 20, 100))
    model.class2str(tf.zeros([2, 10]), 4, 500)
    model.str2class(tf.zeros([2, 4, 2]), 10, 500)
    assert check_graph() == {"weights", "biases", "kernel", "bias"}
    kernel = next(v for v in tf1.global_variables() if v.op.name == "lh/lstm1/kernel")
    assert kernel.shape.as_list() == [512 + 100, 400]
    with tf1.Session() as session:
        session.run(kernel.initializer)
        assert np.abs(session.run(kernel)).max() <= np.sqrt(6 / (512 + 100 + 400))
