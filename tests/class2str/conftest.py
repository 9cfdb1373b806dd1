"""Every test of this folder that builds a graph gets one of its own, with a seed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def graph() -> Iterator[None]:
    """A fresh TensorFlow graph with a global step."""
    from class2str_tf.method.layers import tf1

    with tf1.Graph().as_default():
        tf1.set_random_seed(0)
        tf1.train.get_or_create_global_step()
        yield


@pytest.fixture
def config() -> dict:
    """Architecture flags of stage 1 as the scripts resolve them."""
    return {
        "model": "vgg16", "F": 64, "features": "paper512", "lenet": "released", "lenet_relu": False,
        "pixels": "raw", "seed": 0,
    }  # fmt: skip
